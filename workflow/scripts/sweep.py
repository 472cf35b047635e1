from pathlib import Path

from models.consistency import Measurements
from models.evaluation.sweep import sweep
from models.settings import Settings, Sweep
from pipeline.jobs.job import job

with job(snakemake):
    measured = None
    if snakemake.params.physics:
        measured = Measurements.simulated(
            [Path(path) for path in snakemake.input.sinograms],
            snakemake.input.matrix,
            snakemake.params.physics,
        )
    weights = Path(snakemake.input.weights)
    sweep(
        sorted(weights.glob("*.safetensors")) if weights.is_dir() else [weights],
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.output[0]),
        # Not parameters: what only decides how fast, and where, is no reason to do it again.
        Settings.of(snakemake.params.settings["model"], snakemake.config),
        Sweep(**snakemake.params.sweep),
        frozen=Path(snakemake.input.frozen) if snakemake.input.frozen else None,
        threads=snakemake.threads,
        measured=measured,
    )
