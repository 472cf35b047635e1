from pathlib import Path

from models.checkpoints import read_metadata
from models.evaluate import evaluate
from pipeline.job import job

with job(snakemake):
    evaluate(
        [Path(shard) for shard in snakemake.input.shards],
        {name: [Path(file) for file in snakemake.input[name]] for name in snakemake.params.methods},
        read_metadata(Path(snakemake.input.weights[0])).scales,
        Path(snakemake.output[0]),
    )
