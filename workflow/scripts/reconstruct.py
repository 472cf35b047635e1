from pathlib import Path

from models.reconstruct import reconstruct
from pipeline.jobs.job import job

with job(snakemake):
    # Not parameters: what only decides how fast, and where, is no reason to reconstruct again.
    others = {section: snakemake.config[section] for section in ("training", "sampling")}
    settings = snakemake.params.settings | others
    reconstruct(
        Path(snakemake.input.weights),
        Path(snakemake.input.shard),
        Path(snakemake.output[0]),
        settings,
        features=Path(snakemake.input.features) if snakemake.input.features else None,
        threads=snakemake.threads,
    )
