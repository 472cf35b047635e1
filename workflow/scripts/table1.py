from pathlib import Path

from models.report.table1 import parameters_in, table1
from pipeline.jobs.job import job

with job(snakemake):
    records = map(Path, snakemake.input.records)
    table1(
        Path(snakemake.input.metrics),
        snakemake.params.rows,
        dict(zip(snakemake.params.models, map(parameters_in, records), strict=True)),
        snakemake.params.doses,
        snakemake.params.reference,
        snakemake.params.other_networks,
        output_csv=Path(snakemake.output.csv),
        output_differences=Path(snakemake.output.differences),
        output_markdown=Path(snakemake.output.markdown),
        output_latex=Path(snakemake.output.latex),
        output_html=Path(snakemake.output.html),
    )
