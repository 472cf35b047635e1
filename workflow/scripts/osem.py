from pathlib import Path

from pipeline.jobs.job import job
from pipeline.osem import OsemSettings, reconstruct
from pipeline.tomography import projectors
from pipeline.tomography.forward_model import Simulation
from pipeline.tomography.geometry import SliceSettings
from pipeline.tomography.scanners import scanner_from

with job(snakemake):
    settings = OsemSettings(**snakemake.params.osem)
    reconstruct(
        Path(snakemake.input.sinogram),
        Path(snakemake.output[0]),
        settings,
        Simulation(**snakemake.params.simulation),
        projectors.load(
            snakemake.params.projector,
            scanner_from(snakemake.params.scanner),
            SliceSettings(**snakemake.params.slices).grid,
            settings.subsets,
            snakemake.input.matrix,
        ),
        snakemake.params.get("filter_mm", 0.0),
    )
