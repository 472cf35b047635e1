from pathlib import Path

from models.plots import samplers, save
from pipeline.job import job

with job(snakemake):
    save(samplers([Path(table) for table in snakemake.input]), Path(snakemake.output[0]))
