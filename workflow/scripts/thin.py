from pathlib import Path

from pipeline.jobs.job import job
from pipeline.thin import thin

with job(snakemake):
    thin(Path(snakemake.input[0]), Path(snakemake.output[0]), snakemake.params.dose)
