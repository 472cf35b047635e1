from pathlib import Path

from pipeline import projector
from pipeline.geometry import Grid, Ring
from pipeline.job import job
from pipeline.sinogram import sinogram

with job(snakemake):
    grid = Grid(snakemake.params.slices["size"], snakemake.params.slices["pixel_mm"])
    sinogram(
        Path(snakemake.input.slices),
        Path(snakemake.output[0]),
        snakemake.params.simulation,
        projector.load(
            snakemake.params.projector,
            Ring(**snakemake.params.scanner),
            grid.finer(snakemake.params.simulation["oversampling"]),
            snakemake.params.subsets,
            snakemake.input.matrix,
        ),
    )
