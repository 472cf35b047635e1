from pathlib import Path

from pipeline.jobs.job import job
from pipeline.tomography import system_matrix
from pipeline.tomography.geometry import SliceSettings
from pipeline.tomography.scanners import scanner_from

with job(snakemake):
    grid = SliceSettings(**snakemake.params.slices).grid
    system_matrix.write(
        Path(snakemake.output[0]),
        scanner_from(snakemake.params.scanner),
        grid.finer(snakemake.params.oversampling),
        snakemake.params.subsets,
    )
