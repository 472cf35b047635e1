from pathlib import Path

from pipeline.fbp import FbpSettings
from pipeline.jobs.job import job
from pipeline.scan_images import scan_fbp
from pipeline.tomography.geometry import SliceSettings

with job(snakemake):
    scan_fbp(
        Path(snakemake.input[0]),
        Path(snakemake.output.image),
        Path(snakemake.output.nifti),
        FbpSettings(**snakemake.params.fbp),
        SliceSettings(**snakemake.params.slices).grid,
    )
