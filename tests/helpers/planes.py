"""Slices of small heads: settings, classes and coordinates."""

import numpy as np

from pipeline.phantom import Texture
from pipeline.tomography.geometry import SliceSettings


def centres(shape, voxel_mm):
    """Coordinates (y, x) of voxel centres in mm, as open grids."""
    y, x = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, voxel_mm, strict=True))
    return y[:, None], x[None, :]


def centroid(image, grid):
    """Centre of mass (x, y) in mm."""
    weights = image.astype(np.float64) / image.sum(dtype=np.float64)
    return weights.sum(axis=0) @ grid.centres_mm, weights.sum(axis=1) @ grid.centres_mm


SETTINGS = SliceSettings(
    size=24,
    pixel_mm=2.0,
    slice_mm=2.0,
    volume_slices=20,
    rotations=3,
    max_rotation_deg=15.0,
    per_volume=4,
)

NO_TEXTURE = Texture(fraction=0.0, sigma_voxels=1.0)
