from pathlib import Path

from pipeline.geometry import Grid, Ring
from pipeline.job import job
from pipeline.projector import write_system_matrix

with job(snakemake):
    grid = Grid(snakemake.params.slices["size"], snakemake.params.slices["pixel_mm"])
    write_system_matrix(
        Path(snakemake.output[0]),
        Ring(**snakemake.params.scanner),
        grid.finer(snakemake.params.oversampling),
        snakemake.params.subsets,
    )
