from pathlib import Path

from models.report.curves import samplers, save
from pipeline.jobs.job import job

with job(snakemake):
    save(samplers([Path(table) for table in snakemake.input]), Path(snakemake.output[0]))
