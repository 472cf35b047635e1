from pathlib import Path

from pipeline.fbp import reconstruct
from pipeline.jobs.job import job
from pipeline.tomography.geometry import Grid, Ring

with job(snakemake):
    reconstruct(
        Path(snakemake.input[0]),
        Path(snakemake.output[0]),
        snakemake.params.fbp,
        Ring(**snakemake.params.scanner),
        Grid(snakemake.params.slices["size"], snakemake.params.slices["pixel_mm"]),
    )
