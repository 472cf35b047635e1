"""PETSIRD list mode, the open standard: events of a cylinder of crystals, histogrammed.

Gantry coordinates are taken as PETSIRD follows DICOM: in a patient who lies head first, supine, x
runs to the left, y to posterior, z to superior. It is read by the package `petsird`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.scans.projections import Acquisition, Projections, ScanSettings, Segment
from pipeline.scans.raw import sha256_of
from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.storage.system_errors import unreadable

EVENTS = {"prompts": "prompt_events", "delayeds": "delayed_events"}
"""Names of data, and PETSIRD's of their events."""

MAX_CRYSTALS, MAX_ALONG_RING = 2**20, 2**12
SAME_MM = 0.05
"""Crystals whose radius or axial position differs by less are on one cylinder, or in one ring."""

EXPORT = "export the data as sinograms, Interfile for instance"


@dataclass(frozen=True)
class Cylinder:
    """Where each crystal is.

    Attributes
    ----------
    ring, end_point : int arrays (crystal,)
        Rings from low z up; end points clockwise from the top, as `Ring` numbers them.
    spacing_mm, radius_mm : float
        Distance of neighbouring rings; mean distance of the crystals' middles from the axis.
    offset_deg : float
        Angle from the top to end point 0, on average over what each end point says of it.
    """

    ring: np.ndarray
    end_point: np.ndarray
    spacing_mm: float
    radius_mm: float
    offset_deg: float

    @property
    def rings(self) -> int:
        """Number of rings."""
        return int(self.ring.max()) + 1

    @property
    def end_points(self) -> int:
        """Number of crystals along a ring."""
        return int(self.end_point.max()) + 1


def cylinder(centres_mm: np.ndarray, where: Path) -> Cylinder:
    """Find the rings of crystals whose middles, (crystal, 3), are given as x, y, z in mm.

    Raises
    ------
    InputError
        If they are in no rings of equally many, an even number.
    """
    x, y, z = centres_mm.T
    levels = np.unique(np.round(z / SAME_MM))
    levels = levels[np.diff(levels, prepend=-np.inf) > 1]  # not both sides of a rounding
    ring = np.searchsorted(levels, np.round(z / SAME_MM), side="right") - 1
    count, rest = divmod(len(z), len(levels))
    # A tolerance keeps a crystal on top from being the last instead of the first.
    turn = (np.arctan2(x, -y) + 1e-4) % (2 * np.pi) - 1e-4
    order = np.lexsort((turn, ring))
    even = not rest and count % 2 == 0 and 4 <= count <= MAX_ALONG_RING
    if not even or (np.bincount(ring) != count).any():
        problem = f"has {len(z)} crystals, in no rings of equally many"
        raise InputError(where, problem, EXPORT)
    turns = turn[order].reshape(len(levels), count)
    offsets = turns - 2 * np.pi * np.arange(count) / count
    if (np.diff(turns, axis=1) < 1e-3).any() or np.ptp(offsets, axis=0).max() > 1e-3:
        raise InputError(where, "has layers of crystals, or rings that are turned", EXPORT)
    end_point = np.empty(len(z), np.int64)
    end_point[order] = np.tile(np.arange(count), len(levels))
    heights = np.array([z[ring == number].mean() for number in range(len(levels))])
    return Cylinder(
        ring=ring,
        end_point=end_point,
        spacing_mm=float(np.diff(heights).mean()) if len(heights) > 1 else 0.0,
        radius_mm=float(np.hypot(x, y).mean()),
        offset_deg=float(np.degrees(offsets.mean())),
    )


def bins_of(end_points: int) -> tuple[np.ndarray, np.ndarray]:
    """View and tangential index of the first and the second end point: (N, N) int arrays.

    Of two end points in the other order, and of one twice, the view is -1.
    """
    view = np.full((end_points, end_points), -1)
    tangential = np.zeros_like(view)
    v, t = np.mgrid[: end_points // 2, 1 - end_points // 2 : end_points // 2]
    start, end = (v + t // 2) % end_points, (v - (t + 1) // 2 + end_points // 2) % end_points
    view[start, end], tangential[start, end] = v, t + end_points // 2 - 1
    return view, tangential


def histogrammed(pairs: Iterable[np.ndarray], crystals: Cylinder) -> dict[int, np.ndarray]:
    """Count events.

    Parameters
    ----------
    pairs : iterable of int arrays (event, 2)
        Two crystals each.
    crystals : Cylinder

    Returns
    -------
    counts : mapping of ring difference to int32 array (axial, view, tangential)
        All differences that occur, and 0; end minus start, as view and tangential number have them.
    """
    view, tangential = bins_of(crystals.end_points)
    rings, shape = crystals.rings, (crystals.end_points // 2, crystals.end_points - 1)
    counts = {0: np.zeros((rings, *shape), np.int32)}
    for pair in pairs:
        swapped = view[tuple(crystals.end_point[pair].T)] < 0
        ordered = np.where(swapped[:, None], pair[:, ::-1], pair)
        start, end = crystals.end_point[ordered].T
        first, second = crystals.ring[ordered].T
        known = view[start, end] >= 0
        for difference in np.unique((second - first)[known]):
            here = known & (second - first == difference)
            size = rings - abs(int(difference))
            array = counts.setdefault(int(difference), np.zeros((size, *shape), np.int32))
            place = np.minimum(first, second)[here], view[start, end][here]
            np.add.at(array, (*place, tangential[start, end][here]), 1)
    return counts


def read(path: str | Path, settings: ScanSettings) -> Projections:
    """Histogram the events of a PETSIRD file: prompts or delayeds, as the settings name them.

    Raises
    ------
    InputError
        If the package is missing, the file damaged, or its scanner no cylinder of crystals.
    """
    path = Path(path)
    if (settings.array or "prompts") not in EVENTS:
        known = ", ".join(f"{path}#{name}" for name in EVENTS)
        raise InputError(path, f"has no {settings.array!r}", f"give one of {known}")
    check_readable(path, "PETSIRD file", "correct its path")
    try:
        petsird = import_module("petsird")
    except ImportError as error:
        remedy = "install it: pip install '.[petsird]'"
        raise InputError(path, f"needs the package petsird ({error})", remedy) from error
    try:
        with path.open("rb") as file, petsird.BinaryPETSIRDReader(file) as reader:
            return _read(reader, petsird, path, settings)
    except InputError:
        raise
    # Generated code, which lets errors of all kinds through.
    except Exception as error:
        problem = f"is not a readable PETSIRD file ({str(error)[:200]})"
        raise unreadable(path, error, problem, "export it anew, in PETSIRD's version") from error


def _read(reader: Any, petsird: Any, path: Path, settings: ScanSettings) -> Projections:
    scanner = reader.read_header().scanner
    crystals = cylinder(_centres_mm(scanner, path), path)
    energies = scanner.event_energy_bin_edges[0].number_of_bins()
    moves = (petsird.TimeBlock.BedMovementTimeBlock, petsird.TimeBlock.GantryMovementTimeBlock)

    def pairs() -> Iterable[np.ndarray]:
        for block in reader.read_time_blocks():
            if isinstance(block, petsird.TimeBlock.EventTimeBlock):
                lists = getattr(block.value, EVENTS[settings.array or "prompts"])
                found = [event.detection_bins for event in lists[0][0]] if lists else []
                yield np.array(found, np.int64).reshape(-1, 2) // energies
            elif isinstance(block, moves):
                raise InputError(path, "was measured while the bed or the gantry moved", EXPORT)

    counts = histogrammed(pairs(), crystals)
    return Projections(
        acquisition=Acquisition(
            scanner=scanner.model_name or None,
            detectors_per_ring=crystals.end_points,
            rings=crystals.rings,
            ring_spacing_mm=crystals.spacing_mm or None,
            radius_mm=crystals.radius_mm,
            view_offset_deg=crystals.offset_deg,
            arc_corrected=False,
            tof_bins=scanner.tof_bin_edges[0][0].number_of_bins(),
            patient_position=settings.patient_position,
        ),
        segments=tuple(Segment((d, d), counts[d]) for d in sorted(counts)),
        first_tangential=1 - crystals.end_points // 2,
        towards="superior",
        origin=path,
        sha256=sha256_of(path),
    )


def _centres_mm(scanner: Any, path: Path) -> np.ndarray:
    """Middles of all crystals (crystal, 3), as their numbers run: modules, then their elements."""
    kinds = scanner.scanner_geometry.replicated_modules
    if len(kinds) != 1:
        raise InputError(path, f"has {len(kinds)} types of modules, not one", EXPORT)
    elements = kinds[0].object.detecting_elements
    if not 0 < len(kinds[0].transforms) * len(elements.transforms) <= MAX_CRYSTALS:
        raise InputError(path, f"has no crystals, or more than {MAX_CRYSTALS}", EXPORT)
    corners = [corner.c for corner in elements.object.shape.corners]
    middle = np.mean(np.array(corners, np.float64), axis=0)
    inside = np.array([t.matrix for t in elements.transforms], np.float64) @ [*middle, 1]
    modules = np.array([t.matrix for t in kinds[0].transforms], np.float64)
    placed = np.einsum("mij,ej->mei", modules[:, :, :3], inside) + modules[:, None, :, 3]
    if not np.isfinite(placed).all():
        raise InputError(path, "has crystals at no finite place", EXPORT)
    return placed.reshape(-1, 3)
