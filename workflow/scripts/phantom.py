from pathlib import Path

from pipeline.jobs.job import job
from pipeline.phantom import Texture, of_image, phantom
from pipeline.sources.base import IMAGES

with job(snakemake):
    fetched, output = Path(snakemake.input[0]), Path(snakemake.output[0])
    subject, params = snakemake.wildcards.subject, snakemake.params
    if params.gives == IMAGES:
        of_image(fetched, output, subject)
    else:
        phantom(fetched, output, subject, params.seed, Texture(**params.texture))
