from pathlib import Path

from models.evaluate import summarise
from pipeline.job import job

with job(snakemake):
    summarise(
        Path(snakemake.input[0]),
        Path(snakemake.output.table),
        Path(snakemake.output.markdown),
        Path(snakemake.output.html),
    )
