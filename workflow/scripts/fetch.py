from pathlib import Path

from pipeline.jobs.job import job
from pipeline.sources.registry import load

with job(snakemake):
    output, subject = Path(snakemake.output[0]), snakemake.wildcards.subject
    # No other parameters: another folder, or another subject, is no reason to fetch again.
    config = {**snakemake.config, "seed": None, **snakemake.params.decided_by}
    load(snakemake.params.source)(output, subject, config)
