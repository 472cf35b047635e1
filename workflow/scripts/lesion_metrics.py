from pathlib import Path

from models.checkpoints import read_metadata
from models.evaluation.lesions import lesion_metrics
from pipeline.jobs.job import job

with job(snakemake):
    shards = [Path(shard) for shard in snakemake.input.shards]
    files = iter(snakemake.input.reconstructions)
    lesion_metrics(
        shards,
        [Path(slices) for slices in snakemake.input.slices],
        {model: [Path(next(files)) for _ in shards] for model in snakemake.params.models},
        read_metadata(Path(snakemake.input.weights)).scales,
        snakemake.params.smallest_mm,
        Path(snakemake.output[0]),
    )
