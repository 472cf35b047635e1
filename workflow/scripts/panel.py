from pathlib import Path

from models.checkpoints import read_metadata
from models.figures import panel
from pipeline.job import job

with job(snakemake):
    panel(
        [Path(shard) for shard in snakemake.input.shards],
        {name: [Path(file) for file in snakemake.input[name]] for name in snakemake.params.methods},
        read_metadata(Path(snakemake.input.weights[0])).scales,
        snakemake.params.positions,
        Path(snakemake.output[0]),
    )
