from pathlib import Path

from models.report.drawing import save
from models.report.images import uncertainty
from pipeline.jobs.job import job

with job(snakemake):
    figure = uncertainty(
        [Path(shard) for shard in snakemake.input.shards],
        [Path(file) for file in snakemake.input.reconstructions],
        snakemake.params.model,
        snakemake.params.positions,
    )
    save(figure, Path(snakemake.output[0]))
