from pathlib import Path

from models.figures import uncertainty
from models.plots import save
from pipeline.job import job

with job(snakemake):
    figure = uncertainty(
        [Path(shard) for shard in snakemake.input.shards],
        [Path(file) for file in snakemake.input.reconstructions],
        snakemake.params.model,
        snakemake.params.positions,
    )
    save(figure, Path(snakemake.output[0]))
