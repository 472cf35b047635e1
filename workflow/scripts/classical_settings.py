from pathlib import Path

from pipeline.classical_settings import ClassicalSettings, choose
from pipeline.jobs.job import job
from pipeline.tomography import projectors
from pipeline.tomography.forward_model import Simulation
from pipeline.tomography.geometry import SliceSettings
from pipeline.tomography.scanners import scanner_from

with job(snakemake):
    choose(
        [Path(sinogram) for sinogram in snakemake.input.sinograms],
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.output[0]),
        ClassicalSettings(**snakemake.params.classical),
        Simulation(**snakemake.params.simulation),
        projectors.load(
            snakemake.params.projector,
            scanner_from(snakemake.params.scanner),
            SliceSettings(**snakemake.params.slices).grid,
            snakemake.params.subsets,
            snakemake.input.matrix,
        ),
    )
