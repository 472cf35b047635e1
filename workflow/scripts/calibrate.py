from pathlib import Path

from models.evaluation.calibrate import calibrate
from pipeline.jobs.job import job

with job(snakemake):
    calibrate(
        snakemake.wildcards.model,
        list(map(Path, snakemake.input.reconstructions)),
        list(map(Path, snakemake.input.shards)),
        Path(snakemake.output[0]),
    )
