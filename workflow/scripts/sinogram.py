from pathlib import Path

from pipeline.jobs.job import job
from pipeline.sinogram import sinogram
from pipeline.tomography import projectors
from pipeline.tomography.geometry import Grid, Ring

with job(snakemake):
    grid = Grid(snakemake.params.slices["size"], snakemake.params.slices["pixel_mm"])
    sinogram(
        Path(snakemake.input.slices),
        Path(snakemake.output[0]),
        snakemake.params.simulation,
        projectors.load(
            snakemake.params.projector,
            Ring(**snakemake.params.scanner),
            grid.finer(snakemake.params.simulation["oversampling"]),
            None,
            snakemake.input.matrix,
        ),
    )
