from pathlib import Path

from pipeline.jobs.job import job
from pipeline.osem import reconstruct
from pipeline.tomography import projectors
from pipeline.tomography.geometry import Grid, Ring

with job(snakemake):
    reconstruct(
        Path(snakemake.input.sinogram),
        Path(snakemake.output[0]),
        snakemake.params.osem,
        snakemake.params.simulation,
        projectors.load(
            snakemake.params.projector,
            Ring(**snakemake.params.scanner),
            Grid(snakemake.params.slices["size"], snakemake.params.slices["pixel_mm"]),
            snakemake.params.osem["subsets"],
            snakemake.input.matrix,
        ),
    )
