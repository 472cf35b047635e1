"""The scanner ring and the pixel grid: where the LOR end points and the pixels lie, in mm.

Coordinates are patient coordinates (LPS, as DICOM's): x to the patient's left, y to posterior, z to
superior, the origin on the scanner axis. An image (slice, y, x) drawn with its row 0 on top thus
shows anterior up and the patient's left on the right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.storage.errors import InputError


@dataclass(frozen=True)
class Ring:
    """One ring of a PET scanner: a regular polygon of detector blocks.

    A sinogram has the axes (view, radial). With N LOR end points, view v and signed radial number
    t (0 for the central bin), the LOR joins the end points ``v + floor(t / 2)`` and
    ``v - ceil(t / 2) + N / 2`` (mod N): STIR's and parallelproj's interleaved order, in which
    neighbouring radial bins differ by half a view in angle.

    Parameters
    ----------
    blocks : int
        Sides of the polygon.
    crystals_per_block : int
        LOR end points on each side, the gap between blocks counted as one.
    radius_mm : float
        Distance of the sides from the axis.
    pitch_mm : float
        Distance of neighbouring end points on a side.
    radial_trim : int
        Radial bins left out at each end of the N - 1 possible ones.
    """

    blocks: int
    crystals_per_block: int
    radius_mm: float
    pitch_mm: float
    radial_trim: int

    def __post_init__(self) -> None:
        if self.end_points % 2:
            raise InputError(
                "scanner",
                f"{self.blocks} blocks x {self.crystals_per_block} crystals is an odd number",
                "choose an even number of LOR end points, so that they face each other",
            )
        if self.radial_bins < 3:
            raise InputError(
                "scanner.radial_trim",
                f"{self.radial_trim} leaves {self.radial_bins} radial bins",
                f"choose at most {(self.end_points - 4) // 2}, which leaves 3",
            )

    @property
    def end_points(self) -> int:
        """Number N of LOR end points."""
        return self.blocks * self.crystals_per_block

    @property
    def views(self) -> int:
        """Number of views, N / 2."""
        return self.end_points // 2

    @property
    def radial_bins(self) -> int:
        """Number of radial bins, N - 1 - 2 radial_trim."""
        return self.end_points - 1 - 2 * self.radial_trim

    @cached_property
    def end_point_xy_mm(self) -> np.ndarray:
        """End points (N, 2) as (x, y); block 0 on top (anterior), numbers running clockwise."""
        block, crystal = np.divmod(np.arange(self.end_points), self.crystals_per_block)
        along_mm = (crystal - (self.crystals_per_block - 1) / 2) * self.pitch_mm
        angle = 2 * np.pi * block / self.blocks
        x = self.radius_mm * np.sin(angle) + along_mm * np.cos(angle)
        y = -self.radius_mm * np.cos(angle) + along_mm * np.sin(angle)
        return np.stack([x, y], axis=-1)

    def lors_mm(self, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and end points of some views' LORs, each (len(views), radial, 2) as (x, y)."""
        half = self.end_points // 2
        t = np.arange(self.radial_bins) - self.radial_bins // 2
        view = np.asarray(views)[:, None]
        start = (view + t // 2) % self.end_points
        end = (view - (t + 1) // 2 + half) % self.end_points
        return self.end_point_xy_mm[start], self.end_point_xy_mm[end]

    def radial_and_angle(self) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance from the axis (mm) and angle (rad) of every LOR's line.

        Returns
        -------
        radial_mm, angle : arrays (view, radial)
            The line is ``x cos(angle) + y sin(angle) = radial_mm``; the angle runs without jumps
            over half a turn, `radial_mm` increases or decreases along a view throughout.
        """
        start, end = self.lors_mm(np.arange(self.views))
        along = end - start
        length = np.hypot(along[..., 0], along[..., 1])
        normal_x, normal_y = -along[..., 1] / length, along[..., 0] / length
        radial_mm = start[..., 0] * normal_x + start[..., 1] * normal_y
        angle = np.unwrap(np.arctan2(normal_y, normal_x), axis=1)
        central = self.radial_bins // 2
        turns = np.unwrap(angle[:, central]) - angle[:, central]
        return radial_mm, angle + turns[:, None]


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


def field_of_view_mm(ring: Ring, grid: Grid) -> float:
    """Radius of the circle around the axis that the image and all views cover, in mm."""
    radial_mm, _ = ring.radial_and_angle()
    covered_mm = np.abs(radial_mm[:, [0, -1]]).min()
    return float(min(covered_mm, grid.size * grid.pixel_mm / 2))


def field_of_view(ring: Ring, grid: Grid) -> np.ndarray:
    """Boolean (y, x): pixels whose centre lies in the field of view."""
    squared = grid.centres_mm**2
    return squared[:, None] + squared[None, :] <= field_of_view_mm(ring, grid) ** 2


def ring_from(config: Mapping[str, Any]) -> Ring:
    """Build the ring from the configuration's section ``scanner``."""
    return Ring(**config["scanner"])


def grid_from(config: Mapping[str, Any]) -> Grid:
    """Build the reconstruction grid from the configuration's section ``slices``."""
    return SliceSettings(**config["slices"]).grid


def check_geometry(ring: Ring, grid: Grid, subsets: int) -> None:
    """Refuse subsets that do not divide the views, and images that reach beyond the ring."""
    if ring.views % subsets:
        divisors = [n for n in range(1, ring.views + 1) if ring.views % n == 0]
        raise InputError(
            "osem.subsets",
            f"{subsets} subsets do not divide the scanner's {ring.views} views",
            f"choose one of {divisors}",
        )
    half_mm = grid.size * grid.pixel_mm / 2
    if half_mm >= ring.radius_mm:
        raise InputError(
            "slices.size",
            f"{grid.size} pixels of {grid.pixel_mm} mm reach {half_mm:.0f} mm from the axis, "
            f"the ring's radius is {ring.radius_mm} mm",
            "choose fewer or smaller pixels",
        )
