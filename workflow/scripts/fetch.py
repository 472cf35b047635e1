from pathlib import Path

from pipeline.jobs.job import job
from pipeline.sources import brainweb, mni152
from pipeline.sources.subjects import read_subjects

with job(snakemake):
    output, subject = Path(snakemake.output[0]), snakemake.wildcards.subject
    if snakemake.params.source == "mni152":
        mni152.fetch(output, subject, snakemake.params.seed)
    else:
        # Not parameters: another folder, or another subject, is no reason to fetch again.
        table, folder = snakemake.config["subjects"], snakemake.config["brainweb_dir"]
        subjects = read_subjects(table).values()
        known = {s.name: s.labels_sha256 for s in subjects if s.labels_sha256}
        brainweb.fetch(output, subject, known, folder)
