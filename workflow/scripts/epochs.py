from pathlib import Path

from models.report.drawing import save
from models.report.sweeps import epochs
from pipeline.jobs.job import job

with job(snakemake):
    table = dict(zip(snakemake.params.models, map(Path, snakemake.input), strict=True))
    rows = snakemake.params.rows
    figure = epochs(
        {row: [table[model] for model in rows[row]] for row in rows}, snakemake.params.reference
    )
    save(figure, Path(snakemake.output[0]))
