from pathlib import Path

from models.evaluation.sweep import sweep
from models.settings import Settings, Sweep
from pipeline.jobs.job import job

with job(snakemake):
    weights = Path(snakemake.input.weights)
    sweep(
        sorted(weights.glob("*.safetensors")) if weights.is_dir() else [weights],
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.output[0]),
        # Not parameters: what only decides how fast, and where, is no reason to do it again.
        Settings.of(snakemake.params.settings["model"], snakemake.config),
        Sweep(**snakemake.params.sweep),
        features=Path(snakemake.input.features) if snakemake.input.features else None,
        threads=snakemake.threads,
    )
