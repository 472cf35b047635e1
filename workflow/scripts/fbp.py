from pathlib import Path

from pipeline.fbp import FbpSettings, reconstruct
from pipeline.jobs.job import job
from pipeline.tomography.geometry import SliceSettings
from pipeline.tomography.scanners import scanner_from

with job(snakemake):
    reconstruct(
        Path(snakemake.input[0]),
        Path(snakemake.output[0]),
        FbpSettings(**snakemake.params.fbp),
        scanner_from(snakemake.params.scanner),
        SliceSettings(**snakemake.params.slices).grid,
    )
