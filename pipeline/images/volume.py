"""A volume as a file holds it: its values, and where its voxels lie in the patient."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.storage.errors import InputError

MAX_AXIS, MAX_VOXELS = 512, 2**26
"""Voxels along an axis, and of a volume: BrainWeb's have 434 and 57 million."""

VOXEL_MM = (0.05, 50.0)
"""Smallest and largest distance of neighbouring voxels that a scanner's image may have."""

UNKNOWN = "unknown"
"""Unit of values whose file states none."""


@dataclass(frozen=True)
class Volume:
    """Values of a file, its axes in their order, and where they lie.

    Attributes
    ----------
    values : array (z, y, x), float32
        The file's third, second and first axis, in whatever direction they run.
    affine_mm : array (4, 4), float64
        From voxel numbers (x, y, z, 1) to patient coordinates in mm: LPS as DICOM's, x to the
        patient's left, y to posterior, z to superior.
    unit : str
        Of the values, as the file states it; `UNKNOWN` if it does not.
    """

    values: np.ndarray
    affine_mm: np.ndarray
    unit: str = UNKNOWN


def check_grid(where: str | Path, shape: tuple[int, ...], affine_mm: np.ndarray) -> None:
    """Refuse a grid that no image has, or that is too large, before its values are read.

    Parameters
    ----------
    shape : tuple of int
        Along z, y, x.
    affine_mm : array (4, 4)
        As of `Volume`.

    Raises
    ------
    InputError
    """
    if min(shape) < 1 or max(shape) > MAX_AXIS or math.prod(shape) > MAX_VOXELS:
        raise InputError(
            where,
            f"has (z, y, x) = {shape} voxels; at most {MAX_AXIS} along an axis and {MAX_VOXELS} "
            "in all can be read",
            "crop it to the head, or resample it to larger voxels",
        )
    steps = affine_mm[:3, :3]
    size_mm = np.linalg.norm(steps, axis=0)
    low, high = VOXEL_MM
    sound = np.isfinite(affine_mm).all() and low <= size_mm.min() <= size_mm.max() <= high
    if not sound or abs(np.linalg.det(steps / size_mm)) < 0.5:
        raise InputError(
            where,
            f"has the affine {np.round(affine_mm[:3], 4).tolist()} in mm, which is none of an "
            f"image: voxels of {low} to {high} mm along three axes across one another",
            "export it again with its position and voxel size",
        )
