from pathlib import Path

from models.evaluation.sweep import sweep
from pipeline.jobs.job import job

with job(snakemake):
    # Not parameters: what only decides how fast, and where, is no reason to reconstruct again.
    others = {section: snakemake.config[section] for section in ("training", "sampling")}
    settings = snakemake.params.settings | others
    weights = Path(snakemake.input.weights)
    sweep(
        sorted(weights.glob("*.safetensors")) if weights.is_dir() else [weights],
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.output[0]),
        settings,
        snakemake.params.sweep,
        features=Path(snakemake.input.features) if snakemake.input.features else None,
        threads=snakemake.threads,
    )
