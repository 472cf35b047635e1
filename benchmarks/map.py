"""MAP against OSEM: time a slice, and passes over the data until the image stays.

Both reconstruct the same slices, in one process, taking turns; a ratio is the median over the turns
of their times' ratio. Times are the processor's, of all threads. How far an image is from the last
one is the largest over the slices of relative Euclidean distances, the last being that of many more
iterations.

Where parallelproj can be imported, both methods also run, in the same turns, with its projector in
place of the sparse one, on the first few of the slices: the same updates of the same data.

    python -m benchmarks.map [--slices 25] [--few 2] [--turns 3] [--threads 1] [--only demo paper]
"""

import argparse
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

# torch and parallelproj bring an OpenMP runtime each; idle threads of the one must not spin while
# the other works. Has to be set before either is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from models.configuration import ROOT, read_configuration
from pipeline.map import OSEM_ITERATIONS, PASSES, MapSettings, map_images
from pipeline.osem import OsemSettings, osem
from pipeline.tomography.backend import parallelproj_installed
from pipeline.tomography.forward_model import ForwardModel
from pipeline.tomography.geometry import Grid, grid_from
from pipeline.tomography.projectors import ParallelprojProjector, Projector, SparseProjector
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


class Case(NamedTuple):
    """Counts of some slices, and how both methods reconstruct them.

    ``prompts``, one tensor (lor, slice) a subset; ``scale``, counts per mm of an activity;
    ``psf_fwhm_mm``; ``osem``, iterations; ``map``.
    """

    prompts: list[torch.Tensor]
    scale: float
    psf_fwhm_mm: float
    osem: int
    map: MapSettings

    def first(self, slices: int) -> "Case":
        """Give the same of the first slices alone."""
        return self._replace(prompts=[part[:, :slices].contiguous() for part in self.prompts])

    def osem_images(self, projector: Projector) -> Iterator[torch.Tensor]:
        """Images (pixel, slice) of OSEM in counts per mm, after each iteration."""
        model = ForwardModel(projector, self.psf_fwhm_mm)
        return osem(model, self.prompts, self._background, self.osem)

    def map_images(self, projector: Projector) -> Iterator[torch.Tensor]:
        """Images (pixel, slice) of MAP in activity units, that to start from and all others."""
        scales = [torch.full_like(self.prompts[0][:1], self.scale)] * len(self.prompts)
        model = ForwardModel(projector, self.psf_fwhm_mm, scales)
        for found in map_images(model, self.prompts, self._background, self.map):
            yield found.image

    @property
    def _background(self) -> list[torch.Tensor]:
        return [torch.zeros_like(part) for part in self.prompts]

    def ms(self, projector: Projector) -> tuple[float, float]:
        """Milliseconds a slice that OSEM and MAP take."""
        slices = self.prompts[0].shape[1]
        both = self.osem_images, self.map_images
        own, other = (seconds(each(projector)) / slices * 1e3 for each in both)
        return own, other


def seconds(iterates: Iterable[object]) -> float:
    """Processor time that all iterates take."""
    start = time.process_time()
    deque(iterates, maxlen=0)
    return time.process_time() - start


def compare(name: str, slices: int, few: int, turns: int) -> None:
    """Print times and distances of one configuration."""
    config = read_configuration(OVERLAYS[name])
    ring, grid = scanner_from(config["scanner"]), grid_from(config)
    settings, simulation = OsemSettings(**config["osem"]), config["simulation"]
    subsets, iterations = settings.subsets, config["classical"]["map_iterations"]
    cpu = torch.device("cpu")
    projector = SparseProjector(ring, grid, *system_matrices(ring, grid, subsets), cpu)
    columns = projector.columns(heads(grid, slices))
    trues = [projector.forward(columns, subset) for subset in range(subsets)]
    total = sum(float(part.sum()) for part in trues) / slices
    for dose, beta in DOSES.items():
        scale = dose * simulation["prompts_per_slice"] / total
        noise = torch.Generator().manual_seed(1)
        prompts = [torch.poisson(scale * part, noise) for part in trues]
        prior = MapSettings(beta, 2.0, 0.1, iterations)
        case = Case(prompts, scale, simulation["psf_fwhm_mm"], settings.iterations, prior)
        contestants: dict[str, tuple[Projector, Case]] = {"sparse": (projector, case)}
        if parallelproj_installed():
            other = ParallelprojProjector(ring, grid, subsets, cpu)
            contestants["parallelproj"] = other, case.first(few)
        print(f"{name}, {dose:.0%} of the counts, {slices} slices, beta {beta:g}")
        print(f"  OSEM {settings.iterations} x {subsets}; MAP, {iterations} iterations")
        report([{k: c.ms(p) for k, (p, c) in contestants.items()} for _ in range(turns)])
        if parallelproj_installed():
            agreement(list(contestants.values()))
        far = distances(case._replace(map=replace(prior, iterations=MANY)), projector)
        passes = [OSEM_ITERATIONS + 1 + PASSES * n for n in range(len(far))]
        close = next(n for n, value in zip(passes, far, strict=True) if value < CLOSE)
        print(
            f"  within {far[iterations]:.1e} then; within {CLOSE:g} after {close} passes",
            flush=True,
        )


def report(turns: list[dict[str, tuple[float, float]]]) -> None:
    """Print times of OSEM and MAP with each projector, and ratios to the first one's."""
    sparse = np.array([turn["sparse"] for turn in turns])
    for name in turns[0]:
        own = np.array([turn[name] for turn in turns])
        osem_ms, map_ms = np.median(own, axis=0)
        ratio = np.median(own[:, 1] / own[:, 0])
        print(f"  {name}: OSEM {osem_ms:.1f}, MAP {map_ms:.1f} ms/slice, {ratio:.1f} times as long")
        if name != "sparse":
            osem_times, map_times = np.median(own / sparse, axis=0)
            print(f"  sparse is {osem_times:.1f} and {map_times:.1f} times as fast")


def agreement(contestants: Sequence[tuple[Projector, Case]]) -> None:
    """Print how far the images of two projectors differ, the largest over the slices of both."""
    for name, method in (("OSEM", Case.osem_images), ("MAP", Case.map_images)):
        *_, full = method(contestants[0][1], contestants[0][0])
        *_, part = method(contestants[1][1], contestants[1][0])
        difference = (full[:, : part.shape[1]] - part).norm(dim=0) / part.norm(dim=0)
        print(f"  {name}: images of the two projectors differ by {float(difference.max()):.1e}")


def distances(case: Case, projector: Projector) -> list[float]:
    """How far each iteration's image of MAP is from the last one's."""
    images = list(case.map_images(projector))
    norm = images[-1].norm(dim=0)
    return [float(((image - images[-1]).norm(dim=0) / norm).max()) for image in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=25)
    parser.add_argument("--few", type=int, default=2, help="slices for parallelproj")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=OVERLAYS, default=list(OVERLAYS))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for parallelproj, loaded later
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}")
    for name in options.only:
        compare(name, options.slices, options.few, options.turns)


if __name__ == "__main__":
    main()
