"""The device that is looked at, what it computes, and how it is timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.steps import PRECISIONS
from models.configuration import read_configuration

TINY = Path(__file__).with_name("tiny.yaml")

PEAK_TFLOPS = {
    # Without sparsity, tensor cores accumulating in float32. Of the SXM modules, as they are quoted
    # everywhere; not compared with NVIDIA's own sheets, nor are other cards guessed at.
    "H200": {"fp32": 67.0, "TF32": 494.7, "bf16": 989.4},
    "H100 80GB HBM3": {"fp32": 67.0, "TF32": 494.7, "bf16": 989.4},
    "A100": {"fp32": 19.5, "TF32": 156.0, "bf16": 312.0},
}
"""Peak of known cards, by a part of their name, in TFLOP/s."""


@dataclass(frozen=True)
class Machine:
    """A device, with the configuration that it can bear.

    Attributes
    ----------
    device : torch.device
    name : str
        Of the card, or "CPU".
    config : dict
        The paper's configuration on a GPU, else that of tiny.yaml.
    tiny : dict
        That of tiny.yaml.
    budget_s : float
        Seconds after which nothing new is measured.
    began : float
        `time.monotonic` at the start.
    """

    device: torch.device
    name: str
    config: dict[str, Any]
    tiny: dict[str, Any]
    budget_s: float
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def here(cls, budget_s: float) -> "Machine":
        """Take the first GPU, or the CPU if there is none."""
        tiny = read_configuration([TINY])
        if torch.cuda.is_available():
            name = torch.cuda.get_device_name(0)
            return cls(torch.device("cuda", 0), name, read_configuration([]), tiny, budget_s)
        torch.set_num_threads(1)  # tiny networks only lose time by sharing the work
        return cls(torch.device("cpu"), "CPU", tiny, tiny, budget_s)

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def where(self) -> str:
        """Where rows were computed."""
        return f"CUDA: {self.name}" if self.cuda else "CPU, tiny"

    @property
    def precisions(self) -> list[str]:
        """Names of `benchmarks.steps.PRECISIONS` that it has, the fastest first."""
        return [name for name in PRECISIONS if self.cuda or name != "TF32"]

    def configured(self, precise: str) -> str | None:
        """Give what ``training.precision`` calls a precision; None of what it has no name for."""
        return {"bf16": "bf16-mixed", "TF32" if self.cuda else "fp32": "32-true"}.get(precise)

    def peak_tflops(self, precise: str) -> float | None:
        """Give the card's peak in a precision, if it is known."""
        known = (peaks[precise] for name, peaks in PEAK_TFLOPS.items() if name in self.name)
        return next(known, None)

    def elapsed_s(self) -> float:
        """Give the seconds since the start."""
        return time.monotonic() - self.began

    def has_time(self, expected_s: float) -> bool:
        """Whether so many seconds are left of the budget."""
        return self.elapsed_s() + expected_s < self.budget_s

    def wait(self) -> None:
        """Wait until the device has done all that it was told."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, action: Callable[[], object], turns: int, warm_up: int = 1) -> float:
        """Time an action: the mean of some turns, after others that do not count."""
        for _ in range(warm_up):
            action()
        self.wait()
        start = time.perf_counter()
        for _ in range(turns):
            action()
        self.wait()
        return (time.perf_counter() - start) / turns
