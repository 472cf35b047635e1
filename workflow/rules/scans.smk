rule import_scan:
    input:
        lambda wildcards: scan_files(wildcards.scan),
    output:
        f"{DATA}/scans/{{scan}}.h5",
    log:
        f"{LOGS}/import_scan/{{scan}}.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, input: memory.import_scan(config, input.size_files),
    params:
        scan=lambda wildcards: {
            key: value
            for key, value in SCANS[wildcards.scan].items()
            if key != "images"
        },
        scanner=config["scanner"],
        code=lambda wildcards: code_hash(
            "import_scan.py", *scan_readers(wildcards.scan)
        ),
    script:
        "../scripts/import_scan.py"


rule scan_osem:
    input:
        f"{DATA}/scans/{{scan}}.h5",
    output:
        image=f"{RESULTS}/scans/{{scan}}/osem.h5",
        nifti=f"{RESULTS}/scans/{{scan}}/osem.nii",
    log:
        f"{LOGS}/scan_osem/{{scan}}.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.scan_images(config),
    params:
        osem=config["osem"],
        filter_mm=0.0,
        psf_fwhm_mm=config["simulation"]["psf_fwhm_mm"],
        slices=config["slices"],
        code=code_hash("scan_osem.py"),
    script:
        "../scripts/scan_osem.py"


use rule scan_osem as scan_osem_input with:
    output:
        image=f"{RESULTS}/scans/{{scan}}/osem_input.h5",
        nifti=f"{RESULTS}/scans/{{scan}}/osem_input.nii",
    log:
        f"{LOGS}/scan_osem_input/{{scan}}.log",
    params:
        osem=config["osem"] | {"iterations": config["osem_input"]["iterations"]},
        filter_mm=config["osem_input"]["filter_mm"],
        psf_fwhm_mm=config["simulation"]["psf_fwhm_mm"],
        slices=config["slices"],
        code=code_hash("scan_osem.py"),


rule scan_fbp:
    input:
        f"{DATA}/scans/{{scan}}.h5",
    output:
        image=f"{RESULTS}/scans/{{scan}}/fbp.h5",
        nifti=f"{RESULTS}/scans/{{scan}}/fbp.nii",
    log:
        f"{LOGS}/scan_fbp/{{scan}}.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.scan_images(config),
    params:
        fbp=config["fbp"],
        slices=config["slices"],
        code=code_hash("scan_fbp.py"),
    script:
        "../scripts/scan_fbp.py"


rule scan_reconstruct:
    input:
        weights=lambda wildcards: weights_of(wildcards.model),
        frozen=frozen_weights,
        scan=f"{DATA}/scans/{{scan}}.h5",
        fbp=f"{RESULTS}/scans/{{scan}}/fbp.h5",
        osem_input=scan_osem_input_of,
    output:
        image=f"{RESULTS}/scans/{{scan}}/{{model}}.h5",
        nifti=f"{RESULTS}/scans/{{scan}}/{{model}}.nii",
    log:
        f"{LOGS}/scan_reconstruct/{{scan}}_{{model}}.log",
    wildcard_constraints:
        model=any_of(name for name in MODELS if not several_samples(name)),
    conda:
        "../envs/legopet.yaml"
    threads: job_threads()
    resources:
        gpu=gpus(1),
        mem_mb=lambda wildcards: model_memory.scan_reconstruct(
            config, MODELS[wildcards.model]
        ),
    params:
        settings=lambda wildcards: deciding(
            MODELS[wildcards.model], config, "network", "sampling"
        ),
        precision=config["training"]["precision"],
        psf_fwhm_mm=lambda wildcards: (
            config["simulation"]["psf_fwhm_mm"]
            if with_counts(wildcards.model)
            else 0.0
        ),
        code=lambda wildcards: code_of("scan_reconstruct.py", wildcards.model),
    script:
        "../scripts/scan_reconstruct.py"


use rule scan_reconstruct as scan_samples with:
    output:
        image=f"{RESULTS}/scans/{{scan}}/{{model}}.h5",
        nifti=f"{RESULTS}/scans/{{scan}}/{{model}}.nii",
        std=f"{RESULTS}/scans/{{scan}}/{{model}}.std.nii",
    wildcard_constraints:
        model=any_of(name for name in MODELS if several_samples(name)),


rule scan_report:
    input:
        scan=f"{DATA}/scans/{{scan}}.h5",
        images=scan_images,
    output:
        f"{RESULTS}/scans/{{scan}}/report.png",
    log:
        f"{LOGS}/scan_report/{{scan}}.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=memory.scan_images(config),
    params:
        code=code_hash("scan_report.py"),
    script:
        "../scripts/scan_report.py"


rule scans:
    input:
        scan_reports,
