"""Which geometry measured data have: what their file says, and what the configuration does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.scans.projections import Acquisition, Projections
from pipeline.storage.errors import InputError
from pipeline.tomography.scanners import Geometry, ParallelBeam, Ring

SAME_RADIUS = 0.01
SAME_ANGLE_DEG = 0.5
"""How much of its radius, and how far its first end point, a scanner may be off the file's."""

OTHER_SCANNER = (
    "give the scanner of these data, e.g. --config scanner=mmr; config/scanners has some, and a "
    "file of your own can be given by its path"
)
MASHED = (
    "export them without view mashing, or arc-corrected: neighbouring views that were summed are "
    "no lines between two detectors; or give the scanner of these data"
)


def geometry_of(projections: Projections, scanner: Geometry) -> Geometry:
    """Find the geometry of some data: the given scanner's, unless they are arc-corrected.

    Raises
    ------
    InputError
        If the data are not of that scanner, or say too little.
    """
    says, where = projections.acquisition, projections.origin
    views, bins = projections.segments[0].data.shape[1:]
    if not says.arc_corrected:
        if isinstance(scanner, Ring):
            _check_ring(says, scanner, views, where)
        return scanner
    if says.bin_mm is None:
        problem = "is arc-corrected and does not say how wide its bins are"
        raise InputError(where, problem, "add 'effective central bin size (cm)' to its header")
    return ParallelBeam(views, bins, says.bin_mm, says.view_offset_deg or 0.0)


def _check_ring(says: Acquisition, ring: Ring, views: int, where: Path) -> None:
    """Refuse a ring that contradicts what a file says."""
    x, y = ring.end_point_xy_mm[0]
    first_deg = float(np.rad2deg(np.arctan2(x, -y)))
    off_deg = 0.0
    if says.view_offset_deg is not None:
        off_deg = (first_deg - says.view_offset_deg + 180) % 360 - 180
    facts: Mapping[str, tuple[Any, Any, bool]] = {
        "detectors a ring": (
            says.detectors_per_ring,
            ring.end_points,
            says.detectors_per_ring in (None, ring.end_points),
        ),
        "views": (views, ring.views, views == ring.views),
        "mm from the axis to where photons interact": (
            says.radius_mm,
            ring.radius_mm,
            says.radius_mm is None
            or abs(says.radius_mm - ring.radius_mm) <= SAME_RADIUS * ring.radius_mm,
        ),
        "degrees to the first detector": (
            says.view_offset_deg,
            round(first_deg, 3),
            abs(off_deg) <= SAME_ANGLE_DEG,
        ),
    }
    for what, (found, wanted, same) in facts.items():
        if not same:
            mashed = what == "views" and ring.views % views == 0
            problem = f"has {found} {what}, and the configured scanner {wanted}"
            raise InputError(where, problem, MASHED if mashed else OTHER_SCANNER)
