from pathlib import Path

from models.evaluation.lesion_curve import lesion_curve
from pipeline.jobs.job import job
from pipeline.tomography import projectors
from pipeline.tomography.forward_model import Simulation
from pipeline.tomography.geometry import SliceSettings
from pipeline.tomography.scanners import scanner_from

with job(snakemake):
    names = ("sinogram", "shard", "slices", "settings")
    lesion_curve(
        snakemake.wildcards.classical,
        *(Path(snakemake.input[name]) for name in names),
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
