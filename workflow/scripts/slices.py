from pathlib import Path

from pipeline.jobs.job import job
from pipeline.lesions import LesionSettings
from pipeline.slices import slices
from pipeline.tomography.geometry import SliceSettings

with job(snakemake):
    slices(
        Path(snakemake.input[0]),
        Path(snakemake.output[0]),
        snakemake.wildcards.subject,
        snakemake.params.seed,
        SliceSettings(**snakemake.params.slices),
        snakemake.params.oversampling,
        snakemake.params.field_of_view_mm,
        LesionSettings(**snakemake.params.lesions) if snakemake.params.lesions else None,
    )
