"""Trainings in processes of their own: killed and resumed, and on two devices."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.right import relative
from benchmarks.gpu.table import NotRun, Row
from benchmarks.steps import noise_shard
from models.training.resume import load_working

ROOT = Path(__file__).parents[2]
STEPS, CHECKPOINT_EVERY, KILLED_AT = 6, 2, 5
"""Of the training; one step is lost where it is killed."""

CLOSE = 1e-3
"""Largest relative difference of one and two devices in Adam's mean gradient."""

NOT_DETERMINISTIC = "does not have a deterministic implementation"
"""What PyTorch says of an operation without one."""


class Runs:
    """A folder of small trainings of cDPM.

    Parameters
    ----------
    machine : Machine
    folder : Path
    """

    def __init__(self, machine: Machine, folder: Path):
        self.machine, self.folder = machine, folder
        self.config = deepcopy(machine.tiny)
        own = self.config["methods"]["cDPM"]
        noise_shard(folder, self.config["network"]["size"], STEPS * own["batch_size"])
        own |= {"epochs": 1, "keep_every_epochs": 0}
        self.config["training"] |= {
            "device": machine.device.type,
            "workers": 0,
            "checkpoint_every_steps": CHECKPOINT_EVERY,
        }

    def call(self, name: str, devices: int = 1, *options: str) -> tuple[int, str]:
        """Train in a subfolder; give the exit code and what was said."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.gpu.training", str(folder), str(devices)]
        done = subprocess.run(
            [*command, *options],
            cwd=ROOT,
            env=os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},  # of deterministic products
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
        return done.returncode, done.stderr

    def finish(self, name: str, devices: int = 1) -> str:
        """Train to the end; give what was said."""
        code, said = self.call(name, devices)
        if code:
            raise RuntimeError(f"training ended with {code}: {said.strip().splitlines()[-1:]}")
        return said

    @cached_property
    def whole(self) -> str:
        """What an uninterrupted training on one device said; it lies in "whole"."""
        return self.finish("whole")

    def resumed(self) -> Iterator[Row]:
        """Kill a training, resume it, and compare its weights with an uninterrupted one's."""
        what = f"training killed at step {KILLED_AT} of {STEPS} and resumed: largest difference"
        code, said = self.call("killed", 1, "--kill-at", str(KILLED_AT))
        saved = KILLED_AT // CHECKPOINT_EVERY * CHECKPOINT_EVERY
        if code != -signal.SIGKILL or self._state("killed")["step"] != saved:
            raise RuntimeError(f"it was not killed: {code}, {said.strip().splitlines()[-1:]}")
        said = self.whole + self.finish("killed")
        own, other = (
            load_file(self.folder / name / "cDPM.safetensors") for name in ("killed", "whole")
        )
        difference = max(float((own[key] - other[key]).abs().max()) for key in other)
        free = [line for line in said.splitlines() if NOT_DETERMINISTIC in line]
        note = free[0].strip() if free else "with deterministic algorithms"
        yield Row(what, difference, limit=None if free else 0.0, note=note)

    def on_two_devices(self) -> Iterator[Row]:
        """Train on two devices, and compare the gradients of all steps with those on one."""
        if self.machine.cuda and torch.cuda.device_count() < 2:
            raise NotRun("one device")
        _ = self.whole
        self.finish("two", 2)
        own, other = (
            [state["exp_avg"] for state in self._optimiser(name).values()]
            for name in ("two", "whole")
        )
        yield Row(
            "training on two devices: Adam's mean gradient", relative(own, other), limit=CLOSE
        )

    def _state(self, name: str) -> dict[str, Any]:
        (path,) = (self.folder / name / "run").glob("*/working.pt")
        return load_working(path)

    def _optimiser(self, name: str) -> dict[int, Any]:
        return self._state(name)["parts"]["network"]["optimiser"]["state"]
