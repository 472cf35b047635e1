"""Line integrals along LORs: two projectors behind one interface.

Both projectors follow Joseph (IEEE TMI 1(3), 1982): step through the pixel planes along the LOR's
main direction, interpolate linearly across it. They work on matrices whose columns are slices:
images as (pixel, slice), the pixels being those of the field of view, and sinograms as
(lor, slice), the LORs being those of one subset of views. `Projector.columns`, `Projector.images`,
`Projector.lors` and `Projector.sinograms` translate from and to (slice, y, x) and
(slice, view, radial).
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np
import scipy.sparse
import torch

from pipeline.tomography import system_matrix
from pipeline.tomography.backend import device_for
from pipeline.tomography.geometry import Grid, check_geometry, field_of_view
from pipeline.tomography.scanners import Geometry


class Projector(ABC):
    """Forward and back projection of stacks of slices.

    Parameters
    ----------
    ring, grid
        The geometry.
    subsets : int
        Subset s holds the views s, s + subsets, s + 2 subsets, ...
    device : torch.device
        Where images and sinograms are kept.

    Raises
    ------
    InputError
        If the subsets do not divide the views, or the image reaches beyond the ring.
    """

    name: str
    """``"sparse"`` or ``"parallelproj"``, as written into files."""

    def __init__(self, ring: Geometry, grid: Grid, subsets: int, device: torch.device):
        check_geometry(ring, grid, subsets)
        self.ring, self.grid, self.subsets, self.device = ring, grid, subsets, device
        self._taken: Sequence[torch.Tensor] | None = None  # of `of_lors`
        self._pixels = torch.from_numpy(np.flatnonzero(field_of_view(ring, grid))).to(device)

    @abstractmethod
    def forward(self, columns: torch.Tensor, subset: int) -> torch.Tensor:
        """Line integrals (lor, slice), in mm times the unit of ``columns`` (pixel, slice)."""

    @abstractmethod
    def back(self, lors: torch.Tensor, subset: int) -> torch.Tensor:
        """Apply the adjoint of `forward` to (lor, slice); returns (pixel, slice)."""

    def of_lors(self, marked: np.ndarray) -> Self:
        """Give the same projector of fewer LORs: of those marked, (view, radial) of bool.

        Its matrices (lor, slice) are without the others, which in its `sinograms` are 0.

        Raises
        ------
        ValueError
            If this is such a projector itself.
        """
        if self._taken is not None:
            raise ValueError("some LORs are left out already; start from the projector of all")
        other = copy(self)
        other._taken = [
            torch.from_numpy(np.flatnonzero(marked[subset :: self.subsets])).to(self.device)
            for subset in range(self.subsets)
        ]
        other._keep(other._taken)
        return other

    @abstractmethod
    def _keep(self, taken: Sequence[torch.Tensor]) -> None:
        """Let `forward` and `back` be of these LORs of each subset, in place of all."""

    def take(self, lors: torch.Tensor, subset: int) -> torch.Tensor:
        """Rows of a matrix (lor, slice) of all LORs of a subset that are this projector's."""
        return lors if self._taken is None else lors[self._taken[subset]]

    def columns(self, images: np.ndarray) -> torch.Tensor:
        """Matrix (pixel, slice) of the images (slice, y, x) inside the field of view."""
        flat = torch.from_numpy(images.reshape(len(images), -1)).to(self.device)
        return flat.T[self._pixels].contiguous()

    def images(self, columns: torch.Tensor) -> np.ndarray:
        """Images (slice, y, x) of a matrix (pixel, slice), zero outside the field of view."""
        flat = columns.new_zeros(columns.shape[1], self.grid.size**2)
        flat[:, self._pixels] = columns.T
        return flat.unflatten(1, (self.grid.size, self.grid.size)).cpu().numpy()

    def lors(self, sinograms: np.ndarray, subset: int) -> torch.Tensor:
        """Matrix (lor, slice) float32 of one subset of the sinograms (slice, view, radial)."""
        part = np.asarray(sinograms[:, subset :: self.subsets], dtype=np.float32)
        return self.take(torch.from_numpy(part).to(self.device).flatten(1).T, subset).contiguous()

    def sinograms(self, lors: Sequence[torch.Tensor]) -> np.ndarray:
        """Sinograms (slice, view, radial) of the matrices (lor, slice) of all subsets."""
        views, radial = self.ring.views, self.ring.radial_bins
        result = np.empty((lors[0].shape[1], views, radial), dtype=np.float32)
        for subset, part in enumerate(lors):
            if self._taken is not None:
                every = part.new_zeros(views // self.subsets * radial, part.shape[1])
                part = every.index_copy_(0, self._taken[subset], part)
            result[:, subset :: self.subsets] = part.T.unflatten(1, (-1, radial)).cpu().numpy()
        return result

    def project(self, images: np.ndarray) -> np.ndarray:
        """Line integrals (slice, view, radial) of float32 images (slice, y, x) on all LORs."""
        columns = self.columns(images)
        return self.sinograms([self.forward(columns, subset) for subset in range(self.subsets)])


class SparseProjector(Projector):
    """Joseph projector as CSR matrices: for each subset one, and its transpose.

    Parameters
    ----------
    forward, back : sequences of scipy.sparse.csr_array
        From `system_matrices`, or read from the file of rule ``system_matrix``.
    """

    name = "sparse"

    def __init__(
        self,
        ring: Geometry,
        grid: Grid,
        forward: Sequence[scipy.sparse.csr_array],
        back: Sequence[scipy.sparse.csr_array],
        device: torch.device,
    ):
        super().__init__(ring, grid, len(forward), device)
        self._forward = [torch_csr(matrix, device) for matrix in forward]
        self._back = [torch_csr(matrix, device) for matrix in back]

    def forward(self, columns: torch.Tensor, subset: int) -> torch.Tensor:
        """See `Projector.forward`."""
        return self._forward[subset] @ columns

    def back(self, lors: torch.Tensor, subset: int) -> torch.Tensor:
        """See `Projector.back`."""
        return self._back[subset] @ lors

    def _keep(self, taken: Sequence[torch.Tensor]) -> None:
        rows, columns = (zip(of, taken, strict=True) for of in (self._forward, self._back))
        self._forward = [_rows(matrix, lors) for matrix, lors in rows]
        self._back = [_columns(matrix, lors) for matrix, lors in columns]


class ParallelprojProjector(Projector):
    """The same line integrals by the library parallelproj, on the CPU or a CUDA GPU.

    A stack of slices is a volume with one ring a slice, without oblique LORs.
    """

    name = "parallelproj"

    def __init__(self, ring: Geometry, grid: Grid, subsets: int, device: torch.device):
        super().__init__(ring, grid, subsets, device)
        import parallelproj_core

        self._library = parallelproj_core
        self._origin_mm = torch.tensor([0.0, *[grid.centres_mm[0]] * 2], device=device).float()
        self._voxel_mm = torch.tensor([grid.pixel_mm] * 3, device=device).float()
        self._ends = [
            [
                torch.from_numpy(points[..., ::-1].copy()).float().flatten(0, 1).to(device)
                for points in ring.lors_mm(np.arange(subset, ring.views, subsets))
            ]
            for subset in range(subsets)
        ]

    def _volume_ends(self, subset: int, slices: int) -> list[torch.Tensor]:
        """Start and end points (slice, lor, 3) as (z, y, x) in mm; slice k lies at k pixels."""
        result = []
        for points in self._ends[subset]:
            ends = points.new_empty(slices, len(points), 3)
            ends[..., 0] = torch.arange(slices, device=self.device)[:, None] * self.grid.pixel_mm
            ends[..., 1:] = points
            result.append(ends)
        return result

    def forward(self, columns: torch.Tensor, subset: int) -> torch.Tensor:
        """See `Projector.forward`."""
        volume = columns.new_zeros(columns.shape[1], self.grid.size**2)
        volume[:, self._pixels] = columns.T
        volume = volume.unflatten(1, (self.grid.size, self.grid.size))
        start, end = self._volume_ends(subset, columns.shape[1])
        lors = torch.zeros(start.shape[:-1], dtype=torch.float32, device=self.device)
        self._library.joseph3d_fwd(start, end, volume, self._origin_mm, self._voxel_mm, lors)
        return lors.T.contiguous()

    def back(self, lors: torch.Tensor, subset: int) -> torch.Tensor:
        """See `Projector.back`."""
        start, end = self._volume_ends(subset, lors.shape[1])
        volume = lors.new_zeros(lors.shape[1], self.grid.size, self.grid.size)
        values = lors.T.contiguous()
        self._library.joseph3d_back(start, end, volume, self._origin_mm, self._voxel_mm, values)
        return volume.flatten(1)[:, self._pixels].T.contiguous()

    def _keep(self, taken: Sequence[torch.Tensor]) -> None:
        pairs = zip(self._ends, taken, strict=True)
        self._ends = [[points[lors] for points in ends] for ends, lors in pairs]


def torch_csr(matrix: scipy.sparse.csr_array, device: torch.device) -> torch.Tensor:
    """Return a SciPy CSR matrix as a torch one with int32 indices, without copying on the CPU."""
    parts = (matrix.indptr, matrix.indices, matrix.data)
    starts, columns, values = (torch.from_numpy(part).to(device) for part in parts)
    return _csr(starts, columns, values, matrix.shape)


def _csr(
    starts: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch announces its CSR tensors as "beta" once a process; the products used are tested.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(starts, columns, values, size=shape, check_invariants=False)


def _rows(matrix: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Some rows of a CSR matrix, in ascending order."""
    starts = matrix.crow_indices()
    lengths = starts.diff()
    marked = torch.zeros(len(lengths), dtype=torch.bool, device=matrix.device)
    marked[wanted] = True
    kept = marked.repeat_interleave(lengths)
    ends = lengths[wanted].cumsum(0, dtype=starts.dtype)
    return _csr(
        torch.cat([starts[:1], ends]),
        matrix.col_indices()[kept],
        matrix.values()[kept],
        (len(wanted), matrix.shape[1]),
    )


def _columns(matrix: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Some columns of a CSR matrix, in ascending order."""
    starts, columns = matrix.crow_indices(), matrix.col_indices()
    number = columns.new_full((matrix.shape[1],), -1)
    number[wanted] = torch.arange(len(wanted), dtype=columns.dtype, device=matrix.device)
    renamed = number[columns]
    kept = renamed >= 0
    before = torch.cat([starts[:1], kept.cumsum(0, dtype=starts.dtype)])
    return _csr(
        before[starts], renamed[kept], matrix.values()[kept], (matrix.shape[0], len(wanted))
    )


def load(
    name: str, ring: Geometry, grid: Grid, subsets: int | None, matrix: str | Path | None
) -> Projector:
    """Build the projector ``name``, from `pipeline.tomography.backend`, on its device.

    Parameters
    ----------
    subsets : int or None
        None where they do not matter: those of the file, or one.
    matrix : path or None
        File of rule ``system_matrix``, which the sparse projector needs.

    Raises
    ------
    InputError
        If the file is damaged or was made for another geometry.
    """
    device = device_for(name)
    if name == "parallelproj":
        return ParallelprojProjector(ring, grid, subsets or 1, device)
    if matrix is None:
        raise ValueError("the sparse projector needs a system matrix file")
    return SparseProjector(ring, grid, *system_matrix.read(matrix, ring, grid, subsets), device)
