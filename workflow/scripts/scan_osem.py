from pathlib import Path

from pipeline.jobs.job import job
from pipeline.osem import OsemSettings
from pipeline.scan_images import scan_osem
from pipeline.tomography.geometry import SliceSettings

with job(snakemake):
    scan_osem(
        Path(snakemake.input[0]),
        Path(snakemake.output.image),
        Path(snakemake.output.nifti),
        OsemSettings(**snakemake.params.osem),
        snakemake.params.psf_fwhm_mm,
        SliceSettings(**snakemake.params.slices).grid,
        snakemake.params.filter_mm,
    )
