rule sweep:
    input:
        weights=swept_weights,
        frozen=frozen_weights,
        shards=swept_shards,
        sinograms=swept_sinograms,
        matrix=lambda wildcards: matrix_of(wildcards.model, SWEEPS[wildcards.sweep]),
    output:
        f"{RESULTS}/sweeps/{{sweep}}/{{model}}.csv",
    log:
        f"{LOGS}/sweep/{{sweep}}_{{model}}.log",
    benchmark:
        f"{LOGS}/sweep/{{sweep}}_{{model}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: job_threads()
    resources:
        gpu=gpus(1),
        mem_mb=lambda wildcards: model_memory.sweep(
            config, wildcards.sweep, MODELS[wildcards.model]
        ),
    params:
        settings=lambda wildcards: deciding(
            MODELS[wildcards.model], config, "network", "sampling"
        ),
        precision=config["training"]["precision"],
        sweep=lambda wildcards: SWEEPS[wildcards.sweep],
        consistency=lambda wildcards: consistency_of(
            wildcards.model, SWEEPS[wildcards.sweep]
        ),
        physics=lambda wildcards: physics_of(wildcards.model, SWEEPS[wildcards.sweep]),
        measured=catalogue.measured(),
        code=lambda wildcards: code_of(
            "sweep.py", wildcards.model, without=catalogue.__name__
        ),
    script:
        "../scripts/sweep.py"


rule epochs:
    input:
        sweep_tables("epochs"),
    output:
        report(
            f"{RESULTS}/figures/epochs.png",
            caption="../report/epochs.rst",
            category="Results",
            labels={"result": "Quality over epochs (as the paper's Fig. 3)"},
        ),
    log:
        f"{LOGS}/epochs.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.figures(config),
    params:
        models=SWEEPS["epochs"]["models"],
        rows=rows(SWEEPS["epochs"]["models"]),
        reference=REFERENCE,
        code=code_hash("epochs.py"),
    script:
        "../scripts/epochs.py"


rule guidance:
    input:
        sweep_tables("guidance"),
    output:
        report(
            f"{RESULTS}/figures/guidance.png",
            caption="../report/guidance.rst",
            category="Sampling",
            labels={"result": "Guidance"},
        ),
    log:
        f"{LOGS}/guidance.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.figures(config),
    params:
        reference=REFERENCE,
        code=code_hash("guidance.py"),
    script:
        "../scripts/guidance.py"


rule samplers:
    input:
        sweep_tables("samplers"),
    output:
        report(
            f"{RESULTS}/figures/samplers.png",
            caption="../report/samplers.rst",
            category="Sampling",
            labels={"result": "Samplers"},
        ),
    log:
        f"{LOGS}/samplers.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.figures(config),
    params:
        reference=REFERENCE,
        code=code_hash("samplers.py"),
    script:
        "../scripts/samplers.py"


rule consistency:
    input:
        sweep_tables("consistency"),
    output:
        report(
            f"{RESULTS}/figures/consistency.png",
            caption="../report/consistency.rst",
            category="Sampling",
            labels={"result": "Data consistency"},
        ),
    log:
        f"{LOGS}/consistency.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.figures(config),
    params:
        reference=REFERENCE,
        code=code_hash("consistency.py"),
    script:
        "../scripts/consistency.py"
