"""One training step and one sampling step of every method as configured, and reading of slices.

Every method has a process of its own, one after the other, so that its peak memory is its own. A
training step is what `models.training.train` does with one batch (all networks of the method,
backward passes and optimisers); a sampling step is one pass of what reconstructs the batch.
The PnPNet that LegoPET and PMDM use has random weights here. Floating-point operations are counted
by PyTorch in one more step.

    python -m benchmarks.methods [--shards FILE ...] [--batch 4] [--turns 2] [--threads 2]

Without shards, slices of noise are made, which compress worse than real ones.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from benchmarks.steps import Steps, first_batch, noise_shard, reading_rate
from models.registry import METHODS

ROOT = Path(__file__).parents[1]
SETTINGS = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
GPU_FLOPS = 4e13
"""Assumed rate of training on one data-centre GPU in bf16: an eighth of an A100's peak (312e12)."""


class Result(NamedTuple):
    """Seconds of each turn, peak memory in MB, and operations of a training step a slice."""

    training: list[float]
    sampling: list[float]
    peak_mb: float
    operations: float


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(name: str, paths: list[Path], batch: int, turns: int, threads: int) -> Result:
    """Run one method; in a process of its own."""
    torch.set_num_threads(threads)
    conditioning = SETTINGS["methods"][name]["conditioning"]
    slices = first_batch(paths, SETTINGS["network"]["size"], batch, conditioning)
    steps = Steps(name, SETTINGS, slices)
    steps.train()  # a warm-up
    training = [timed(steps.train) for _ in range(turns)]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    operations = steps.operations()
    steps.sample()
    return Result(training, [timed(steps.sample) for _ in range(turns)], peak_mb, operations)


def compare(paths: list[Path], batch: int, turns: int, threads: int) -> None:
    context = multiprocessing.get_context("spawn")
    results = {}
    print(f"{'':8} {'train s':>8} {'sample s':>9} {'peak MB':>8} {'TFLOP/slice':>12} {'GPU h':>6}")
    slices = SETTINGS["slices"]["per_volume"] * SETTINGS["slices"]["rotations"] * 17
    for name in METHODS:
        with context.Pool(1) as pool:
            found = pool.apply(measure, (name, paths, batch, turns, threads))
        results[name] = found
        total = found.operations * slices * SETTINGS["methods"][name]["epochs"]
        print(
            f"{name:8} {statistics.median(found.training):8.2f} "
            f"{statistics.median(found.sampling):9.2f} {found.peak_mb:8.0f} "
            f"{found.operations / 1e12:12.3f} {total / GPU_FLOPS / 3600:6.1f}",
            flush=True,
        )
    for what in ("training", "sampling"):
        lego, plain = (min(getattr(results[name], what)) for name in ("LegoPET", "cDPM"))
        print(f"LegoPET's {what} step takes {lego / plain:.2f} times as long as cDPM's")
    fastest = min(results, key=lambda name: min(results[name].training))
    consumed = batch / min(results[fastest].training)
    for workers in (0, SETTINGS["training"]["workers"]):
        rate = reading_rate(paths, SETTINGS["network"]["size"], batch, workers)
        print(
            f"reading with {workers} workers: {rate:.0f} slices/s, {rate / consumed:.0f} times "
            f"what the fastest training ({fastest}) consumes"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, nargs="+", default=[])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(f"batches of {options.batch}, {options.threads} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        paths = options.shards or [noise_shard(Path(folder), SETTINGS["network"]["size"])]
        compare(paths, options.batch, options.turns, options.threads)


if __name__ == "__main__":
    main()
