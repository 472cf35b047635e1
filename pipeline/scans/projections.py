"""Measured projection data, whatever their file's format, and their rebinning to planes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.storage.errors import InputError

log = logging.getLogger(__name__)

POSITIONS = ("HFS", "HFP", "FFS", "FFP")
"""How a patient may lie, as DICOM says it: head or feet first, supine or prone."""

DIRECTIONS = ("superior", "inferior")
"""Where axial positions may run, in a patient who lies head first."""

LARGEST_COUNT = 2**53
"""Whole numbers up to this are exact in float64, in which counts are summed."""


@dataclass(frozen=True)
class ScanSettings:
    """What users say of a file beside what the file says of itself.

    Attributes
    ----------
    axes : str
        Names of a plain array's axes, first to last: ``plane view radial`` in any order, or two
        of them that include view and radial, for a single plane.
    array : str
        Name of the array, of a file that holds several; of Siemens' ``prompts`` without one.
    towards : str
        One of `DIRECTIONS`: where the planes of a plain array run if the patient lies head first.
    patient_position : str or None
        One of `POSITIONS`; it counts more than the file, which may not say it.
    """

    axes: str = ""
    array: str = ""
    towards: str = "superior"
    patient_position: str | None = None

    def __post_init__(self) -> None:
        _one_of("towards", self.towards, DIRECTIONS)
        if self.patient_position is not None:
            _one_of("patient_position", self.patient_position, POSITIONS)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(name, f"is {value!r}", f"give one of {', '.join(allowed)}")


def no_names(path: str | Path, array: str) -> InputError:
    """Error about the name of an array, of a file that has no several, to be raised."""
    problem = f"is a file of one array, which has no name, and '{array}' is asked for"
    return InputError(path, problem, f"leave out what is behind its name: #{array}")


@dataclass(frozen=True)
class Acquisition:
    """What a file says of the scanner and the scan; None where it does not say.

    Attributes
    ----------
    scanner : str or None
        Its name.
    detectors_per_ring, rings : int or None
        Crystals along a ring; rings along the axis.
    ring_spacing_mm, radius_mm, bin_mm : float or None
        Distance of neighbouring rings; inner radius plus average depth of interaction; width of
        the central tangential bin, at that depth.
    view_offset_deg : float or None
        Angle of the first view.
    arc_corrected : bool or None
        Whether tangential bins are equally wide.
    tof_bins : int
        Time-of-flight bins that were summed; 1 without time of flight.
    patient_position : str or None
        One of `POSITIONS`.
    corrections : tuple of str
        What has been applied to the counts already, in the file's words.
    """

    scanner: str | None = None
    detectors_per_ring: int | None = None
    rings: int | None = None
    ring_spacing_mm: float | None = None
    radius_mm: float | None = None
    bin_mm: float | None = None
    view_offset_deg: float | None = None
    arc_corrected: bool | None = None
    tof_bins: int = 1
    patient_position: str | None = None
    corrections: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Segment:
    """Sinograms of neighbouring ring differences.

    Attributes
    ----------
    differences : (int, int) or None
        Smallest and largest ring difference; None for planes that were rebinned before.
    data : array or memory map (axial, view, tangential)
        Counts, in the file's axial order. With one ring difference, neighbouring axial positions
        are one ring spacing apart; with several, half of one.
    """

    differences: tuple[int, int] | None
    data: np.ndarray

    @property
    def least(self) -> int:
        """Smallest distance of two rings, in rings."""
        low, high = self.differences or (0, 0)
        return 0 if low <= 0 <= high else min(abs(low), abs(high))

    @property
    def greatest(self) -> int:
        """Largest distance of two rings, in rings."""
        return max(map(abs, self.differences or (0, 0)))

    @property
    def step(self) -> int:
        """Planes from one axial position to the next: 2 with one ring difference, or 1."""
        low, high = self.differences or (0, 1)
        return 2 if low == high else 1

    def positions(self, rings: int) -> int:
        """Axial positions of this segment on a scanner of so many rings."""
        return (2 * (rings - self.least) - 1 + self.step // 2) // self.step

    def planes(self, rings: int) -> slice:
        """Planes of the axial positions, of the 2 rings - 1 planes in the file's axial order.

        Plane p is midway between any two rings whose numbers sum to p. A segment is centred on the
        scanner, so its first position belongs to p = `least` (STIR, ProjDataInfoCylindrical).
        """
        return slice(self.least, 2 * rings - 1 - self.least, self.step)


@dataclass(frozen=True, eq=False)
class Projections:
    """Measured projection data.

    A bin's detectors are, for view v and signed tangential number t, those that
    `pipeline.tomography.scanners.Ring` documents, unless the data are arc-corrected.

    Attributes
    ----------
    acquisition : Acquisition
        What the file says of the scanner and the scan.
    segments : tuple of Segment
        In the file's order, all with the same views and tangential bins.
    first_tangential : int
        Number of the first tangential bin; the central one is 0.
    towards : str
        One of `DIRECTIONS`: where axial positions run if the patient lies head first.
    origin : Path
        The file that was asked for: of a header and its data, the header.
    sha256 : str
        Of the file that holds the data.

    Raises
    ------
    InputError
        If the segments contradict each other or the number of rings.
    """

    acquisition: Acquisition
    segments: tuple[Segment, ...]
    first_tangential: int
    towards: str
    origin: Path
    sha256: str

    def __post_init__(self) -> None:
        if self.segments[0].differences is not None:
            _check_segments(self.segments, self.rings, self.origin)

    @cached_property
    def rings(self) -> int:
        """Rings of the scanner; if the file does not say, as the direct segment has them."""
        direct = next((segment for segment in self.segments if segment.least == 0), None)
        if direct is None:
            problem = "has no segment with ring difference 0"
            raise InputError(self.origin, problem, "export it with the direct sinograms")
        found = len(direct.data) if direct.step == 2 else (len(direct.data) + 1) // 2
        return self.acquisition.rings or found


def _check_segments(segments: Sequence[Segment], rings: int, where: Path) -> None:
    remedy = "correct the header, or export the data anew"
    for segment in segments:
        low, high = segment.differences or (0, 0)
        if low > high:
            problem = f"has a segment of ring differences from {low} down to {high}"
            raise InputError(where, problem, remedy)
        if segment.greatest >= rings:
            problem = f"has ring differences from {low} to {high} on {rings} rings"
            raise InputError(where, problem, remedy)
        if len(segment.data) != segment.positions(rings):
            problem = (
                f"has {len(segment.data)} axial positions for ring differences from {low} to "
                f"{high}, where {rings} rings give {segment.positions(rings)}"
            )
            raise InputError(where, problem, remedy)
    ranges = sorted(segment.differences or (0, 0) for segment in segments)
    for (_, high), (low, _) in pairwise(ranges):
        if low <= high:
            raise InputError(where, f"has ring difference {low} in two segments", remedy)


def segments_within(projections: Projections, ring_difference_limit: int) -> tuple[Segment, ...]:
    """Segments none of whose ring differences is beyond the limit, in rings, in either direction.

    Raises
    ------
    InputError
        If there is none.
    """
    found = tuple(s for s in projections.segments if s.greatest <= ring_difference_limit)
    if not found:
        least = min(segment.greatest for segment in projections.segments)
        problem = f"has no segment whose ring differences are all within {ring_difference_limit}"
        raise InputError(projections.origin, problem, f"set the limit to {least}, or above")
    return found


def single_slice_rebinned(projections: Projections, ring_difference_limit: int) -> np.ndarray:
    """Sum all sinograms that have the same axial middle (single-slice rebinning).

    Parameters
    ----------
    projections : Projections
        Where planes were rebinned before, they are given as they are.
    ring_difference_limit : int
        Of the segments, those of `segments_within` are taken; the log names them.

    Returns
    -------
    planes : array (plane, view, tangential)
        Direct and cross planes, 2 rings - 1, half a ring spacing apart, from inferior to superior;
        int64 if the file holds whole numbers, or float32.

    Raises
    ------
    InputError
        If no segment is within the limit, values are not finite or too large for counts, or
        nothing says how the patient lies.
    """
    taken = segments_within(projections, ring_difference_limit)
    first = taken[0].data
    if taken[0].differences is None:
        planes = first.astype(np.float64)
    else:
        planes = np.zeros((2 * projections.rings - 1, *first.shape[1:]))
        with np.errstate(invalid="ignore", over="ignore"):  # `_counts` refuses what is not finite
            for segment in taken:
                planes[segment.planes(projections.rings)] += segment.data
        ranges = ", ".join(f"{segment.differences}" for segment in taken)
        log.info("%s: rebinned the ring differences %s", projections.origin, ranges)
    whole = all(np.issubdtype(segment.data.dtype, np.integer) for segment in taken)
    return towards_superior(_counts(planes, whole, projections.origin), projections)


def _counts(planes: np.ndarray, whole: bool, where: Path) -> np.ndarray:
    largest = LARGEST_COUNT if whole else np.finfo(np.float32).max
    bad = np.count_nonzero(~(np.abs(planes) <= largest))
    if bad:
        problem = f"has {bad} bins that are not finite, or too large for counts"
        raise InputError(where, problem, "see whether its number format is right; export it anew")
    return planes.astype(np.int64 if whole else np.float32)


def towards_superior(planes: np.ndarray, projections: Projections) -> np.ndarray:
    """Order planes, along the first axis in the file's order, from inferior to superior.

    Raises
    ------
    InputError
        If nothing says how the patient lies.
    """
    position = projections.acquisition.patient_position
    if position is None:
        problem = "does not say how the patient lies, and so not which end is the head's"
        remedy = f"set patient_position to one of {', '.join(POSITIONS)}"
        raise InputError(projections.origin, problem, remedy)
    reversed_ = (projections.towards == "inferior") != position.startswith("FF")
    return planes[::-1] if reversed_ else planes
