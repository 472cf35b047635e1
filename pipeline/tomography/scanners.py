"""Scanners: where their lines of response lie, in mm.

Coordinates are patient coordinates (LPS, as DICOM's): x to the patient's left, y to posterior, z to
superior, the origin on the scanner axis.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.storage.errors import InputError


@dataclass(frozen=True)
class Geometry(ABC):
    """Which lines a sinogram's bins are: what projectors and FBP know of a scanner.

    A subclass is a frozen dataclass of the numbers that decide it. A bin's line is
    ``x cos(angle) + y sin(angle) = radial_mm``.
    """

    @property
    @abstractmethod
    def views(self) -> int:
        """Number of views."""

    @property
    @abstractmethod
    def radial_bins(self) -> int:
        """Number of radial bins."""

    @property
    def central_bin(self) -> int:
        """Index of the radial bin whose lines pass nearest the axis."""
        return self.radial_bins // 2

    @property
    @abstractmethod
    def reach_mm(self) -> float:
        """Distance from the axis within which an image must lie."""

    @property
    @abstractmethod
    def counting(self) -> np.ndarray:
        """Boolean (view, radial): bins that can count; the others are gaps."""

    @abstractmethod
    def lors_mm(self, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and end points of some views' LORs, each (len(views), radial, 2) as (x, y)."""

    def radial_and_angle(self) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance from the axis (mm) and angle (rad) of every LOR's line.

        Returns
        -------
        radial_mm, angle : arrays (view, radial)
            The angle runs without jumps over half a turn, `radial_mm` increases or decreases along
            a view throughout.
        """
        start, end = self.lors_mm(np.arange(self.views))
        along = end - start
        length = np.hypot(along[..., 0], along[..., 1])
        normal_x, normal_y = -along[..., 1] / length, along[..., 0] / length
        radial_mm = start[..., 0] * normal_x + start[..., 1] * normal_y
        angle = np.unwrap(np.arctan2(normal_y, normal_x), axis=1)
        turns = np.unwrap(angle[:, self.central_bin]) - angle[:, self.central_bin]
        return radial_mm, angle + turns[:, None]


@dataclass(frozen=True)
class Ring(Geometry):
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
        Distance of the end points' sides from the axis: the inner radius of the crystals and the
        average depth of interaction in them, together.
    pitch_mm : float
        Distance of neighbouring end points on a side.
    radial_trim : int
        Radial bins left out at each end of the N - 1 possible ones.
    even_bins : bool
        Whether one more is left out at the end, for an even number n of bins: -n/2 to n/2 - 1.
    gaps : sequence of int
        End points of each block, from 0, that count nothing.
    first_end_point_deg : float or None
        Direction of end point 0 from the axis, in degrees from anterior towards the patient's left;
        None if the middle of block 0 is anterior.
    """

    blocks: int
    crystals_per_block: int
    radius_mm: float
    pitch_mm: float
    radial_trim: int
    even_bins: bool = False
    gaps: Sequence[int] = ()
    first_end_point_deg: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "gaps", tuple(self.gaps))  # hashable, whatever the file had
        if not {*self.gaps} < {*range(self.crystals_per_block)}:
            raise InputError(
                "scanner.gaps",
                f"{list(self.gaps)} are not some of a block's {self.crystals_per_block} end points",
                f"give numbers from 0 to {self.crystals_per_block - 1}, and not all",
            )
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
                f"choose at most {(self.end_points - 4 - self.even_bins) // 2}",
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
        """Number of radial bins, N - 1 - 2 radial_trim, or one less."""
        return self.end_points - 1 - 2 * self.radial_trim - self.even_bins

    @property
    def reach_mm(self) -> float:
        """Distance from the axis within which an image must lie: `radius_mm`."""
        return self.radius_mm

    @cached_property
    def end_point_xy_mm(self) -> np.ndarray:
        """End points (N, 2) as (x, y), numbers running clockwise where anterior is on top."""
        block, crystal = np.divmod(np.arange(self.end_points), self.crystals_per_block)
        along_mm = (crystal - (self.crystals_per_block - 1) / 2) * self.pitch_mm
        angle = 2 * np.pi * block / self.blocks + self._turn
        x = self.radius_mm * np.sin(angle) + along_mm * np.cos(angle)
        y = -self.radius_mm * np.cos(angle) + along_mm * np.sin(angle)
        return np.stack([x, y], axis=-1)

    def lors_mm(self, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and end points of some views' LORs, each (len(views), radial, 2) as (x, y)."""
        start, end = self._end_points_of(views)
        return self.end_point_xy_mm[start], self.end_point_xy_mm[end]

    @property
    def counting(self) -> np.ndarray:
        """Boolean (view, radial): bins of which neither end point is a gap."""
        here = np.isin(np.arange(self.end_points) % self.crystals_per_block, self.gaps)
        start, end = self._end_points_of(np.arange(self.views))
        return ~(here[start] | here[end])

    def _end_points_of(self, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the end points of some views' LORs, (len(views), radial) each."""
        t = np.arange(self.radial_bins) - self.central_bin
        view = np.asarray(views)[:, None]
        start = (view + t // 2) % self.end_points
        return start, (view - (t + 1) // 2 + self.end_points // 2) % self.end_points

    @property
    def _turn(self) -> float:
        """Angle (rad) of the middle of block 0 from anterior, towards the patient's left."""
        if self.first_end_point_deg is None:
            return 0.0
        along_mm = (self.crystals_per_block - 1) / 2 * self.pitch_mm
        return float(np.deg2rad(self.first_end_point_deg) + np.arctan2(along_mm, self.radius_mm))


@dataclass(frozen=True)
class ParallelBeam(Geometry):
    """Parallel lines at equal distances: data that are arc-corrected, mashed, or of no scanner.

    With n radial bins, bin b of view v is the line at ``(b - floor(n / 2)) bin_mm`` and at the
    angle of the view; the views share half a turn evenly.

    Parameters
    ----------
    angles : int
        Views.
    bins : int
        Radial bins.
    bin_mm : float
        Distance of neighbouring lines.
    first_angle_deg : float
        Angle of view 0. At 0 its lines run from anterior to posterior, and distances grow towards
        the patient's left.
    clockwise : bool
        Whether angles grow from view to view as ``x cos(angle) + y sin(angle)`` has it: from the
        patient's left to posterior, clockwise where anterior is on top.
    """

    angles: int
    bins: int
    bin_mm: float
    first_angle_deg: float = 0.0
    clockwise: bool = True

    def __post_init__(self) -> None:
        if self.bins < 3:
            raise InputError("scanner.bins", f"{self.bins} are too few", "give at least 3")

    @property
    def views(self) -> int:
        """Number of views."""
        return self.angles

    @property
    def radial_bins(self) -> int:
        """Number of radial bins."""
        return self.bins

    @property
    def reach_mm(self) -> float:
        """Distance from the axis within which an image must lie: any."""
        return np.inf

    @property
    def counting(self) -> np.ndarray:
        """Boolean (view, radial): all."""
        return np.ones((self.views, self.radial_bins), bool)

    def lors_mm(self, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and end points of some views' LORs, each (len(views), radial, 2) as (x, y)."""
        turned = np.pi * np.asarray(views)[:, None] / self.views
        angle = np.deg2rad(self.first_angle_deg) + (turned if self.clockwise else -turned)
        radial_mm = (np.arange(self.radial_bins) - self.central_bin) * self.bin_mm
        normal = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        along = np.stack([np.sin(angle), -np.cos(angle)], axis=-1)
        foot, half_mm = normal * radial_mm[:, None], self.radial_bins * self.bin_mm
        return foot - half_mm * along, foot + half_mm * along


@dataclass(frozen=True)
class Placed(Geometry):
    """A scanner in the coordinates of a patient who lies in it in one of four positions.

    Parameters
    ----------
    scanner : Geometry
        Whose x and y are the patient's where that lies head first and supine.
    position : str
        "HFS", "HFP", "FFS" or "FFP": head or feet first, supine or prone, as DICOM says it.
    """

    scanner: Geometry
    position: str

    @property
    def views(self) -> int:
        """Number of views."""
        return self.scanner.views

    @property
    def radial_bins(self) -> int:
        """Number of radial bins."""
        return self.scanner.radial_bins

    @property
    def reach_mm(self) -> float:
        """Distance from the axis within which an image must lie."""
        return self.scanner.reach_mm

    @property
    def counting(self) -> np.ndarray:
        """Boolean (view, radial): bins that can count."""
        return self.scanner.counting

    def lors_mm(self, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and end points of some views' LORs, each (len(views), radial, 2) as (x, y)."""
        start, end = self.scanner.lors_mm(views)
        return start * TOWARDS_PATIENT[self.position], end * TOWARDS_PATIENT[self.position]


TOWARDS_PATIENT = {"HFS": (1, 1), "HFP": (-1, -1), "FFS": (-1, 1), "FFP": (1, -1)}
"""Signs that turn a scanner's x and y into the patient's, by the patient's position."""


GEOMETRIES: dict[str, type[Geometry]] = {"ring": Ring, "parallel": ParallelBeam}
"""By the configuration's ``scanner.geometry``."""


def scanner_from(section: Mapping[str, Any]) -> Geometry:
    """Build the geometry of the configuration's section ``scanner``."""
    numbers = {key: value for key, value in section.items() if key != "geometry"}
    return GEOMETRIES[section["geometry"]](**numbers)
