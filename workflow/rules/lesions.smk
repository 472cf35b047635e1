rule lesions:
    input:
        f"{DATA}/slices/{{subject}}.h5",
    output:
        f"{DATA}/slices/{LESIONS}{{subject}}.h5",
    log:
        f"{LOGS}/lesions/{{subject}}.log",
    benchmark:
        f"{LOGS}/lesions/{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.lesions(config),
    params:
        lesions=spheres(),
        draws=config["lesions"]["draws"],
        code=code_hash("lesions.py"),
    script:
        "../scripts/lesions.py"


rule lesion_sinogram:
    input:
        slices=f"{DATA}/slices/{LESIONS}{{subject}}.h5",
        sinogram=f"{DATA}/sinograms/{{subject}}.h5",
        matrix=ancient(system_matrix(simulation_grid())),
    output:
        f"{DATA}/sinograms/{LESIONS}{{dose}}{{subject}}.h5",
    log:
        f"{LOGS}/lesion_sinogram/{{dose}}{{subject}}.log",
    benchmark:
        f"{LOGS}/lesion_sinogram/{{dose}}{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.lesion_sinogram(config, PROJECTOR),
    params:
        # All else that decides it decides the sinograms, too.
        scanner=config["scanner"],
        slices=config["slices"],
        simulation=simulated(config),
        dose=lambda wildcards: ALL_DOSES[wildcards.dose],
        projector=PROJECTOR,
        code=code_hash("lesion_sinogram.py"),
    script:
        "../scripts/lesion_sinogram.py"


rule lesion_metrics:
    input:
        reconstructions=lesion_reconstructions("{dose}"),
        shards=lesion_files("shards", "{dose}"),
        slices=lesion_files("slices"),
        weights=weights_of(EVALUATED[0]),
    output:
        f"{RESULTS}/metrics/{{dose}}lesions.csv.gz",
    log:
        f"{LOGS}/lesion_metrics/{{dose}}lesions.log",
    benchmark:
        f"{LOGS}/lesion_metrics/{{dose}}lesions.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.lesion_metrics(config, len(of_split("test"))),
    params:
        models=COMPARED,
        smallest_mm=config["lesions"]["diameter_mm"][0],
        code=code_hash("lesion_metrics.py"),
    script:
        "../scripts/lesion_metrics.py"


rule lesion_curve:
    input:
        sinogram=f"{DATA}/sinograms/{LESIONS}{{dose}}{{subject}}.h5",
        shard=f"{DATA}/shards/{LESIONS}{{dose}}{{subject}}.h5",
        slices=f"{DATA}/slices/{LESIONS}{{subject}}.h5",
        settings=classical_settings("{dose}"),
        matrix=system_matrix("reconstruction"),
    output:
        f"{RESULTS}/lesion_curves/{{dose}}{{classical}}_{{subject}}.csv",
    log:
        f"{LOGS}/lesion_curve/{{dose}}{{classical}}_{{subject}}.log",
    benchmark:
        f"{LOGS}/lesion_curve/{{dose}}{{classical}}_{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.lesion_curve(config, PROJECTOR),
    params:
        scanner=config["scanner"],
        slices=config["slices"],
        simulation=simulated(config),
        subsets=config["osem"]["subsets"],
        projector=PROJECTOR,
        code=code_hash("lesion_curve.py"),
    script:
        "../scripts/lesion_curve.py"


rule lesion_table:
    input:
        lesion_metrics(),
    output:
        csv=f"{RESULTS}/lesions.csv",
        markdown=f"{RESULTS}/lesions.md",
        html=report(
            f"{RESULTS}/lesions.html",
            caption="../report/lesion_table.rst",
            category="Lesions",
            labels={"result": "Contrast recovery, detection, false structure"},
        ),
    log:
        f"{LOGS}/lesion_table.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.tables(config),
    params:
        rows=rows(EVALUATED),
        code=code_hash("lesion_table.py"),
    script:
        "../scripts/lesion_table.py"


rule lesion_figure:
    input:
        metrics=f"{RESULTS}/metrics/{SHOWN}lesions.csv.gz",
        curves=lesion_curves(),
    output:
        report(
            f"{RESULTS}/figures/lesions.png",
            caption="../report/lesions.rst",
            category="Lesions",
            labels={"result": "Contrast recovery over noise"},
        ),
    log:
        f"{LOGS}/lesion_figure.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.tables(config),
    params:
        rows=rows(EVALUATED),
        classical=list(RECONSTRUCTED),
        code=code_hash("lesion_figure.py"),
    script:
        "../scripts/lesion_figure.py"
