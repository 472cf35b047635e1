from pathlib import Path

from models.report.drawing import save
from models.report.tour import tour_data
from pipeline.jobs.job import job

with job(snakemake):
    given = snakemake.input
    figures = tour_data(
        Path(given.labels) if given.labels else None,
        Path(given.phantom),
        Path(given.slices),
        [Path(sinogram) for sinogram in given.sinograms],
        Path(given.shard),
    )
    for output in map(Path, snakemake.output):
        save(figures[output.stem], output, dpi=100)
