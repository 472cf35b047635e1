from pathlib import Path

from models.report.drawing import save
from models.report.tour import tour_images
from pipeline.jobs.job import job

with job(snakemake):
    files = map(Path, snakemake.input.reconstructions)
    figures = tour_images(
        Path(snakemake.input.shard),
        dict(zip(snakemake.params.models, files, strict=True)),
        snakemake.params.improving,
    )
    for output in map(Path, snakemake.output):
        save(figures[output.stem], output, dpi=100)
