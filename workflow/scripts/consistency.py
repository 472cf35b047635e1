from pathlib import Path

from models.report.drawing import save
from models.report.sweeps import consistency
from pipeline.jobs.job import job

with job(snakemake):
    save(
        consistency([Path(table) for table in snakemake.input], snakemake.params.reference),
        Path(snakemake.output[0]),
    )
