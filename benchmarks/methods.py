"""One training step and one sampling step of every method as configured, and reading of slices.

Every method has a process of its own, one after the other, so that its peak memory is its own. A
training step is what `models.training.train` does with one batch (all networks of the method,
backward passes and optimisers); a sampling step is one pass of what reconstructs the batch.
LegoPET's PnPNet has random weights here. Floating-point operations are counted by PyTorch in one
more step.

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
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from models.dataset import Batch, Scales, ShardSlices
from models.draws import keyed_rng
from models.loader import batches
from models.registry import METHODS, build
from models.settings import FinalSampling, Network
from models.training.optim import make_optimiser
from models.training.order import BatchOrder
from pipeline.shard import SHARD
from pipeline.storage import hdf5

ROOT = Path(__file__).parents[1]
SETTINGS = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
NETWORK = Network(**SETTINGS["network"])
ONE_STEP = replace(FinalSampling(**SETTINGS["sampling"]), sampler="ddim", steps=1)
GPU_FLOPS = 4e13
"""Assumed rate of training on one data-centre GPU in bf16: an eighth of an A100's peak (312e12)."""


class Result(NamedTuple):
    """Seconds of each turn, peak memory in MB, and operations of a training step a slice."""

    training: list[float]
    sampling: list[float]
    peak_mb: float
    operations: float


def noise_shard(folder: Path) -> Path:
    """Write 16 slices of noise at the configured size."""
    rng, size = np.random.default_rng(0), SETTINGS["network"]["size"]
    images = rng.uniform(0, 128, (3, 16, size, size)).astype(np.float32)
    arrays: dict[str, Any] = dict(zip(("osem", "fbp", "activity"), images, strict=True))
    arrays["sinogram"] = rng.poisson(80, (16, 252, 255)).astype(np.uint32)
    arrays["labels"] = np.zeros((16, size, size), dtype=np.uint8)
    arrays["rotation"], arrays["slice_index"] = np.zeros(16, np.uint8), np.arange(16, dtype="int16")
    arrays["rotation_deg"] = arrays["scale"] = np.ones(16, dtype=np.float32)
    path = folder / "subject04.h5"
    hdf5.write(path, SHARD, arrays, hdf5.provenance({}, subject="subject04"))
    return path


def first_batch(paths: list[Path], batch: int, conditioning: list[str]) -> Batch:
    scales = Scales.from_shards(paths)
    slices = ShardSlices(paths, SETTINGS["network"]["size"], scales, conditioning)
    return next(batches(slices, BatchOrder(len(slices), batch, 0, 0, 1), 0, False))


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(name: str, paths: list[Path], batch: int, turns: int, threads: int) -> Result:
    """Run one method; in a process of its own."""
    torch.set_num_threads(threads)
    own = SETTINGS["methods"][name]
    method = build(name, NETWORK, own)
    typed = method.Settings(**own)
    if source := own.get("features"):
        method.use_features(build(source, NETWORK, SETTINGS["methods"][source]))
    optimisers = {part: make_optimiser(module, typed) for part, module in method.parts.items()}
    slices = first_batch(paths, batch, own["conditioning"])

    def train() -> None:
        draws = [keyed_rng(0, *key) for key in slices.keys]
        for part, losses in method.training_step(slices, draws):
            optimisers[part].zero_grad()
            losses["loss"].backward()
            optimisers[part].step()

    @torch.no_grad()
    def sample() -> None:
        method.predict(slices.inputs, slices.keys, ONE_STEP, 0)

    train()  # a warm-up
    training = [timed(train) for _ in range(turns)]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with FlopCounterMode(display=False) as counter:
        train()
    operations = counter.get_total_flops() / batch
    method.network.eval()
    sample()
    return Result(training, [timed(sample) for _ in range(turns)], peak_mb, operations)


def reading_rate(paths: list[Path], batch: int, workers: int) -> float:
    """Slices a second out of the shards, shuffled, without any computation."""
    slices = ShardSlices(paths, SETTINGS["network"]["size"], Scales(1.0, 1.0), ["sinogram"])
    steps = 400 // batch
    reading = batches(slices, BatchOrder(len(slices), batch, 0, 0, steps + 1), workers, False)
    next(reading)  # start of the workers
    seconds = timed(lambda: [None for _ in reading])
    return steps * batch / seconds


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
        rate = reading_rate(paths, batch, workers)
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
        paths = options.shards or [noise_shard(Path(folder))]
        compare(paths, options.batch, options.turns, options.threads)


if __name__ == "__main__":
    main()
