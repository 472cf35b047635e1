from pathlib import Path

from models.report.classical import classical
from models.report.drawing import save
from pipeline.jobs.job import job

with job(snakemake):
    save(classical(Path(snakemake.input[0])), Path(snakemake.output[0]))
