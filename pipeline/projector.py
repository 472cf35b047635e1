"""Rule ``system_matrix``, and line integrals along LORs behind one interface.

Both projectors follow Joseph (IEEE TMI 1(3), 1982): step through the pixel planes along the LOR's
main direction, interpolate linearly across it. They work on matrices whose columns are slices:
images as (pixel, slice), the pixels being those of the field of view, and sinograms as
(lor, slice), the LORs being those of one subset of views. `Projector.columns`, `Projector.images`,
`Projector.lors` and `Projector.sinograms` translate from and to (slice, y, x) and
(slice, view, radial).
"""

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse
import torch

from pipeline import hdf5
from pipeline.backend import device_for
from pipeline.errors import InputError
from pipeline.geometry import Grid, Ring, check_geometry, field_of_view
from pipeline.kinds import SYSTEM_MATRIX


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

    def __init__(self, ring: Ring, grid: Grid, subsets: int, device: torch.device):
        check_geometry(ring, grid, subsets)
        self.ring, self.grid, self.subsets, self.device = ring, grid, subsets, device
        self._pixels = torch.from_numpy(np.flatnonzero(field_of_view(ring, grid))).to(device)

    @abstractmethod
    def forward(self, columns: torch.Tensor, subset: int) -> torch.Tensor:
        """Line integrals (lor, slice), in mm times the unit of ``columns`` (pixel, slice)."""

    @abstractmethod
    def back(self, lors: torch.Tensor, subset: int) -> torch.Tensor:
        """Apply the adjoint of `forward` to (lor, slice); returns (pixel, slice)."""

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
        return torch.from_numpy(part).to(self.device).flatten(1).T.contiguous()

    def sinograms(self, lors: Sequence[torch.Tensor]) -> np.ndarray:
        """Sinograms (slice, view, radial) of the matrices (lor, slice) of all subsets."""
        views, radial = self.ring.views, self.ring.radial_bins
        result = np.empty((lors[0].shape[1], views, radial), dtype=np.float32)
        for subset, part in enumerate(lors):
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
        ring: Ring,
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


class ParallelprojProjector(Projector):
    """The same line integrals by the library parallelproj, on the CPU or a CUDA GPU.

    A stack of slices is a volume with one ring a slice, without oblique LORs.
    """

    name = "parallelproj"

    def __init__(self, ring: Ring, grid: Grid, subsets: int, device: torch.device):
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


def torch_csr(matrix: scipy.sparse.csr_array, device: torch.device) -> torch.Tensor:
    """Return a SciPy CSR matrix as a torch one with int32 indices, without copying on the CPU."""
    with warnings.catch_warnings():
        # torch announces its CSR tensors as "beta" once a process; the products used are tested.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr),
            torch.from_numpy(matrix.indices),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
            device=device,
            check_invariants=False,
        )


def joseph_weights(ring: Ring, grid: Grid, view: int) -> scipy.sparse.csr_array:
    """Joseph's interpolation weights of the LORs of one view.

    Returns
    -------
    csr_array (radial, size * size), float32
        Millimetres of each LOR that count for each pixel; zero outside the field of view.
    """
    start, end = (points[0] for points in ring.lors_mm(np.array([view])))
    along = end - start
    x_leads = np.abs(along[:, 0]) >= np.abs(along[:, 1])
    lead, rows = np.where(x_leads, 0, 1), np.arange(len(start))
    slope = along[rows, 1 - lead] / along[rows, lead]
    # Where the LOR crosses each pixel plane, in pixels across its main direction: (radial, plane).
    lead_mm = grid.centres_mm - start[rows, lead][:, None]
    side_mm = start[rows, 1 - lead][:, None] + lead_mm * slope[:, None]
    side = (side_mm - grid.centres_mm[0]) / grid.pixel_mm
    first = np.floor(side)
    neighbours = np.stack([first, first + 1], axis=-1).astype(np.int64)
    step_mm = grid.pixel_mm * np.hypot(1, slope)[:, None, None]
    weights = step_mm * np.stack([first + 1 - side, side - first], axis=-1)

    planes = np.broadcast_to(np.arange(grid.size)[:, None], neighbours.shape)
    y = np.where(x_leads[:, None, None], neighbours, planes)
    x = np.where(x_leads[:, None, None], planes, neighbours)
    kept = (neighbours >= 0) & (neighbours < grid.size) & (weights > 0)
    row_starts = np.concatenate([[0], np.cumsum(kept.sum(axis=(1, 2)))])
    return scipy.sparse.csr_array(
        (weights[kept].astype(np.float32), y[kept] * grid.size + x[kept], row_starts),
        shape=(len(start), grid.size**2),
    )


def system_matrices(
    ring: Ring, grid: Grid, subsets: int
) -> tuple[list[scipy.sparse.csr_array], list[scipy.sparse.csr_array]]:
    """Forward (lor, pixel) and back (pixel, lor) matrices of every subset, float32 and int32.

    Raises
    ------
    InputError
        As `pipeline.geometry.check_geometry`.
    """
    check_geometry(ring, grid, subsets)
    inside = field_of_view(ring, grid).ravel()
    number = np.cumsum(inside, dtype=np.int32) - 1
    forward = []
    for subset in range(subsets):
        parts = []
        for view in range(subset, ring.views, subsets):
            part = joseph_weights(ring, grid, view)
            kept = inside[part.indices]
            row_starts = np.concatenate([[0], np.cumsum(kept)])[part.indptr].astype(np.int32)
            columns = number[part.indices[kept]]
            parts.append(
                scipy.sparse.csr_array(
                    (part.data[kept], columns, row_starts), shape=(part.shape[0], inside.sum())
                )
            )
        matrix = scipy.sparse.vstack(parts, format="csr")
        matrix.sort_indices()
        forward.append(matrix)
    return forward, [matrix.T.tocsr() for matrix in forward]


def write_system_matrix(output: Path, ring: Ring, grid: Grid, subsets: int) -> None:
    """Rule ``system_matrix``: build the matrices of a geometry and store them."""
    arrays: dict[str, np.ndarray] = {}
    for operator, matrices in zip(
        ("forward", "back"), system_matrices(ring, grid, subsets), strict=True
    ):
        starts = np.cumsum([0] + [matrix.nnz for matrix in matrices])
        arrays[f"{operator}_weights"] = np.concatenate([matrix.data for matrix in matrices])
        arrays[f"{operator}_columns"] = np.concatenate([matrix.indices for matrix in matrices])
        arrays[f"{operator}_row_starts"] = np.concatenate(
            [
                matrix.indptr.astype(np.int64) + start
                for matrix, start in zip(matrices, starts[:-1], strict=True)
            ]
        )
    attributes = hdf5.provenance(_geometry(ring, grid, subsets))
    hdf5.write(output, SYSTEM_MATRIX, arrays, attributes)


def load(name: str, ring: Ring, grid: Grid, subsets: int, matrix: str | Path | None) -> Projector:
    """Build the projector ``name`` (from `pipeline.backend`) on the device where it runs.

    Parameters
    ----------
    matrix : path or None
        File of rule ``system_matrix``, which the sparse projector needs.

    Raises
    ------
    InputError
        If the file is damaged or was made for another geometry.
    """
    device = device_for(name)
    if name == "parallelproj":
        return ParallelprojProjector(ring, grid, subsets, device)
    if matrix is None:
        raise ValueError("the sparse projector needs a system matrix file")
    with hdf5.opened(matrix, SYSTEM_MATRIX) as file:
        found, wanted = file.attrs["config"], _geometry(ring, grid, subsets)
        remedy = "delete it and run rule 'system_matrix' again"
        pixels = int(field_of_view(ring, grid).sum())
        lors = ring.views // subsets * ring.radial_bins
        try:
            if json.loads(found) != wanted:
                problem = f"was made for {found}, not for {json.dumps(wanted)}"
                raise InputError(matrix, problem, remedy)
            forward = _read_matrices(file, "forward", subsets, (lors, pixels))
            back = _read_matrices(file, "back", subsets, (pixels, lors))
        except (ValueError, TypeError) as error:
            raise InputError(matrix, f"holds no such matrices ({error})", remedy) from error
    return SparseProjector(ring, grid, forward, back, device)


def _geometry(ring: Ring, grid: Grid, subsets: int) -> Mapping[str, Any]:
    return {"ring": asdict(ring), "grid": asdict(grid), "subsets": subsets}


def _read_matrices(
    file: h5py.File, operator: str, subsets: int, shape: tuple[int, int]
) -> list[scipy.sparse.csr_array]:
    weights = hdf5.finite(file[f"{operator}_weights"])
    columns = hdf5.finite(file[f"{operator}_columns"])
    starts = hdf5.finite(file[f"{operator}_row_starts"]).reshape(subsets, shape[0] + 1)
    matrices = [
        scipy.sparse.csr_array(
            (
                weights[row_starts[0] : row_starts[-1]],
                columns[row_starts[0] : row_starts[-1]],
                (row_starts - row_starts[0]).astype(np.int32),
            ),
            shape=shape,
        )
        for row_starts in starts
    ]
    for matrix in matrices:
        matrix.check_format()  # torch would read whatever lies where an index leads
    return matrices
