from pathlib import Path

from models.consistency import Measurements
from models.reconstruct import reconstruct
from models.settings import Settings
from pipeline.jobs.job import job

with job(snakemake):
    measured = None
    if snakemake.params.physics:
        measured = Measurements.simulated(
            [Path(path) for path in [snakemake.input.sinogram]],
            snakemake.input.matrix,
            snakemake.params.physics,
        )
    reconstruct(
        Path(snakemake.input.weights),
        Path(snakemake.input.shard),
        Path(snakemake.output[0]),
        # Not parameters: what only decides how fast, and where, is no reason to do it again.
        Settings.of(snakemake.params.settings["model"], snakemake.config),
        frozen=Path(snakemake.input.frozen) if snakemake.input.frozen else None,
        threads=snakemake.threads,
        measured=measured,
    )
