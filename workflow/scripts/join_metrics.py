from pathlib import Path

from models.measurements import join_tables
from pipeline.job import job

with job(snakemake):
    join_tables(map(Path, snakemake.input), Path(snakemake.output[0]))
