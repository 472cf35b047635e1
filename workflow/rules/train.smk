rule train:
    input:
        train=shards("train"),
        validation=shards("validation"),
        features=lambda wildcards: weights_of(
            config["methods"][wildcards.method].get("features")
        ),
    output:
        weights=weights_of("{method}"),
        settings=f"{RESULTS}/weights/{{method}}.yaml",
        table=f"{RESULTS}/training/{{method}}.csv",
    log:
        f"{LOGS}/train/{{method}}.log",
    benchmark:
        f"{LOGS}/train/{{method}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: workflow.cores
    resources:
        gpu=config["training"]["devices"],
        mem_mb=16000,
    params:
        # Outputs are deleted when a job fails or starts again; what training resumes from is not.
        run_dir=f"{RESULTS}/runs/{{method}}",
        settings=lambda wildcards: settings_of("train", wildcards.method),
        code=code_hash("train.py"),
    script:
        "../scripts/train.py"


rule training_curves:
    input:
        expand(f"{RESULTS}/training/{{method}}.csv", method=config["methods"]),
    output:
        report(
            f"{RESULTS}/figures/training.png",
            caption="../report/training.rst",
            category="Training",
            labels={"result": "Training curves"},
        ),
    log:
        f"{LOGS}/training_curves.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        methods=list(config["methods"]),
        code=code_hash("training_curves.py"),
    script:
        "../scripts/training_curves.py"
