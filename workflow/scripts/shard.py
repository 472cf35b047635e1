from pathlib import Path

from pipeline.jobs.job import job
from pipeline.shard import build

with job(snakemake):
    build(
        *(Path(snakemake.input[name]) for name in ("slices", "sinogram", "osem", "fbp")),
        Path(snakemake.output[0]),
        snakemake.params.split,
        Path(snakemake.input.osem_input) if snakemake.input.osem_input else None,
    )
