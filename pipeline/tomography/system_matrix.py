"""Rule ``system_matrix``: Joseph weights of all LORs as sparse matrices, and their file."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse

from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SYSTEM_MATRIX
from pipeline.tomography.geometry import Grid, check_geometry, field_of_view
from pipeline.tomography.scanners import Geometry


def joseph_weights(ring: Geometry, grid: Grid, view: int) -> scipy.sparse.csr_array:
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
    ring: Geometry, grid: Grid, subsets: int
) -> tuple[list[scipy.sparse.csr_array], list[scipy.sparse.csr_array]]:
    """Forward (lor, pixel) and back (pixel, lor) matrices of every subset, float32 and int32.

    Raises
    ------
    InputError
        As `pipeline.tomography.geometry.check_geometry`.
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


def write(output: Path, ring: Geometry, grid: Grid, subsets: int) -> None:
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


def read(
    path: str | Path, ring: Geometry, grid: Grid, subsets: int | None
) -> tuple[list[scipy.sparse.csr_array], list[scipy.sparse.csr_array]]:
    """Read the matrices of `system_matrices` from a file of rule ``system_matrix``.

    Parameters
    ----------
    subsets : int or None
        Which it must have; None for any.

    Raises
    ------
    InputError
        If the file is damaged or was made for another geometry.
    """
    with hdf5.opened(path, SYSTEM_MATRIX) as file:
        found = file.attrs["config"]
        remedy = "delete it and run rule 'system_matrix' again"
        pixels = int(field_of_view(ring, grid).sum())
        try:
            if subsets is None:
                subsets = int(json.loads(found)["subsets"])
                if subsets < 1:
                    raise ValueError(f"{subsets} subsets")
            wanted = _geometry(ring, grid, subsets)
            if json.loads(found) != wanted:
                problem = f"was made for {found}, not for {json.dumps(wanted)}"
                raise InputError(path, problem, remedy)
            lors = ring.views // subsets * ring.radial_bins
            forward = _read_matrices(file, "forward", subsets, (lors, pixels))
            back = _read_matrices(file, "back", subsets, (pixels, lors))
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(path, f"holds no such matrices ({error})", remedy) from error
    return forward, back


def _geometry(ring: Geometry, grid: Grid, subsets: int) -> Mapping[str, Any]:
    """Give what a file says of its matrices, as JSON has it."""
    found = {"ring": asdict(ring), "grid": asdict(grid), "subsets": subsets}
    return dict(json.loads(json.dumps(found)))


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
