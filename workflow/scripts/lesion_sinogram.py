from pathlib import Path

from pipeline.jobs.job import job
from pipeline.lesion_sinogram import lesion_sinogram
from pipeline.tomography import projectors
from pipeline.tomography.forward_model import Simulation
from pipeline.tomography.geometry import SliceSettings
from pipeline.tomography.scanners import scanner_from

with job(snakemake):
    simulation = Simulation(**snakemake.params.simulation)
    grid = SliceSettings(**snakemake.params.slices).grid
    lesion_sinogram(
        Path(snakemake.input.slices),
        Path(snakemake.input.sinogram),
        Path(snakemake.output[0]),
        snakemake.params.dose,
        simulation,
        projectors.load(
            snakemake.params.projector,
            scanner_from(snakemake.params.scanner),
            grid.finer(simulation.oversampling),
            None,
            snakemake.input.matrix,
        ),
    )
