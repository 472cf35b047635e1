from pathlib import Path

from models.reconstruct import reconstruct
from models.settings import Settings
from pipeline.jobs.job import job

with job(snakemake):
    reconstruct(
        Path(snakemake.input.weights),
        Path(snakemake.input.shard),
        Path(snakemake.output[0]),
        # Not parameters: what only decides how fast, and where, is no reason to do it again.
        Settings.of(snakemake.params.settings["model"], snakemake.config),
        features=Path(snakemake.input.features) if snakemake.input.features else None,
        threads=snakemake.threads,
    )
