from pathlib import Path

from models.report.curves import calibration
from models.report.drawing import save
from pipeline.jobs.job import job

with job(snakemake):
    save(calibration(Path(snakemake.input[0]), snakemake.params.dose), Path(snakemake.output[0]))
