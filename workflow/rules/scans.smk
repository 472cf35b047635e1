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
        mem_mb=memory.import_scan(config),
    params:
        scan=lambda wildcards: SCANS[wildcards.scan],
        scanner=config["scanner"],
        code=code_hash("import_scan.py"),
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
        psf_fwhm_mm=config["simulation"]["psf_fwhm_mm"],
        slices=config["slices"],
        code=code_hash("scan_osem.py"),
    script:
        "../scripts/scan_osem.py"


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
        expand(f"{RESULTS}/scans/{{scan}}/report.png", scan=SCANS),
