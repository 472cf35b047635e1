"""How any volume comes to lie as all images here: its axes along the patient's, LPS."""

import numpy as np
from scipy.ndimage import affine_transform

from pipeline.images.volume import check_grid

STRAIGHT = 1e-3
"""Sine of the angle (0.06 deg) up to which an axis counts as the patient's; at 100 mm, 0.1 mm."""


def is_straight(affine_mm: np.ndarray) -> bool:
    """Whether each axis of a volume runs along one of the patient's, in either direction."""
    cosines = np.abs(_directions(affine_mm))
    return bool((np.sort(cosines, axis=0)[:2] <= STRAIGHT).all())


def to_lps(
    values: np.ndarray, affine_mm: np.ndarray, order: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Turn a volume so that x runs to the patient's left, y to posterior, z to superior.

    Axes along the patient's are exchanged and flipped: no value changes. Others are interpolated
    once, on the smallest grid that holds the whole volume, with its centre and its voxel sizes;
    beyond the volume are zeros.

    Parameters
    ----------
    values : array (z, y, x)
    affine_mm : array (4, 4)
        As of `pipeline.images.volume.Volume`.
    order : int
        Of the interpolation: 1 (linear), or 0 (nearest) for classes.
    where : str
        File to blame if the grid would be too large.

    Returns
    -------
    values : array (z, y, x), of the same dtype
    voxel_mm : array (3,), float64
        Voxel size along z, y, x.

    Raises
    ------
    InputError
        As `pipeline.images.volume.check_grid`.
    """
    nearest = _nearest_axes(affine_mm)  # for x, y, z of the patient
    size_mm = np.linalg.norm(affine_mm[:3, :3], axis=0)[nearest]
    if not is_straight(affine_mm):
        return _interpolated(values, affine_mm, size_mm, order, where), size_mm[::-1].copy()
    signs = affine_mm[range(3), nearest]
    # Array axes (z, y, x) are the affine's columns backwards, for the patient's axes too.
    turned = values.transpose([2 - axis for axis in nearest[::-1]])
    flips = tuple(slice(None, None, -1 if sign < 0 else 1) for sign in signs[::-1])
    return np.ascontiguousarray(turned[flips]), size_mm[::-1].copy()


def _directions(affine_mm: np.ndarray) -> np.ndarray:
    """Columns (3, 3) of length 1: directions of the voxel axes x, y, z."""
    steps = affine_mm[:3, :3]
    directions: np.ndarray = steps / np.linalg.norm(steps, axis=0)
    return directions


def _nearest_axes(affine_mm: np.ndarray) -> list[int]:
    """Voxel axis that runs along each of the patient's axes x, y, z, or nearest to it."""
    # Of all assignments of axes the one with the largest cosines.
    from itertools import permutations

    cosines = np.abs(_directions(affine_mm))
    return list(max(permutations(range(3)), key=lambda axes: cosines[range(3), axes].sum()))


def _interpolated(
    values: np.ndarray, affine_mm: np.ndarray, size_mm: np.ndarray, order: int, where: str
) -> np.ndarray:
    steps, counts = affine_mm[:3, :3], np.array(values.shape[::-1])
    extent_mm = np.abs(steps) @ counts
    shape = np.ceil(extent_mm / size_mm - STRAIGHT).astype(int)
    check_grid(where, tuple(map(int, shape[::-1])), np.diag([*size_mm, 1.0]))
    # From voxels of the result to those of the volume, both (x, y, z), by their common centre.
    matrix = np.linalg.solve(steps, np.diag(size_mm))
    offset = (counts - 1) / 2 - matrix @ ((shape - 1) / 2)
    result = np.empty(shape[::-1], values.dtype)
    backwards = matrix[::-1, ::-1]  # for axes (z, y, x)
    affine_transform(values, backwards, offset[::-1], output=result, order=order, mode="constant")
    return result
