rule reconstruct:
    input:
        weights=weights_of("{method}"),
        features=lambda wildcards: weights_of(
            config["methods"][wildcards.method].get("features")
        ),
        shard=f"{DATA}/shards/{{subject}}.h5",
    output:
        f"{RESULTS}/reconstructions/{{method}}/{{subject}}.h5",
    log:
        f"{LOGS}/reconstruct/{{method}}_{{subject}}.log",
    benchmark:
        f"{LOGS}/reconstruct/{{method}}_{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
        mem_mb=8000,
    params:
        settings=lambda wildcards: settings_of("reconstruct", wildcards.method),
        code=code_hash("reconstruct.py"),
    script:
        "../scripts/reconstruct.py"


rule metrics:
    input:
        **reconstructions(),
        shards=shards("test"),
        weights=expand(weights_of("{method}"), method=config["methods"]),
    output:
        f"{RESULTS}/metrics.csv",
    log:
        f"{LOGS}/metrics.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        methods=list(config["methods"]),
        code=code_hash("metrics.py"),
    script:
        "../scripts/metrics.py"


rule summary:
    input:
        f"{RESULTS}/metrics.csv",
    output:
        table=f"{RESULTS}/summary.csv",
        markdown=f"{RESULTS}/summary.md",
        html=report(
            f"{RESULTS}/summary.html",
            caption="../report/summary.rst",
            category="Results",
            labels={"result": "Mean metrics on the test slices"},
        ),
    log:
        f"{LOGS}/summary.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_hash("summary.py"),
    script:
        "../scripts/summary.py"


rule panel:
    input:
        **reconstructions(),
        shards=shards("test"),
        weights=expand(weights_of("{method}"), method=config["methods"]),
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
        mem_mb=2000,
    params:
        methods=list(config["methods"]),
        positions=config["evaluation"]["figure_positions"],
        code=code_hash("panel.py"),
    script:
        "../scripts/panel.py"
