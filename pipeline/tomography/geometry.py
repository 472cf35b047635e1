"""The pixel grid and the field of view: where pixels lie, in mm, and which a scanner sees.

Coordinates are those of `pipeline.tomography.scanners`. An image (slice, y, x) drawn with its row 0
on top thus shows anterior up and the patient's left on the right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.storage.errors import InputError
from pipeline.tomography.scanners import Geometry


@dataclass(frozen=True)
class Grid:
    """A square image grid centred on the scanner axis.

    Parameters
    ----------
    size : int
        Pixels on a side.
    pixel_mm : float
        Side of a pixel.
    """

    size: int
    pixel_mm: float

    @property
    def centres_mm(self) -> np.ndarray:
        """Coordinates (size,) of the pixel centres along x, and along y."""
        return (np.arange(self.size) - (self.size - 1) / 2) * self.pixel_mm

    def finer(self, factor: int) -> "Grid":
        """Return the grid of the same extent with every pixel cut into factor x factor."""
        return Grid(self.size * factor, self.pixel_mm / factor)


@dataclass(frozen=True)
class SliceSettings:
    """The configuration's ``slices``: how phantoms are resampled to the scanner's grid.

    Attributes
    ----------
    size : int
        Pixels on a side of the image.
    pixel_mm : float
        Side of a pixel.
    slice_mm : float
        Thickness of a slice.
    volume_slices : int
        Axial slices of the scanner's volume.
    rotations : int
        Of each phantom; the first is by 0 degrees.
    max_rotation_deg : float
        The others are uniform between minus and plus this.
    per_volume : int
        Slices used of each rotated volume, spread evenly over the brain.
    """

    size: int
    pixel_mm: float
    slice_mm: float
    volume_slices: int
    rotations: int
    max_rotation_deg: float
    per_volume: int

    @property
    def grid(self) -> Grid:
        """The reconstruction grid."""
        return Grid(self.size, self.pixel_mm)


def field_of_view_mm(ring: Geometry, grid: Grid) -> float:
    """Radius of the circle around the axis that the image and all views cover, in mm."""
    radial_mm, _ = ring.radial_and_angle()
    covered_mm = np.abs(radial_mm[:, [0, -1]]).min()
    return float(min(covered_mm, grid.size * grid.pixel_mm / 2))


def field_of_view(ring: Geometry, grid: Grid) -> np.ndarray:
    """Boolean (y, x): pixels whose centre lies in the field of view."""
    squared = grid.centres_mm**2
    return squared[:, None] + squared[None, :] <= field_of_view_mm(ring, grid) ** 2


def grid_from(config: Mapping[str, Any]) -> Grid:
    """Build the reconstruction grid from the configuration's section ``slices``."""
    return SliceSettings(**config["slices"]).grid


def check_geometry(ring: Geometry, grid: Grid, subsets: int) -> None:
    """Refuse subsets that do not divide the views, and images that reach beyond the ring."""
    if ring.views % subsets:
        divisors = [n for n in range(1, ring.views + 1) if ring.views % n == 0]
        raise InputError(
            "osem.subsets",
            f"{subsets} subsets do not divide the scanner's {ring.views} views",
            f"choose one of {divisors}",
        )
    half_mm = grid.size * grid.pixel_mm / 2
    if half_mm >= ring.reach_mm:
        raise InputError(
            "slices.size",
            f"{grid.size} pixels of {grid.pixel_mm} mm reach {half_mm:.0f} mm from the axis, "
            f"the ring's radius is {ring.reach_mm} mm",
            "choose fewer or smaller pixels",
        )
