from pathlib import Path

from models.plots import calibration, save
from pipeline.job import job

with job(snakemake):
    save(calibration(Path(snakemake.input[0])), Path(snakemake.output[0]))
