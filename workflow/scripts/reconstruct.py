from pathlib import Path

from models.reconstruct import reconstruct
from pipeline.jobs.job import job

with job(snakemake):
    reconstruct(
        Path(snakemake.input.weights),
        Path(snakemake.input.shard),
        Path(snakemake.output[0]),
        snakemake.params.settings,
        features=Path(snakemake.input.features) if snakemake.input.features else None,
        threads=snakemake.threads,
    )
