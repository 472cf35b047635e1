from pathlib import Path

from pipeline.jobs.job import job
from pipeline.scan_report import scan_report

with job(snakemake):
    images = {Path(path).stem: Path(path) for path in snakemake.input.images}
    scan_report(Path(snakemake.input.scan), images, Path(snakemake.output[0]))
