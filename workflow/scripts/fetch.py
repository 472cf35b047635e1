from pathlib import Path

from pipeline import brainweb, mni152
from pipeline.job import job

with job(snakemake):
    output, subject = Path(snakemake.output[0]), snakemake.wildcards.subject
    if snakemake.params.source == "mni152":
        mni152.fetch(output, subject, snakemake.params.seed)
    else:
        # Not a parameter: the volumes are verified, so another folder is no reason to fetch again.
        folder = snakemake.config["brainweb_dir"]
        brainweb.fetch(output, subject, snakemake.params.known, folder)
