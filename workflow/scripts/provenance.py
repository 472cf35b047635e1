from pathlib import Path

from pipeline.jobs.job import job
from pipeline.jobs.provenance import Sources, write


def paths(names):
    return [Path(name) for name in names]


with job(snakemake):
    write(
        Path(snakemake.output.record),
        Path(snakemake.output.config),
        snakemake.config,
        Sources(
            inputs=paths(snakemake.params.inputs),
            stages=paths(snakemake.params.stages),
            files=paths(snakemake.input),
            settings=paths(snakemake.input.settings),
            logs=Path(snakemake.params.logs),
        ),
    )
