"""Sparse projector against parallelproj: one forward projection, and OSEM (4 x 21).

Same slices, geometry (256 x 256 pixels, 252 x 255 bins), OSEM code and number of threads in one
process, the contestants taking turns; a ratio is the median over the turns of their times' ratio.
parallelproj is timed on a stack (one ring a slice) and slice by slice, and its better time counts.

    python -m benchmarks.projector [--slices 55] [--turns 5] [--threads 2]
"""

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable

# torch and parallelproj bring an OpenMP runtime each; idle threads of the one must not spin while
# the other works. Has to be set before either is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from pipeline.osem import osem
from pipeline.tomography.forward_model import ForwardModel
from pipeline.tomography.geometry import Grid
from pipeline.tomography.projectors import ParallelprojProjector, Projector, SparseProjector
from pipeline.tomography.scanners import Ring
from pipeline.tomography.system_matrix import system_matrices

RING = Ring(blocks=56, crystals_per_block=9, radius_mm=328.0, pitch_mm=4.09, radial_trim=124)
GRID = Grid(256, 2.0863)
ITERATIONS, SUBSETS = 4, 21


def heads(slices: int) -> np.ndarray:
    """Head-sized ellipses (slice, y, x) with random texture: a typical load."""
    rng = np.random.default_rng(0)
    c = GRID.centres_mm
    inside = (c[:, None] / 100) ** 2 + (c[None, :] / 75) ** 2 <= 1
    images = rng.uniform(32, 128, (slices, GRID.size, GRID.size)) * inside
    return images.astype(np.float32)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def forward(projector: Projector, columns: torch.Tensor) -> list[torch.Tensor]:
    return [projector.forward(columns, subset) for subset in range(SUBSETS)]


def reconstruct(projector: Projector, prompts: list[torch.Tensor]) -> torch.Tensor:
    *_, image = osem(
        ForwardModel(projector, psf_fwhm_mm=0),
        prompts,
        torch.zeros(prompts[0].shape[1]),
        ITERATIONS,
    )
    return image


def compare(slices: int, few: int, turns: int) -> None:
    cpu = torch.device("cpu")
    start = time.perf_counter()
    sparse = SparseProjector(RING, GRID, *system_matrices(RING, GRID, SUBSETS), cpu)
    print(f"system matrix built in {time.perf_counter() - start:.1f} s")
    columns = sparse.columns(heads(slices))
    lors = forward(sparse, columns)
    prompts = [torch.poisson(part / 500, torch.Generator().manual_seed(1)) for part in lors]
    contestants: dict[str, tuple[Callable[[], object], Callable[[], object], int]] = {
        "sparse": (
            lambda: forward(sparse, columns),
            lambda: reconstruct(sparse, prompts),
            slices,
        )
    }
    if importlib.util.find_spec("parallelproj_core") is None:
        print("parallelproj is not installed here: nothing to compare with")
    else:
        other = ParallelprojProjector(RING, GRID, SUBSETS, cpu)
        difference = torch.cat(forward(other, columns[:, :2].contiguous()))
        own = torch.cat([part[:, :2] for part in lors])
        error = float((difference - own).norm() / own.norm())
        print(f"relative difference of the two forward projections: {error:.1e}")
        for name, count in (("parallelproj, stack", few), ("parallelproj, one slice", 1)):
            part = columns[:, :count].contiguous()
            data = [lor[:, :count].contiguous() for lor in prompts]
            contestants[name] = (
                lambda part=part: forward(other, part),
                lambda data=data: reconstruct(other, data),
                count,
            )
    for task, number in (("forward", 0), (f"OSEM {ITERATIONS} x {SUBSETS}", 1)):
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(turns + 1):
            for name, entry in contestants.items():
                taken = seconds(entry[number]) / entry[2] * 1e3
                if turn:  # the first is a warm-up
                    times[name].append(taken)
        report(task, times)


def report(task: str, times: dict[str, list[float]]) -> None:
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{task:12} {name:24} {middle:8.1f} ms/slice  ({min(values):.1f}-{max(values):.1f})")
    if len(times) > 1:
        own, *others = times.values()
        ratios = [
            min(turn) / mine for mine, turn in zip(own, zip(*others, strict=True), strict=True)
        ]
        print(f"{task:12} sparse is {statistics.median(ratios):.1f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=55, help="slices for the sparse projector")
    parser.add_argument("--few", type=int, default=4, help="slices of parallelproj's stack")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for parallelproj, loaded later
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}")
    compare(options.slices, options.few, options.turns)


if __name__ == "__main__":
    main()
