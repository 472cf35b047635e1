"""A small training in a process of its own, which may kill itself: see `benchmarks.gpu.runs`.

python -m benchmarks.gpu.training FOLDER DEVICES [--kill-at STEP]

FOLDER holds ``config.json``, the configuration; beside it is ``subject04.h5``, a shard.
"""

import argparse
import json
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from models.methods.cdpm import CDPM
from models.settings import Settings
from models.training.train import train
from pipeline.jobs.experiment import models_of


def kill_at(step: int) -> None:
    """Have SIGKILL end this process in place of a training step, counted from 0."""
    plain, calls = CDPM.training_step, iter(range(step))

    def training_step(self: CDPM, *given: Any) -> Any:
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, *given)

    CDPM.training_step = training_step  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("devices", type=int)
    parser.add_argument("--kill-at", type=int)
    options = parser.parse_args()
    folder = options.folder
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["training"]["devices"] = options.devices
    # An operation that has no deterministic form then says so, and runs.
    torch.use_deterministic_algorithms(True, warn_only=True)
    if options.kill_at is not None:
        kill_at(options.kill_at)
    train(
        Settings.of(asdict(models_of(config)["cDPM"]), config),
        [folder.parent / "subject04.h5"],
        [],
        output=folder / "cDPM.safetensors",
        kept=folder / "kept",
        run_dir=folder / "run",
        log_csv=folder / "log.csv",
        frozen=None,
        threads=options.devices,
    )


if __name__ == "__main__":
    main()
