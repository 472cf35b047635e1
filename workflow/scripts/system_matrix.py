from pathlib import Path

from pipeline.jobs.job import job
from pipeline.tomography import system_matrix
from pipeline.tomography.geometry import Grid, Ring

with job(snakemake):
    grid = Grid(snakemake.params.slices["size"], snakemake.params.slices["pixel_mm"])
    system_matrix.write(
        Path(snakemake.output[0]),
        Ring(**snakemake.params.scanner),
        grid.finer(snakemake.params.oversampling),
        snakemake.params.subsets,
    )
