from pathlib import Path

from models.checkpoints import read_metadata
from models.evaluate import evaluate
from pipeline.job import job

with job(snakemake):
    shards = [Path(shard) for shard in snakemake.input.shards]
    files = [Path(file) for file in snakemake.input.reconstructions]  # by model, then subject
    evaluate(
        shards,
        {
            model: files[n * len(shards) : (n + 1) * len(shards)]
            for n, model in enumerate(snakemake.params.models)
        },
        read_metadata(Path(snakemake.input.weights[0])).scales,
        Path(snakemake.output[0]),
    )
