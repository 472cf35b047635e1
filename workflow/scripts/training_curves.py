from pathlib import Path

from models.figures import training_curves
from pipeline.job import job

with job(snakemake):
    tables = map(Path, snakemake.input)
    training_curves(
        dict(zip(snakemake.params.methods, tables, strict=True)), Path(snakemake.output[0])
    )
