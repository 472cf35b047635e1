from pathlib import Path

from models.report.curves import training_curves
from models.report.drawing import save
from pipeline.jobs.job import job

with job(snakemake):
    logs = map(Path, snakemake.input)
    figure = training_curves(
        dict(zip(snakemake.params.models, logs, strict=True)),
        snakemake.params.reference,
        snakemake.params.doses,
    )
    save(figure, Path(snakemake.output[0]))
