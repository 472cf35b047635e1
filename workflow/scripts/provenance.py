from pathlib import Path

from pipeline.job import job
from pipeline.provenance import write

with job(snakemake):
    write(
        Path(snakemake.output.record),
        Path(snakemake.output.config),
        snakemake.config,
        [Path(path) for path in snakemake.input],
        Path(snakemake.params.logs),
    )
