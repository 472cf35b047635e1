from pathlib import Path

from pipeline.import_scan import Scan, import_scan
from pipeline.jobs.job import job
from pipeline.tomography.scanners import scanner_from

with job(snakemake):
    import_scan(
        snakemake.wildcards.scan,
        Scan(**snakemake.params.scan),
        scanner_from(snakemake.params.scanner),
        Path(snakemake.output[0]),
    )
