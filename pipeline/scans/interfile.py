"""STIR's Interfile projection data: a header ``.hs`` and its file of raw numbers.

Keys and conventions are those of STIR 6 (src/IO/InterfileHeader.cxx and interfile.cxx there).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.scans.headers import Header, read_header
from pipeline.scans.projections import Acquisition, Projections, ScanSettings, Segment, no_names
from pipeline.scans.raw import data_file, scaled, sha256_of, summed

BY_VIEW = ("tangential coordinate", "axial coordinate", "view", "segment")
BY_SINOGRAM = ("tangential coordinate", "view", "axial coordinate", "segment")
TOF = "timing positions"

ARC_CORRECTED = ("arc correction", "arc corrected")
NOT_CORRECTED = ("", "none")

UNKNOWN_SCANNERS = ("", "unknown")
GEOMETRIES = ("cylindrical", "blocksoncylindrical")

POSITIONS = {
    ("head in", "supine"): "HFS",
    ("head in", "prone"): "HFP",
    ("feet in", "supine"): "FFS",
    ("feet in", "prone"): "FFP",
}


@dataclass(frozen=True)
class Layout:
    """How the numbers lie in the file.

    Attributes
    ----------
    by_view : bool
        (segment, view, axial, tangential) if true, or (segment, axial, view, tangential); both
        below time of flight.
    tof, views, tangential : int
        Lengths of these axes.
    axial : tuple of int
        Axial positions of each segment.
    """

    by_view: bool
    tof: int
    views: int
    tangential: int
    axial: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """Numbers of each segment, in one bin of time of flight."""
        return [axial * self.views * self.tangential for axial in self.axial]


def read(path: str | Path, settings: ScanSettings) -> Projections:
    """Read projection data that STIR, or a program that follows it, wrote.

    Parameters
    ----------
    path : path
        The header; its data file stays on the disk, mapped into memory, unless numbers are scaled
        or summed over time of flight.
    settings : ScanSettings
        Of which the patient's position counts.

    Raises
    ------
    InputError
        If either file is missing, or they are not what STIR writes, or contradict each other.
    """
    if settings.array:
        raise no_names(path, settings.array)
    header = read_header(path, to_the_end=True)
    layout = read_layout(header)
    differences = _differences(header, len(layout.axial))
    acquisition = read_acquisition(header, layout.tof, settings.patient_position)
    factor = _factor(header)
    file = data_file(header, "imagedata byte order")
    numbered = "data offset in bytes[1]"
    offset_key = numbered if numbered in header.values else "data offset in bytes"
    offset = header.whole(offset_key, least=0, default=0)
    shape = (layout.tof, sum(layout.sizes))
    numbers = file.block(offset, shape)
    file.ends_at(offset + shape[0] * shape[1] * file.dtype.itemsize)
    arrays = [scaled(data, factor) for data in _segments(numbers, layout)]
    return Projections(
        acquisition=acquisition,
        segments=tuple(map(Segment, differences, arrays)),
        first_tangential=-(layout.tangential // 2),
        towards="inferior",
        origin=Path(path),
        sha256=sha256_of(file.path),
    )


def read_layout(header: Header) -> Layout:
    """Read the order and the lengths of the axes; InputError if STIR does not write such."""
    count = header.whole("number of dimensions")
    if count not in (4, 5):
        raise header.refusal(f"has {count} dimensions, not 4, or 5 with time of flight")
    numbers = range(1, count + 1)
    labels = tuple(header.text(f"matrix axis label[{n}]").lower() for n in numbers)
    known = [(*order, TOF)[:count] for order in (BY_VIEW, BY_SINOGRAM)]
    if labels not in known:
        listed = " or ".join(", ".join(order) for order in known)
        raise header.refusal(f"has the axes {', '.join(labels)}; known are {listed}")
    lengths = {label: f"matrix size[{n}]" for n, label in zip(numbers, labels, strict=True)}
    axial = header.wholes(lengths["axial coordinate"])
    if min(axial) < 1:
        raise header.refusal(f"has {min(axial)} axial positions in a segment")
    segments = header.whole(lengths["segment"])
    if len(axial) != segments:
        raise header.refusal(f"has axial positions of {len(axial)} segments, not {segments}")
    return Layout(
        by_view=labels[2] == "view",
        tof=header.whole(lengths[TOF]) if TOF in lengths else 1,
        views=header.whole(lengths["view"]),
        tangential=header.whole(lengths["tangential coordinate"]),
        axial=axial,
    )


def _differences(header: Header, segments: int) -> list[tuple[int, int]]:
    lowest = header.wholes("minimum ring difference per segment")
    highest = header.wholes("maximum ring difference per segment")
    for found in (lowest, highest):
        if len(found) != segments:
            problem = f"has ring differences of {len(found)} segments, not {segments}"
            raise header.refusal(problem)
    return list(zip(lowest, highest, strict=True))


def _segments(numbers: np.ndarray, layout: Layout) -> list[np.ndarray]:
    """Cut numbers (tof, all others) into arrays (axial, view, tangential), one a segment."""
    arrays, start = [], 0
    for axial, size in zip(layout.axial, layout.sizes, strict=True):
        flat = summed(numbers[:, start : start + size])
        start += size
        if layout.by_view:
            array = flat.reshape(layout.views, axial, layout.tangential).transpose(1, 0, 2)
        else:
            array = flat.reshape(axial, layout.views, layout.tangential)
        arrays.append(array)
    return arrays


def _factor(header: Header) -> float:
    """Scale factor; what STIR's "quantification units" means is the same."""
    key = "image scaling factor"
    listed = header.numbers(f"{key}[1]") or header.numbers(key)
    factors = {*listed, *header.numbers("quantification units")} - {1.0}
    if len(set(listed)) > 1 or len(factors) > 1:
        raise header.refusal(f"has several scale factors, {sorted({*listed, *factors})}")
    factor = min(factors, default=1.0)
    if factor <= 0:
        raise header.refusal(f"has the scale factor {factor:g}, not a positive number")
    return factor


def read_acquisition(header: Header, tof_bins: int, patient_position: str | None) -> Acquisition:
    """Read what the header says of the scanner and the scan.

    Parameters
    ----------
    header : Header
    tof_bins : int
        Bins of time of flight.
    patient_position : str or None
        Instead of the header's, unless None.

    Raises
    ------
    InputError
        If it is not of a PET scan of one frame on rings, or holds no emission data.
    """
    header.choice("imaging modality", ("pt", "pet"), default="pet")
    header.choice("pet data type", ("emission",), default="emission")
    if (frames := header.whole("number of time frames", default=1)) > 1:
        raise header.refusal(f"has {frames} time frames", "give one frame, or their sum")
    geometry = "scanner geometry (blocksoncylindrical/cylindrical/generic)"
    if (found := header.values.get(geometry, GEOMETRIES[0]).lower()) not in GEOMETRIES:
        problem = f"has the scanner geometry {found!r}"
        raise header.refusal(problem, "only rings, of crystals or blocks, can be reconstructed")
    corrections = _corrections(header)
    diameter_cm = header.length("inner ring diameter (cm)")
    depth_cm = header.number("average depth of interaction (cm)")
    if depth_cm is not None and depth_cm < 0:
        raise header.refusal(f"has {depth_cm:g} cm as average depth of interaction")
    radius_cm = diameter_cm / 2 + depth_cm if diameter_cm and depth_cm is not None else None
    return Acquisition(
        scanner=_scanner(header),
        detectors_per_ring=header.optional_whole("number of detectors per ring"),
        rings=header.optional_whole("number of rings"),
        ring_spacing_mm=_mm(header.length("distance between rings (cm)")),
        radius_mm=_mm(radius_cm),
        bin_mm=_mm(header.length("effective central bin size (cm)")),
        view_offset_deg=header.number("view offset (degrees)"),
        arc_corrected=any(name in ARC_CORRECTED for name in corrections),
        tof_bins=tof_bins,
        patient_position=patient_position or _position(header),
        corrections=corrections,
    )


def _corrections(header: Header) -> tuple[str, ...]:
    if "applied corrections" not in header.values:
        # STIR takes such data as arc-corrected; if they are not, all images come out warped.
        raise header.refusal(
            "lacks 'applied corrections', and so does not say whether it is arc-corrected",
            "add 'applied corrections := {arc correction}', or {None}",
        )
    found = header.words("applied corrections")
    return tuple(name for name in found if name not in NOT_CORRECTED)


def _scanner(header: Header) -> str | None:
    names = [header.values.get(key, "") for key in ("originating system", "scanner type")]
    return next((name for name in names if name.lower() not in UNKNOWN_SCANNERS), None)


def _position(header: Header) -> str | None:
    keys = ("patient orientation", "patient rotation")
    orientation, rotation = (header.values.get(k, "").lower().replace("_", " ") for k in keys)
    return POSITIONS.get((orientation, rotation))


def _mm(cm: float | None) -> float | None:
    return None if cm is None else 10 * cm
