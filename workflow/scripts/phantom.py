from pathlib import Path

from pipeline.jobs.job import job
from pipeline.phantom import Texture, phantom

with job(snakemake):
    phantom(
        Path(snakemake.input[0]),
        Path(snakemake.output[0]),
        snakemake.wildcards.subject,
        snakemake.params.seed,
        Texture(**snakemake.params.texture),
    )
