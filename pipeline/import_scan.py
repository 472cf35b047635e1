"""Rule ``import_scan``: a measured sinogram of any format, and what belongs to it, as one file."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from pipeline.scans.geometry import geometry_of
from pipeline.scans.projections import (
    Projections,
    ScanSettings,
    segments_within,
    single_slice_rebinned,
)
from pipeline.scans.registry import read
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SCAN
from pipeline.tomography.physics import geometry_text
from pipeline.tomography.scanners import Geometry

log = logging.getLogger(__name__)

NO_LIMIT = 10**6
"""Ring differences; more than any scanner has."""


@dataclass(frozen=True)
class Scan:
    """An entry of the configuration's ``scans``, but for ``images``, which decide nothing here.

    Attributes
    ----------
    sinogram : str
        File of the prompts; of one with several arrays ``file#array``, as of the others.
    randoms, scatter : str
        Files of expected randoms (delayeds) and scatter, in counts; "" for none.
    factors : str
        File of normalisation times attenuation factors, as they multiply line integrals; "" for 1.
    ring_difference : int
        Sinograms of larger differences of rings are left out.
    axes : str
        Names of a plain array's axes: ``plane view radial`` in any order.
    towards : str
        "superior" or "inferior": where a plain array's planes run.
    patient_position : str
        "HFS", "HFP", "FFS" or "FFP"; "" if the file says it.
    slice_mm : float
        Distance of neighbouring planes; 0 if the file says it.
    smoothed_randoms : int
        Views and bins (odd) over which randoms are averaged; 1 for none.
    calibration : float
        Bq/ml of one count per mm; 0 if it is not known.
    """

    sinogram: str
    randoms: str = ""
    scatter: str = ""
    factors: str = ""
    ring_difference: int = NO_LIMIT
    axes: str = ""
    towards: str = "superior"
    patient_position: str = ""
    slice_mm: float = 0.0
    smoothed_randoms: int = 1
    calibration: float = 0.0


def import_scan(name: str, scan: Scan, scanner: Geometry, output: Path) -> None:
    """Rule ``import_scan``: read, rebin to planes, and bring into one geometry.

    Parameters
    ----------
    name : str
        Of the scan.
    scan : Scan
    scanner : Geometry
        Of data that are not arc-corrected: the configuration's.
    output : Path
        HDF5 file of kind `pipeline.storage.kinds.SCAN`.

    Raises
    ------
    InputError
        If a file cannot be read, is not of this scanner, does not fit the others, or holds what
        cannot be right.
    """
    with _keys_of(name, scan):
        _import(name, scan, scanner, output)


@contextmanager
def _keys_of(name: str, scan: Scan) -> Iterator[None]:
    """Give a setting that is blamed by its own name its whole key in the configuration."""
    try:
        yield
    except InputError as error:
        if error.where not in (field.name for field in fields(scan)):
            raise
        raise InputError(f"scans.{name}.{error.where}", error.problem, error.remedy) from None


def _import(name: str, scan: Scan, scanner: Geometry, output: Path) -> None:
    measured = _Part(scan, scan.sinogram)
    _check_of_use(scan, measured.projections)
    geometry = geometry_of(measured.projections, scanner)
    counting = geometry.counting
    planes = measured.planes(geometry)
    if not (planes.any(axis=0) & counting).any():
        problem = "holds nothing but zeros" if not planes.any() else "counts in gaps alone"
        raise InputError(scan.sinogram, problem, "give the prompts as measured")
    held, doubts = _prompts(planes, scan.sinogram)
    if corrections := measured.corrections:
        doubts.append(f"counts that were corrected before ({corrections})")
    parts = {"randoms": scan.randoms, "scatter": scan.scatter, "factors": scan.factors}
    files = {key: path for key, path in parts.items() if path}
    shape, position = planes.shape, measured.position
    arrays, sources = {}, {"sinogram": measured.source}
    for key, path in files.items():  # one at a time, since each may be large before it is rebinned
        part = _Part(scan, path)
        arrays[key], sources[key] = part.beside(key, shape, position, geometry), part.source
        del part
    files["sinogram"] = scan.sinogram
    background = np.zeros(shape, np.float32)
    if "randoms" in arrays:
        background += _averaged(arrays["randoms"], scan, counting)
    background += arrays.get("scatter", np.float32(0))
    background *= counting
    _check_background(scan, arrays, planes, counting)
    factors = arrays.get("factors")
    if factors is None:
        summed = measured.summed(counts="prompts" in held)
        factors = np.broadcast_to(summed[:, None, None], shape).astype(np.float32)
    factors = factors * counting
    if not factors.any():
        problem = "holds nothing but zeros, and nothing would have been counted"
        raise InputError(scan.factors, problem, "export it anew, or leave it out")
    kept = counting | (planes == 0)
    if (lost := int((~kept).sum())) and "prompts" in held:
        log.warning("%s: %d bins count although they are gaps; left out", scan.sinogram, lost)
    slice_mm = scan.slice_mm or measured.slice_mm
    _say(name, planes, background, counting)
    hdf5.write(
        output,
        SCAN,
        {
            **{key: array * counting for key, array in held.items()},
            "factors": factors,
            "background": background,
            "position_mm": ((np.arange(len(planes)) - (len(planes) - 1) / 2) * slice_mm).astype(
                np.float32
            ),
        },
        hdf5.provenance(
            {"scan": asdict(scan) | {key: _name(path) for key, path in files.items()}},
            scan=name,
            geometry=geometry_text(geometry),
            patient_position=position,
            slice_mm=slice_mm,
            ring_differences=measured.ring_differences,
            tof_bins=measured.projections.acquisition.tof_bins,
            counts=float(planes.sum()),
            likelihood=not doubts,
            no_counts_because=f"{' and '.join(doubts)}, of {measured.name}" if doubts else "",
            calibration=scan.calibration,
            sources=json.dumps(sources),
        ),
    )


def _name(path: str) -> str:
    """Name of a file without its folder and, of one of several arrays, that of the array."""
    file, mark, array = path.partition("#")
    return f"{Path(file).name}{mark}{array}"


def _check_of_use(scan: Scan, measured: Projections) -> None:
    """Refuse settings that would decide nothing."""
    if scan.ring_difference != NO_LIMIT and measured.segments[0].differences is None:
        problem = f"is {scan.ring_difference}, and {scan.sinogram} has planes, which were "
        raise InputError("ring_difference", f"{problem}rebinned before", "leave it out")
    if scan.smoothed_randoms != 1 and not scan.randoms:
        problem = f"is {scan.smoothed_randoms}, and the scan has no randoms"
        raise InputError("smoothed_randoms", problem, "leave it out, or give the file in randoms")


class _Part:
    """One file of a scan: prompts, randoms, scatter or factors."""

    def __init__(self, scan: Scan, path: str):
        self._scan, self._path = scan, path
        file, _, array = path.partition("#")
        settings = ScanSettings(
            axes=scan.axes,
            array=array,
            towards=scan.towards,
            patient_position=scan.patient_position or None,
        )
        self.projections = read(file, settings)

    @property
    def position(self) -> str:
        """How the patient lies; `single_slice_rebinned` has refused a file that does not say."""
        return str(self.projections.acquisition.patient_position)

    @property
    def slice_mm(self) -> float:
        """Distance of neighbouring planes: half that of rings."""
        spacing = self.projections.acquisition.ring_spacing_mm
        if spacing is None:
            problem = "does not say how far its planes are apart"
            raise InputError(self._path, problem, "give slice_mm of the scan, in mm")
        return spacing / 2

    @property
    def corrections(self) -> str:
        """What was applied to the counts that changes how they scatter."""
        found = {*self.projections.acquisition.corrections} - {"arc correction"}
        return ", ".join(sorted(found))

    @property
    def name(self) -> str:
        """See `_name`."""
        return _name(self._path)

    @property
    def source(self) -> dict[str, str]:
        """Name of the file and, of one of several, its array; and hash of its data."""
        return {"file": self.name, "sha256": self.projections.sha256}

    @property
    def ring_differences(self) -> str:
        """What was summed, to read."""
        taken = segments_within(self.projections, self._scan.ring_difference)
        if taken[0].differences is None:
            return "planes as in the file"
        return ", ".join(f"{low} to {high}" for low, high in (s.differences for s in taken))  # type: ignore[misc]

    def planes(self, geometry: Geometry, beside: bool = False) -> np.ndarray:
        """(slice, view, radial) of the geometry, from inferior to superior.

        Beside prompts, which fit the scanner, other views or bins are theirs to be blamed for.
        """
        rebinned = single_slice_rebinned(self.projections, self._scan.ring_difference)
        first = -geometry.central_bin - self.projections.first_tangential
        last = first + geometry.radial_bins
        if first < 0 or last > rebinned.shape[2] or rebinned.shape[1] != geometry.views:
            problem = (
                f"has {rebinned.shape[1]} views x {rebinned.shape[2]} bins from "
                f"{self.projections.first_tangential}, and the "
                f"{'prompts, which fit the scanner,' if beside else 'scanner'} "
                f"{geometry.views} views x {geometry.radial_bins} bins from "
                f"{-geometry.central_bin}"
            )
            remedy = "give a scanner with these views, and with no more bins (a larger radial_trim)"
            raise InputError(self._path, problem, BELONGING if beside else remedy)
        return rebinned[:, :, first:last]

    def beside(
        self, key: str, wanted: tuple[int, ...], position: str, geometry: Geometry
    ) -> np.ndarray:
        """The same as float32, of the prompts' shape and position; nothing below 0."""
        planes = self.planes(geometry, beside=True).astype(np.float32)
        if planes.shape != wanted:
            problem = f"has {planes.shape} (plane, view, bin), and the prompts {wanted}"
            raise InputError(self._path, problem, BELONGING)
        if self.position != position:
            problem = f"is of a patient who lies {self.position}, the prompts {position}"
            raise InputError(self._path, problem, BELONGING)
        if below := _below(planes):
            which = "factor is" if key == "factors" else "expected count is"
            problem = f"has {below}, which no {which}"
            raise InputError(self._path, problem, "export it anew, or leave it out")
        return planes

    def summed(self, counts: bool) -> np.ndarray:
        """(plane,): how many sinograms were summed to each plane, of counts each pair of rings.

        A file's sinogram of several ring differences holds the counts of all their pairs of rings;
        corrected data are means of them (STIR's convention).
        """
        taken = segments_within(self.projections, self._scan.ring_difference)
        if taken[0].differences is None:
            return np.ones(len(taken[0].data), np.float32)
        rings = self.projections.rings
        found = np.zeros(2 * rings - 1, np.float32)
        for segment in taken:
            if not counts:
                found[segment.planes(rings)] += 1
                continue
            low, high = segment.differences or (0, 0)
            for first in map(abs, range(low, high + 1)):
                found[first : 2 * rings - 1 - first : 2] += 1
        return found


BELONGING = "give the file that belongs to these prompts"

# --- counts --------------------------------------------------------------------------------------


def _prompts(planes: np.ndarray, where: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Name the planes ``prompts`` if they can be counts, else ``trues``, and say why not."""
    doubts = [below] if (below := _below(planes)) else []
    if (broken := planes != np.rint(planes)).any():
        first = f"the first {planes[broken][0]:g}"
        doubts.append(f"{_bins(broken.sum())} of no whole number, {first}")
    if not doubts:
        if planes.max() > np.iinfo(np.uint32).max:
            problem = f"has a bin of {planes.max():g} counts"
            raise InputError(
                where, problem, "see whether its number format and byte order are right"
            )
        return {"prompts": planes.astype(np.uint32)}, doubts
    log.warning("%s: has %s: no counts", where, " and ".join(doubts))
    return {"trues": planes.astype(np.float32)}, doubts


def _below(planes: np.ndarray) -> str:
    """How many bins are below 0, and how far, to read; "" if none is."""
    count = int((planes < 0).sum())
    return f"{_bins(count)} below 0, the least {planes.min():g}" if count else ""


def _bins(count: int) -> str:
    return f"{count} bin" if count == 1 else f"{count} bins"


def _check_background(
    scan: Scan, arrays: Mapping[str, np.ndarray], planes: np.ndarray, counting: np.ndarray
) -> None:
    """Refuse as much background as prompts, which leaves nothing to reconstruct."""
    keys = [key for key in ("randoms", "scatter") if key in arrays]
    found = sum(_counted(arrays[key], counting) for key in keys)
    counts = _counted(planes, counting)
    if keys and found >= counts:
        raise InputError(
            " and ".join(getattr(scan, key) for key in keys),
            f"{'holds' if len(keys) == 1 else 'hold'} {found:g} counts of background, and the "
            f"prompts {scan.sinogram} have {counts:g} in all",
            "give randoms and scatter as they are expected in these prompts, in counts; not the "
            "prompts themselves",
        )


def _counted(planes: np.ndarray, counting: np.ndarray) -> float:
    """Sum over the bins that are no gaps."""
    return float((planes.sum(axis=0, dtype=np.float64) * counting).sum())


def _averaged(randoms: np.ndarray, scan: Scan, counting: np.ndarray) -> np.ndarray:
    """Average counts over a square of views and bins around each, and leave out gaps."""
    width = scan.smoothed_randoms
    if width == 1:
        return randoms
    if width % 2 == 0:
        problem = f"is {width}, which has no middle, for {scan.randoms}"
        raise InputError("smoothed_randoms", problem, "give an odd number of views and bins")
    sums, known = (_box_sums(array, width) for array in (randoms * counting, counting[None]))
    averages: np.ndarray = sums / np.maximum(known, 1)
    return averages.astype(np.float32)


def _box_sums(arrays: np.ndarray, width: int) -> np.ndarray:
    from scipy.ndimage import uniform_filter

    return (
        uniform_filter(
            arrays.astype(np.float64), (1, width, width), mode=("constant", "wrap", "constant")
        )
        * width**2
    )


def _say(name: str, planes: np.ndarray, background: np.ndarray, counting: np.ndarray) -> None:
    log.info(
        "scan %s: %d planes x %d views x %d bins, %g counts, background %.1f %%, gaps %.1f %%",
        *(name, *planes.shape, planes.sum()),
        100 * background.sum() / max(planes.sum(), 1),
        100 * (1 - counting.mean()),
    )
