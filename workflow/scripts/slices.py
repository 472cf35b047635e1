from pathlib import Path

from pipeline.jobs.job import job
from pipeline.slices import slices

with job(snakemake):
    slices(
        Path(snakemake.input[0]),
        Path(snakemake.output[0]),
        snakemake.wildcards.subject,
        snakemake.params.seed,
        snakemake.params.settings,
        snakemake.params.oversampling,
        snakemake.params.field_of_view_mm,
    )
