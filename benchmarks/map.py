"""MAP against OSEM: time a slice, and passes over the data until the image stays.

Both reconstruct the same slices, in one process, taking turns; a ratio is the median over the turns
of their times' ratio. How far an image is from the last one is the largest over the slices of
relative Euclidean distances, the last being that of many more iterations.

    python -m benchmarks.map [--slices 25] [--turns 3] [--threads 1] [--only demo paper]
"""

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from models.configuration import ROOT, read_configuration
from pipeline.map import OSEM_ITERATIONS, PASSES, MapSettings, map_images
from pipeline.osem import OsemSettings, osem
from pipeline.tomography.forward_model import ForwardModel
from pipeline.tomography.geometry import Grid, grid_from
from pipeline.tomography.projectors import SparseProjector
from pipeline.tomography.scanners import scanner_from
from pipeline.tomography.system_matrix import system_matrices

OVERLAYS: dict[str, list[Path]] = {"demo": [ROOT / "config" / "demo.yaml"], "paper": []}
DOSES = {1.0: 0.1, 0.05: 0.03}
"""Part of the configuration's counts, and a beta (per activity) near its best."""

MANY = 40
"""Iterations after which an image stays."""

CLOSE = 1e-3


def heads(grid: Grid, slices: int) -> np.ndarray:
    """Ellipses (slice, y, x) with folds of grey (128) and white matter (32), 3 mm blurred."""
    rng = np.random.default_rng(0)
    c = grid.centres_mm
    inside = (c[:, None] / 100) ** 2 + (c[None, :] / 75) ** 2 <= 1
    folds = rng.normal(size=(slices, grid.size, grid.size))
    folds = gaussian_filter(folds, [0, 8 / grid.pixel_mm, 8 / grid.pixel_mm])
    images = np.where(folds > 0, 128, 32) * inside
    return gaussian_filter(images, [0, *[3 / 2.355 / grid.pixel_mm] * 2]).astype(np.float32)


def seconds(iterates: Callable[[], Iterable[object]]) -> float:
    """Time that all iterates take."""
    start = time.perf_counter()
    deque(iterates(), maxlen=0)
    return time.perf_counter() - start


def compare(name: str, slices: int, turns: int) -> None:
    """Print times and distances of one configuration."""
    config = read_configuration(OVERLAYS[name])
    ring, grid = scanner_from(config["scanner"]), grid_from(config)
    settings, simulation = OsemSettings(**config["osem"]), config["simulation"]
    subsets, iterations = settings.subsets, config["classical"]["map_iterations"]
    matrices = system_matrices(ring, grid, subsets)
    projector = SparseProjector(ring, grid, *matrices, torch.device("cpu"))
    columns = projector.columns(heads(grid, slices))
    trues = [projector.forward(columns, subset) for subset in range(subsets)]
    total = sum(float(part.sum()) for part in trues) / slices
    for dose, beta in DOSES.items():
        scale = dose * simulation["prompts_per_slice"] / total
        noise = torch.Generator().manual_seed(1)
        prompts = [torch.poisson(scale * part, noise) for part in trues]
        background = [torch.zeros_like(part) for part in trues]
        plain = ForwardModel(projector, simulation["psf_fwhm_mm"])
        model = plain.times([torch.full((1, slices), scale)] * subsets)
        prior = MapSettings(beta, 2.0, 0.1, iterations)
        both = (
            lambda m=plain, y=prompts, r=background: osem(m, y, r, settings.iterations),
            lambda m=model, y=prompts, r=background, p=prior: map_images(m, y, r, p),
        )
        times = [[seconds(each) / slices * 1e3 for each in both] for _ in range(turns)]
        own, other = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        print(f"{name}, {dose:.0%} of the counts, {slices} slices, beta {beta:g}")
        print(f"  OSEM {settings.iterations} x {subsets}: {own:.1f} ms/slice")
        print(f"  MAP, {iterations} iterations: {other:.1f} ms/slice, {ratio:.1f} times as long")
        far = distances(model, prompts, background, replace(prior, iterations=MANY))
        passes = [OSEM_ITERATIONS + 1 + PASSES * n for n in range(len(far))]
        close = next(n for n, value in zip(passes, far, strict=True) if value < CLOSE)
        print(
            f"  within {far[iterations]:.1e} then; within {CLOSE:g} after {close} passes",
            flush=True,
        )


def distances(
    model: ForwardModel,
    prompts: list[torch.Tensor],
    background: list[torch.Tensor],
    settings: MapSettings,
) -> list[float]:
    """How far each iteration's image is from the last one's."""
    images = [found.image for found in map_images(model, prompts, background, settings)]
    norm = images[-1].norm(dim=0)
    return [float(((image - images[-1]).norm(dim=0) / norm).max()) for image in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=25)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=OVERLAYS, default=list(OVERLAYS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}")
    for name in options.only:
        compare(name, options.slices, options.turns)


if __name__ == "__main__":
    main()
