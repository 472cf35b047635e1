from pathlib import Path

from models.report.curves import regional_bias
from models.report.drawing import save
from pipeline.jobs.job import job

with job(snakemake):
    figure = regional_bias(Path(snakemake.input[0]), snakemake.params.models, snakemake.params.dose)
    save(figure, Path(snakemake.output[0]))
