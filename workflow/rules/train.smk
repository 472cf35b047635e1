rule train:
    input:
        train=shards("train"),
        validation=shards("validation"),
        frozen=frozen_weights,
    output:
        weights=f"{RESULTS}/weights/{{model}}.safetensors",
        settings=f"{RESULTS}/weights/{{model}}.yaml",
        table=f"{RESULTS}/training/{{model}}.csv",
        checkpoints=directory(f"{RESULTS}/checkpoints/{{model}}"),
    log:
        f"{LOGS}/train/{{model}}.log",
    benchmark:
        f"{LOGS}/train/{{model}}.tsv"
    wildcard_constraints:
        model=any_of(name for name in MODELS if not MODELS[name].weights),
    priority: training_priority
    conda:
        "../envs/legopet.yaml"
    threads: job_threads()
    resources:
        gpu=gpus(config["training"]["devices"]),
        mem_mb=lambda wildcards: model_memory.train(config, MODELS[wildcards.model]),
    params:
        # Outputs are deleted when a job fails or starts again; what training resumes from is not.
        run_dir=f"{RESULTS}/runs/{{model}}",
        settings=lambda wildcards: deciding(
            MODELS[wildcards.model], config, "network", "training"
        ),
        code=lambda wildcards: code_of("train.py", wildcards.model),
    script:
        "../scripts/train.py"


rule training_curves:
    input:
        training_logs().values(),
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
        mem_mb=model_memory.figures(config),
    params:
        models=list(training_logs()),
        reference=REFERENCE,
        doses=config["simulation"]["doses"],
        code=code_hash("training_curves.py"),
    script:
        "../scripts/training_curves.py"
