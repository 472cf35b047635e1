from pathlib import Path

from models.evaluation.metrics_table import join_tables
from pipeline.jobs.job import job

with job(snakemake):
    join_tables(map(Path, snakemake.input), Path(snakemake.output[0]))
