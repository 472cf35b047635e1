from pathlib import Path

from pipeline import projector
from pipeline.geometry import Grid, Ring
from pipeline.job import job
from pipeline.osem import reconstruct

with job(snakemake):
    reconstruct(
        Path(snakemake.input.sinogram),
        Path(snakemake.output[0]),
        snakemake.params.osem,
        snakemake.params.simulation,
        projector.load(
            snakemake.params.projector,
            Ring(**snakemake.params.scanner),
            Grid(snakemake.params.slices["size"], snakemake.params.slices["pixel_mm"]),
            snakemake.params.osem["subsets"],
            snakemake.input.matrix,
        ),
    )
