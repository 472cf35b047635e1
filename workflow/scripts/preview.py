from pathlib import Path

from pipeline.jobs.job import job
from pipeline.preview import contact_sheet

with job(snakemake):
    contact_sheet(Path(snakemake.input[0]), Path(snakemake.output[0]))
