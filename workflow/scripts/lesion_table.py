from pathlib import Path

from models.report.lesions import lesion_table
from pipeline.jobs.job import job

with job(snakemake):
    lesion_table(
        [Path(table) for table in snakemake.input],
        snakemake.params.rows,
        output_csv=Path(snakemake.output.csv),
        output_markdown=Path(snakemake.output.markdown),
        output_html=Path(snakemake.output.html),
    )
