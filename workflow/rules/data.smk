rule fetch:
    output:
        f"{FETCHED}/{{subject}}.h5",
    log:
        f"{LOGS}/fetch/{{subject}}.log",
    benchmark:
        f"{LOGS}/fetch/{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.fetch(config),
    params:
        source=config["source"],
        # Some are drawn; others are what they are.
        decided_by={key: config[key] for key in SOURCE.decided_by},
        # Its own alone: another line in the table is no reason to fetch this subject again.
        sha256=lambda wildcards: SUBJECTS[wildcards.subject].labels_sha256,
        code=code_hash("fetch.py", SOURCES[config["source"]]),
    script:
        "../scripts/fetch.py"


rule phantom:
    input:
        f"{FETCHED}/{{subject}}.h5",
    output:
        f"{DATA}/phantoms/{{subject}}.h5",
    log:
        f"{LOGS}/phantom/{{subject}}.log",
    benchmark:
        f"{LOGS}/phantom/{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.phantom(config),
    params:
        seed=config["seed"],
        texture=config["texture"],
        gives=SOURCE.gives,
        code=code_hash("phantom.py"),
    script:
        "../scripts/phantom.py"


rule slices:
    input:
        f"{DATA}/phantoms/{{subject}}.h5",
    output:
        f"{DATA}/slices/{{subject}}.h5",
    log:
        f"{LOGS}/slices/{{subject}}.log",
    benchmark:
        f"{LOGS}/slices/{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.slices(config),
    params:
        seed=config["seed"],
        slices=config["slices"],
        oversampling=config["simulation"]["oversampling"],
        field_of_view_mm=field_of_view_mm(
            scanner_from(config["scanner"]), grid_from(config)
        ),
        lesions=lambda wildcards: spheres_of(wildcards.subject),
        code=code_hash("slices.py"),
    script:
        "../scripts/slices.py"


rule system_matrix:
    output:
        f"{DATA}/system_matrix/{{grid}}.h5",
    log:
        f"{LOGS}/system_matrix/{{grid}}.log",
    benchmark:
        f"{LOGS}/system_matrix/{{grid}}.tsv"
    wildcard_constraints:
        grid="reconstruction|simulation",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards: memory.system_matrix(config, finer(wildcards.grid)),
    params:
        scanner=config["scanner"],
        slices=config["slices"],
        oversampling=lambda wildcards: finer(wildcards.grid),
        subsets=lambda wildcards: (
            config["osem"]["subsets"] if wildcards.grid == "reconstruction" else 1
        ),
        code=code_hash("system_matrix.py"),
    script:
        "../scripts/system_matrix.py"


rule sinogram:
    input:
        slices=f"{DATA}/slices/{{subject}}.h5",
        # Its subsets change no line integral; whatever else decides it is among the parameters.
        matrix=ancient(system_matrix(simulation_grid())),
    output:
        f"{DATA}/sinograms/{{subject}}.h5",
    log:
        f"{LOGS}/sinogram/{{subject}}.log",
    benchmark:
        f"{LOGS}/sinogram/{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.sinogram(config, PROJECTOR),
    params:
        scanner=config["scanner"],
        slices=config["slices"],
        simulation=simulated(config),
        projector=PROJECTOR,
        code=code_hash("sinogram.py"),
        matrix_code=code_hash("system_matrix.py"),
    script:
        "../scripts/sinogram.py"


rule thin:
    input:
        f"{DATA}/sinograms/{{subject}}.h5",
    output:
        f"{DATA}/sinograms/{{lower}}{{subject}}.h5",
    log:
        f"{LOGS}/thin/{{lower}}{{subject}}.log",
    benchmark:
        f"{LOGS}/thin/{{lower}}{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.thin(config),
    params:
        dose=lambda wildcards: DOSES[wildcards.lower],
        code=code_hash("thin.py"),
    script:
        "../scripts/thin.py"


rule osem:
    input:
        sinogram=f"{DATA}/sinograms/{{set}}{{subject}}.h5",
        matrix=system_matrix("reconstruction"),
    output:
        f"{DATA}/osem/{{set}}{{subject}}.h5",
    log:
        f"{LOGS}/osem/{{set}}{{subject}}.log",
    benchmark:
        f"{LOGS}/osem/{{set}}{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.osem(config, PROJECTOR),
    params:
        scanner=config["scanner"],
        slices=config["slices"],
        simulation=simulated(config),
        osem=config["osem"],
        projector=PROJECTOR,
        code=code_hash("osem.py"),
    script:
        "../scripts/osem.py"


rule osem_input:
    input:
        sinogram=f"{DATA}/sinograms/{{of}}{{subject}}.h5",
        matrix=system_matrix("reconstruction"),
    output:
        f"{DATA}/osem_input/{{of}}{{subject}}.h5",
    log:
        f"{LOGS}/osem_input/{{of}}{{subject}}.log",
    benchmark:
        f"{LOGS}/osem_input/{{of}}{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.osem(config, PROJECTOR),
    params:
        scanner=config["scanner"],
        slices=config["slices"],
        simulation=simulated(config),
        osem=config["osem"] | {"iterations": config["osem_input"]["iterations"]},
        filter_mm=config["osem_input"]["filter_mm"],
        projector=PROJECTOR,
        code=code_hash("osem.py"),
    script:
        "../scripts/osem.py"


rule fbp:
    input:
        f"{DATA}/sinograms/{{of}}{{subject}}.h5",
    output:
        f"{DATA}/fbp/{{of}}{{subject}}.h5",
    log:
        f"{LOGS}/fbp/{{of}}{{subject}}.log",
    benchmark:
        f"{LOGS}/fbp/{{of}}{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.fbp(config),
    params:
        scanner=config["scanner"],
        slices=config["slices"],
        fbp=config["fbp"],
        code=code_hash("fbp.py"),
    script:
        "../scripts/fbp.py"


rule shard:
    input:
        slices=lambda wildcards: f"{DATA}/slices/{set_of(wildcards.of)}{wildcards.subject}.h5",
        sinogram=f"{DATA}/sinograms/{{of}}{{subject}}.h5",
        osem=lambda wildcards: f"{DATA}/osem/{set_of(wildcards.of)}{wildcards.subject}.h5",
        fbp=f"{DATA}/fbp/{{of}}{{subject}}.h5",
        osem_input=osem_input,
    output:
        f"{DATA}/shards/{{of}}{{subject}}.h5",
    log:
        f"{LOGS}/shard/{{of}}{{subject}}.log",
    benchmark:
        f"{LOGS}/shard/{{of}}{{subject}}.tsv"
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.shard(config),
    params:
        split=lambda wildcards: SUBJECTS[wildcards.subject].split,
        code=code_hash("shard.py"),
    script:
        "../scripts/shard.py"


rule preview:
    input:
        f"{DATA}/{{stage}}/{{of}}{{subject}}.h5",
    output:
        report(
            f"{RESULTS}/previews/{{of}}{{stage}}_{{subject}}.png",
            caption="../report/preview.rst",
            category="Data",
            labels={"file": "{stage}", "subject": "{of}{subject}"},
        ),
    log:
        f"{LOGS}/preview/{{of}}{{stage}}_{{subject}}.log",
    wildcard_constraints:
        stage="phantoms|slices|sinograms|osem|osem_input|fbp|shards",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.preview(config),
    params:
        code=code_hash("preview.py"),
    script:
        "../scripts/preview.py"


rule shards:
    input:
        shards("train", "validation", "test"),
