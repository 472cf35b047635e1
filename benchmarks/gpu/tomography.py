"""Projectors, OSEM and MAP on this device: against float64 on the CPU, and their times."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import numpy as np
import scipy.sparse
import torch

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.right import relative
from benchmarks.gpu.table import NotRun, Row
from benchmarks.map import Case, heads
from benchmarks.steps import CPU
from pipeline.map import MapSettings
from pipeline.osem import SLICES_AT_A_TIME
from pipeline.tomography.backend import device_for, parallelproj_installed, resolve
from pipeline.tomography.geometry import Grid, grid_from
from pipeline.tomography.projectors import ParallelprojProjector, Projector, SparseProjector
from pipeline.tomography.scanners import Geometry, scanner_from
from pipeline.tomography.system_matrix import system_matrices

SLICES = 2
"""Slices that are compared."""

CLOSE = 1e-5
"""Largest relative error of a projection."""

CLOSE_IMAGES = 1e-4
"""Largest relative error of an image, after many projections."""

PRIOR = MapSettings(beta=0.1, gamma=2.0, epsilon=0.1, iterations=2)


class ExactProjector(Projector):
    """The sparse projector's matrices in float64, on the CPU, by SciPy."""

    name = "float64"

    def __init__(
        self,
        ring: Geometry,
        grid: Grid,
        forward: Sequence[scipy.sparse.csr_array],
        back: Sequence[scipy.sparse.csr_array],
    ):
        super().__init__(ring, grid, len(forward), CPU)
        self._forward = [matrix.astype(np.float64) for matrix in forward]
        self._back = [matrix.astype(np.float64) for matrix in back]

    def forward(self, columns: torch.Tensor, subset: int) -> torch.Tensor:
        """See `Projector.forward`."""
        return _product(self._forward[subset], columns)

    def back(self, lors: torch.Tensor, subset: int) -> torch.Tensor:
        """See `Projector.back`."""
        return _product(self._back[subset], lors)

    def _keep(self, taken: Sequence[torch.Tensor]) -> None:
        self._forward = [m[of.numpy()] for m, of in zip(self._forward, taken, strict=True)]
        self._back = [m[:, of.numpy()] for m, of in zip(self._back, taken, strict=True)]


def _product(matrix: scipy.sparse.csr_array, columns: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(matrix @ columns.double().numpy()).float()


class Scene:
    """A geometry, heads in it and their counts."""

    def __init__(self, machine: Machine):
        config = self._config = machine.config
        self._device = machine.device
        self.ring, self.grid = scanner_from(config["scanner"]), grid_from(config)
        self.subsets = config["osem"]["subsets"]
        self._matrices = system_matrices(self.ring, self.grid, self.subsets)

    @cached_property
    def exact(self) -> ExactProjector:
        """The reference."""
        return ExactProjector(self.ring, self.grid, *self._matrices)

    @cached_property
    def sparse(self) -> SparseProjector:
        """The projector on the device."""
        return SparseProjector(self.ring, self.grid, *self._matrices, self._device)

    @cached_property
    def parallelproj(self) -> ParallelprojProjector:
        """The library's projector on the device.

        Raises
        ------
        NotRun
            If it is not installed, or not for this device.
        """
        if not parallelproj_installed():
            raise NotRun("parallelproj is not installed")
        if device_for("parallelproj").type != self._device.type:
            raise NotRun("parallelproj was built without CUDA")
        return ParallelprojProjector(self.ring, self.grid, self.subsets, self._device)

    def case(self, slices: int) -> Case:
        """Counts of so many slices, on the CPU."""
        trues = projected(self.exact, self.exact.columns(heads(self.grid, slices)))
        total = sum(float(part.sum()) for part in trues) / slices
        scale = self._config["simulation"]["prompts_per_slice"] / total
        noise = torch.Generator().manual_seed(1)
        prompts = [torch.poisson(scale * part, noise) for part in trues]
        psf_fwhm_mm = self._config["simulation"]["psf_fwhm_mm"]
        return Case(prompts, scale, psf_fwhm_mm, self._config["osem"]["iterations"], PRIOR)


def projected(projector: Projector, columns: torch.Tensor) -> list[torch.Tensor]:
    """Project on all LORs."""
    return [projector.forward(columns, subset) for subset in range(projector.subsets)]


def _on(case: Case, device: torch.device) -> Case:
    return case._replace(prompts=[part.to(device) for part in case.prompts])


def sparse_agrees(scene: Scene) -> Iterator[Row]:
    """Compare the sparse projector, and images made with it, with float64."""
    case, exact, sparse = scene.case(SLICES), scene.exact, scene.sparse
    columns = exact.columns(heads(scene.grid, SLICES))
    expected, found = projected(exact, columns), projected(sparse, columns.to(sparse.device))
    yield Row("sparse projector: forward projection", relative(found, expected), limit=CLOSE)
    counted = [part.to(sparse.device) for part in case.prompts]
    expected, found = (
        [projector.back(part, subset) for subset, part in enumerate(lors)]
        for projector, lors in ((exact, case.prompts), (sparse, counted))
    )
    yield Row("sparse projector: back projection", relative(found, expected), limit=CLOSE)
    bins = scene.ring.radial_bins
    central = np.abs(np.arange(bins) - bins // 2) < bins // 4
    marked = np.tile(central, (scene.ring.views, 1))
    expected, found = (
        [few.back(part, subset) for subset, part in enumerate(projected(few, images))]
        for few, images in (
            (exact.of_lors(marked), columns),
            (sparse.of_lors(marked), columns.to(sparse.device)),
        )
    )
    yield Row("sparse projector of half of the LORs", relative(found, expected), limit=CLOSE)
    for name, method in (("OSEM", Case.osem_images), ("MAP", Case.map_images)):
        *_, image = method(_on(case, sparse.device), sparse)
        *_, reference = method(case, exact)
        error = relative([image], [reference])
        yield Row(f"{name} with the sparse projector", error, limit=CLOSE_IMAGES)


def parallelproj_agrees(scene: Scene) -> Iterator[Row]:
    """Compare parallelproj with the sparse projector."""
    columns = scene.sparse.columns(heads(scene.grid, SLICES))
    found = projected(scene.parallelproj, columns)
    error = relative(found, projected(scene.sparse, columns))
    yield Row("parallelproj against the sparse projector", error, limit=CLOSE)


def auto_takes_parallelproj(scene: Scene) -> Iterator[Row]:
    """Check which projector the configuration's ``auto`` is."""
    if scene.parallelproj.device.type != "cuda":
        raise NotRun("there is no GPU, and `auto` is sparse")
    taken = resolve("auto")
    wrong = "" if taken == "parallelproj" else f"it takes {taken}"
    yield Row("projector: auto takes parallelproj", 0.0, limit=0.0, error=wrong)


def times(machine: Machine, scene: Scene, name: str) -> Iterator[Row]:
    """Time a projector: a forward projection, and OSEM."""
    projector: Projector = getattr(scene, name)
    slices = SLICES_AT_A_TIME if machine.cuda else SLICES
    case = _on(scene.case(slices), projector.device)
    columns = projector.columns(heads(scene.grid, slices))
    model_iterations = f"{case.osem} x {scene.subsets}"
    for what, action in (
        ("forward projection", partial(projected, projector, columns)),
        (f"OSEM, {model_iterations}", lambda: list(case.osem_images(projector))),
    ):
        ms = machine.seconds(action, 3) / slices * 1e3
        yield Row(f"{name}: {what}", ms, "ms/slice", note=f"{slices} slices at a time")
