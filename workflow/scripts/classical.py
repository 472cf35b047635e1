from pathlib import Path

from pipeline.classical import reconstruct
from pipeline.jobs.job import job
from pipeline.tomography import projectors
from pipeline.tomography.forward_model import Simulation
from pipeline.tomography.geometry import SliceSettings
from pipeline.tomography.scanners import scanner_from

with job(snakemake):
    reconstruct(
        snakemake.wildcards.classical,
        Path(snakemake.input.sinogram),
        Path(snakemake.input.settings),
        Path(snakemake.output[0]),
        Simulation(**snakemake.params.simulation),
        projectors.load(
            snakemake.params.projector,
            scanner_from(snakemake.params.scanner),
            SliceSettings(**snakemake.params.slices).grid,
            snakemake.params.subsets,
            snakemake.input.matrix,
        ),
    )
