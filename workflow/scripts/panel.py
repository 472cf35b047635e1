from pathlib import Path

from models.checkpoints import read_metadata
from models.report.drawing import save
from models.report.images import panel
from pipeline.jobs.job import job

with job(snakemake):
    shards = [Path(shard) for shard in snakemake.input.shards]
    models, files = snakemake.params.models, iter(snakemake.input.reconstructions)
    figure = panel(
        shards,
        {model: [Path(next(files)) for _ in shards] for model in models},
        read_metadata(Path(snakemake.input.weights[0])).scales,
        snakemake.params.positions,
        snakemake.params.reference,
    )
    save(figure, Path(snakemake.output[0]))
