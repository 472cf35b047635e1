from pathlib import Path

from pipeline.job import job
from pipeline.shards import build

with job(snakemake):
    build(
        *(Path(snakemake.input[name]) for name in ("slices", "sinogram", "osem", "fbp")),
        Path(snakemake.output[0]),
        snakemake.params.split,
    )
