from pathlib import Path

from models.plots import guidance, save
from pipeline.job import job

with job(snakemake):
    save(guidance([Path(table) for table in snakemake.input]), Path(snakemake.output[0]))
