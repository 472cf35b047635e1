rule classical_settings:
    input:
        sinograms=expand(
            f"{DATA}/sinograms/{{{{of}}}}{{subject}}.h5",
            subject=of_split("validation"),
        ),
        shards=shards("validation", doses=["{of}"]),
        matrix=system_matrix("reconstruction"),
    output:
        classical_settings("{of}"),
    log:
        f"{LOGS}/{{of}}classical_settings.log",
    benchmark:
        f"{LOGS}/{{of}}classical_settings.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.classical(config, PROJECTOR),
    params:
        scanner=config["scanner"],
        slices=config["slices"],
        simulation=simulated(config),
        subsets=config["osem"]["subsets"],
        classical=config["classical"],
        projector=PROJECTOR,
        code=code_hash("classical_settings.py"),
    script:
        "../scripts/classical_settings.py"


rule classical:
    input:
        sinogram=f"{DATA}/sinograms/{{of}}{{subject}}.h5",
        settings=lambda wildcards: classical_settings(dose_of(wildcards.of)),
        matrix=system_matrix("reconstruction"),
    output:
        f"{RESULTS}/reconstructions/{{classical}}/{{of}}{{subject}}.h5",
    log:
        f"{LOGS}/classical/{{of}}{{classical}}_{{subject}}.log",
    benchmark:
        f"{LOGS}/classical/{{of}}{{classical}}_{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.classical(config, PROJECTOR),
    params:
        scanner=config["scanner"],
        slices=config["slices"],
        simulation=simulated(config),
        subsets=config["osem"]["subsets"],
        projector=PROJECTOR,
        code=code_hash("classical.py"),
    script:
        "../scripts/classical.py"


rule classical_curves:
    input:
        classical_settings(SHOWN),
    output:
        report(
            f"{RESULTS}/figures/classical.png",
            caption="../report/classical.rst",
            category="Results",
            labels={"result": "Settings of OSEM + filter and MAP"},
        ),
    log:
        f"{LOGS}/classical_curves.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.classical_curves(config),
    params:
        code=code_hash("classical_curves.py"),
    script:
        "../scripts/classical_curves.py"
