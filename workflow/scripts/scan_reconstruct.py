from pathlib import Path

from models.scan_reconstruct import scan_reconstruct
from models.settings import Settings
from pipeline.jobs.job import job

with job(snakemake):
    output = snakemake.output
    scan_reconstruct(
        Path(snakemake.input.weights),
        Path(snakemake.input.scan),
        {name: Path(path) for name in ("fbp", "osem_input") if (path := snakemake.input.get(name))},
        Path(output.image),
        # Of several samples there are two.
        {name: Path(path) for name, path in zip(("image", "std"), output[1:], strict=False)},
        # Not parameters: what only decides how fast, and where, is no reason to do it again.
        Settings.of(snakemake.params.settings["model"], snakemake.config),
        frozen=Path(snakemake.input.frozen) if snakemake.input.frozen else None,
        threads=snakemake.threads,
        psf_fwhm_mm=snakemake.params.psf_fwhm_mm,
    )
