from pathlib import Path

from models.settings import Settings
from models.training.train import train
from pipeline.jobs.job import job
from pipeline.jobs.launch import start

with job(snakemake, joint=True):
    start(snakemake.resources.get("mpi", ""))
    train(
        # Not parameters: what only decides how fast, and where, is no reason to train again.
        Settings.of(snakemake.params.settings["model"], snakemake.config),
        [Path(shard) for shard in snakemake.input.train],
        [Path(shard) for shard in snakemake.input.validation],
        output=Path(snakemake.output.weights),
        kept=Path(snakemake.output.checkpoints),
        run_dir=Path(snakemake.params.run_dir),
        log_csv=Path(snakemake.output.table),
        frozen=Path(snakemake.input.frozen) if snakemake.input.frozen else None,
        threads=snakemake.threads,
    )
