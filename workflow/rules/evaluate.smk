rule reconstruct:
    input:
        weights=lambda wildcards: weights_of(wildcards.model),
        frozen=frozen_weights,
        shard=f"{DATA}/shards/{{of}}{{subject}}.h5",
        sinogram=sinogram_of,
        matrix=lambda wildcards: matrix_of(wildcards.model),
    output:
        f"{RESULTS}/reconstructions/{{model}}/{{of}}{{subject}}.h5",
    log:
        f"{LOGS}/reconstruct/{{of}}{{model}}_{{subject}}.log",
    benchmark:
        f"{LOGS}/reconstruct/{{of}}{{model}}_{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: job_threads()
    resources:
        gpu=gpus(1),
        mem_mb=lambda wildcards: model_memory.reconstruct(
            config, MODELS[wildcards.model]
        ),
    params:
        settings=lambda wildcards: deciding(
            MODELS[wildcards.model], config, "network", "sampling"
        ),
        precision=config["training"]["precision"],
        physics=lambda wildcards: physics_of(wildcards.model),
        code=lambda wildcards: code_of("reconstruct.py", wildcards.model),
    script:
        "../scripts/reconstruct.py"


rule calibrate:
    input:
        reconstructions=lambda wildcards: reconstructions(
            [wildcards.model], calibrating(), [wildcards.of]
        ),
        shards=lambda wildcards: expand(
            f"{DATA}/shards/{wildcards.of}{{subject}}.h5", subject=calibrating()
        ),
    output:
        f"{RESULTS}/calibration/{{of}}{{model}}.json",
    log:
        f"{LOGS}/calibrate/{{of}}{{model}}.log",
    benchmark:
        f"{LOGS}/calibrate/{{of}}{{model}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.calibrate(config),
    params:
        references=catalogue.REFERENCES,
        code=code_hash("calibrate.py", without=catalogue.__name__),
    script:
        "../scripts/calibrate.py"


rule metrics:
    input:
        reconstructions=reconstructions(COMPARED, ["{subject}"], ["{of}"]),
        shard=f"{DATA}/shards/{{of}}{{subject}}.h5",
        weights=weights_of(EVALUATED[0]),
        factors=factors_of(calibrated(), ["{of}"]),
    output:
        f"{RESULTS}/metrics/{{of}}{{subject}}.csv.gz",
    log:
        f"{LOGS}/metrics/{{of}}{{subject}}.log",
    benchmark:
        f"{LOGS}/metrics/{{of}}{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.metrics(config),
    params:
        models=COMPARED,
        calibrated=calibrated(),
        measured=catalogue.measured(),
        code=code_hash("metrics.py", without=catalogue.__name__),
    script:
        "../scripts/metrics.py"


rule join_metrics:
    input:
        metrics_of("test"),
    output:
        f"{RESULTS}/metrics.csv.gz",
    log:
        f"{LOGS}/join_metrics.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.join_metrics(config),
    params:
        code=code_hash("join_metrics.py"),
    script:
        "../scripts/join_metrics.py"


rule table1:
    input:
        metrics=f"{RESULTS}/metrics.csv.gz",
        records=[record_of(model) for model in EVALUATED],
    output:
        csv=f"{RESULTS}/table1.csv",
        differences=f"{RESULTS}/differences.csv",
        markdown=f"{RESULTS}/table1.md",
        latex=f"{RESULTS}/table1.tex",
        html=report(
            f"{RESULTS}/table1.html",
            caption="../report/table1.rst",
            category="Results",
            labels={"result": "Table 1"},
        ),
    log:
        f"{LOGS}/table1.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.tables(config),
    params:
        models=EVALUATED,
        rows=rows(EVALUATED),
        other_networks=[
            name
            for name in rows(EVALUATED)
            if MODELS[name].settings.get("regression_image")
        ],
        doses=list(DOSES.values()),
        reference=REFERENCE,
        code=code_hash("table1.py"),
    script:
        "../scripts/table1.py"


rule panel:
    input:
        reconstructions=reconstructions([*RECONSTRUCTED, *rows(EVALUATED)], shown()),
        shards=expand(f"{DATA}/shards/{SHOWN}{{subject}}.h5", subject=shown()),
        weights=[weights_of(model) for model in rows(EVALUATED)],
    output:
        report(
            f"{RESULTS}/figures/panel.png",
            caption="../report/panel.rst",
            category="Results",
            labels={"result": "Test slices (as the paper's Fig. 2)"},
        ),
    log:
        f"{LOGS}/panel.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.images(config),
    params:
        models=[*RECONSTRUCTED, *rows(EVALUATED)],
        positions=config["evaluation"]["figure_positions"],
        reference=REFERENCE,
        code=code_hash("panel.py"),
    script:
        "../scripts/panel.py"


rule regional_bias:
    input:
        f"{RESULTS}/metrics.csv.gz",
    output:
        report(
            f"{RESULTS}/figures/regional_bias.png",
            caption="../report/regional_bias.rst",
            category="Results",
            labels={"result": "Regional bias"},
        ),
    log:
        f"{LOGS}/regional_bias.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.tables(config),
    params:
        models=[*RECONSTRUCTED, *rows(EVALUATED)],
        dose=DOSES[SHOWN],
        code=code_hash("regional_bias.py"),
    script:
        "../scripts/regional_bias.py"


rule uncertainty:
    input:
        reconstructions=reconstructions(filter(None, [UNCERTAINTY]), shown()),
        shards=expand(f"{DATA}/shards/{SHOWN}{{subject}}.h5", subject=shown()),
    output:
        report(
            f"{RESULTS}/figures/uncertainty.png",
            caption="../report/uncertainty.rst",
            category="Uncertainty",
            labels={"result": "Mean, standard deviation and error"},
        ),
    log:
        f"{LOGS}/uncertainty.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.images(config),
    params:
        model=UNCERTAINTY,
        positions=config["evaluation"]["figure_positions"],
        code=code_hash("uncertainty.py"),
    script:
        "../scripts/uncertainty.py"


rule calibration:
    input:
        f"{RESULTS}/metrics.csv.gz",
    output:
        report(
            f"{RESULTS}/figures/calibration.png",
            caption="../report/calibration.rst",
            category="Uncertainty",
            labels={"result": "Calibration of the intervals"},
        ),
    log:
        f"{LOGS}/calibration.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.tables(config),
    params:
        dose=DOSES[SHOWN],
        code=code_hash("calibration.py"),
    script:
        "../scripts/calibration.py"


rule provenance:
    input:
        shards=shards("train", "validation", "test"),
        logs=training_logs().values(),
        weights=[weights_of(model) for model in training_logs()],
        settings=[record_of(model) for model in training_logs()],
        checkpoints=expand(f"{RESULTS}/checkpoints/{{model}}", model=training_logs()),
        reconstructions=[
            *reconstructions(COMPARED, of_split("test"), DOSES),
            *reconstructions(calibrated(), calibrating(), DOSES),
        ],
        factors=factors_of(calibrated(), DOSES),
        classical=[classical_settings(of) for of in DOSES],
        metrics=[f"{RESULTS}/metrics.csv.gz", *metrics_of("test")],
        tables=rules.table1.output,
        lesions=with_lesions(),
        sweeps=[table for sweep in SWEEPS for table in sweep_tables(sweep)],
        figures=expand(f"{RESULTS}/figures/{{figure}}.png", figure=figures()),
        previews=previews(),
        tour=tour("data", "images"),
    output:
        record=report(
            f"{RESULTS}/provenance.json",
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"result": "Code, versions, seeds, devices, times, hashes"},
        ),
        config=f"{RESULTS}/config.yaml",
    log:
        f"{LOGS}/provenance.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.provenance(config),
    params:
        # Not inputs: whoever has deleted them once there are shards need not make them again.
        inputs=[
            config["subjects"],
            *expand(f"{FETCHED}/{{subject}}.h5", subject=SUBJECTS),
        ],
        stages=expand(
            f"{DATA}/{{stage}}/{{subject}}.h5",
            stage=("sinograms", "osem"),
            subject=SUBJECTS,
        ),
        logs=LOGS,
        code=code_hash("provenance.py"),
    script:
        "../scripts/provenance.py"
