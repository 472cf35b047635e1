from pathlib import Path

from models.checkpoints import read_metadata
from models.evaluation.evaluate import evaluate
from pipeline.jobs.job import job

with job(snakemake):
    files = map(Path, snakemake.input.reconstructions)
    evaluate(
        Path(snakemake.input.shard),
        dict(zip(snakemake.params.models, files, strict=True)),
        read_metadata(Path(snakemake.input.weights)).scales,
        Path(snakemake.output[0]),
        dict(zip(snakemake.params.calibrated, map(Path, snakemake.input.factors), strict=True)),
    )
