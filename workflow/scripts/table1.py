from pathlib import Path

from models.checkpoints import load, read_metadata
from models.report.table1 import table1
from pipeline.jobs.job import job


def parameters_in(weights):
    return load(weights, read_metadata(weights).network)[0].parameter_count()


with job(snakemake):
    weights = map(Path, snakemake.input.weights)
    table1(
        Path(snakemake.input.metrics),
        snakemake.params.rows,
        dict(zip(snakemake.params.models, map(parameters_in, weights), strict=True)),
        output_csv=Path(snakemake.output.csv),
        output_differences=Path(snakemake.output.differences),
        output_markdown=Path(snakemake.output.markdown),
        output_latex=Path(snakemake.output.latex),
        output_html=Path(snakemake.output.html),
    )
