from pathlib import Path

from pipeline.jobs.job import job
from pipeline.lesions import LesionSettings, lesions

with job(snakemake):
    lesions(
        Path(snakemake.input[0]),
        Path(snakemake.output[0]),
        LesionSettings(**snakemake.params.lesions),
        snakemake.params.draws,
    )
