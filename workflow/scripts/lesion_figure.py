from pathlib import Path

from models.report.drawing import save
from models.report.lesions import lesion_figure
from pipeline.jobs.job import job

with job(snakemake):
    methods, curves = snakemake.params.classical, iter(snakemake.input.curves)
    subjects = len(snakemake.input.curves) // len(methods)
    figure = lesion_figure(
        Path(snakemake.input.metrics),
        {method: [Path(next(curves)) for _ in range(subjects)] for method in methods},
        snakemake.params.rows,
    )
    save(figure, Path(snakemake.output[0]))
