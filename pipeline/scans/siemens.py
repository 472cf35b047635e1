"""Siemens' sinograms: a header ``.s.hdr`` and its uncompressed file of raw numbers.

Keys, and the order of segments, are as STIR 6 reads them (src/IO/InterfileHeaderSiemens.cxx).
"""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.scans.headers import Header, read_header
from pipeline.scans.projections import POSITIONS, Acquisition, Projections, ScanSettings, Segment
from pipeline.scans.raw import DataFile, data_file, sha256_of, summed

AXES = (
    ("bin", "x", "sinogram projections"),
    ("projection", "sinogram views"),
    ("plane", "number of sinograms"),
    ("tof bin",),
)
"""Names that each axis may have; the last is absent without time of flight."""

ARC_CORRECTED = ("radial arc-correction", "arc correction", "arc corrected")


def read(path: str | Path, settings: ScanSettings) -> Projections:
    """Read one kind of data of `read_all`: those that the settings name.

    Raises
    ------
    InputError
        As `read_all`, or if there are none of that name.
    """
    found = read_all(path, settings)
    wanted = settings.array or "prompts"
    if wanted not in found:
        problem = f"holds {', '.join(found)}, and no '{wanted}'"
        remedy = f"give the name of one of them behind a #: {path}#{min(found)}"
        raise Header(Path(path), {}).refusal(problem, remedy)
    return found[wanted]


def read_all(path: str | Path, settings: ScanSettings) -> dict[str, Projections]:
    """Read all data of a file, as prompts and randoms, by their names.

    Parameters
    ----------
    path : path
        The header; its data file stays on the disk, mapped into memory, unless numbers are summed
        over time of flight.
    settings : ScanSettings
        Of which the patient's position counts.

    Raises
    ------
    InputError
        If the data are compressed, either file is missing, or they contradict each other.
    """
    header = read_header(path, to_the_end=False)
    if header.choice("compression", ("on", "off"), default="off") == "on":
        raise header.refusal(
            "belongs to compressed data, which Siemens' own programs alone can read",
            "uncompress them with its intfcompr.exe (-e), and give the header that it writes",
        )
    shape = _shape(header)
    table, differences = _segments(header, planes=shape[1])
    file = data_file(header, "image data byte order")
    offsets = _offsets(header)
    _check_blocks(file, offsets, math.prod(shape) * file.dtype.itemsize)
    sha256 = sha256_of(file.path)
    found = {}
    for name, starts in offsets.items():
        blocks = [block for start in starts for block in file.block(start, shape)]
        arrays = np.split(summed(blocks), np.cumsum(table)[:-1])
        found[name] = Projections(
            acquisition=_acquisition(header, len(blocks), settings.patient_position),
            segments=tuple(map(Segment, differences, arrays)),
            first_tangential=-(shape[3] // 2),
            towards="inferior",
            origin=Path(path),
            sha256=sha256,
        )
    return found


def _shape(header: Header) -> tuple[int, int, int, int]:
    """Shape (tof, plane, view, tangential) of one block of data."""
    count = header.whole("number of dimensions")
    if count not in (3, 4):
        raise header.refusal(f"has {count} dimensions, not 3, or 4 with time of flight")
    labels = [header.text(f"matrix axis label[{n}]").lower() for n in range(1, count + 1)]
    if not all(label in names for label, names in zip(labels, AXES, strict=False)):
        problem = f"has the axes {', '.join(labels)}, where bin, projection, plane are known"
        raise header.refusal(problem)
    sizes = [header.whole(f"matrix size[{n}]") for n in range(1, count + 1)]
    tangential, views, planes, tof = (*sizes, 1)[:4]
    return tof, planes, views, tangential


def _segments(header: Header, planes: int) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Axial positions and ring differences of the segments, in the order 0, -1, 1, -2, 2, ..."""
    table = header.wholes("segment table")
    if min(table) < 1 or len(table) % 2 == 0 or sum(table) != planes:
        problem = f"has {planes} planes, and segments of {header.text('segment table')}"
        raise header.refusal(problem)
    span = header.whole("axial compression")
    if span % 2 == 0:
        raise header.refusal(f"has {span} as 'axial compression', not an odd number")
    limit = header.whole("maximum ring difference", least=0)
    differences = [(-(span // 2), span // 2)]
    for number in range(1, len(table) // 2 + 1):
        # The last segment may hold fewer ring differences than the others.
        low, high = number * span - span // 2, min(number * span + span // 2, limit)
        differences += [(-high, -low), (low, high)]
    return table, differences


def _offsets(header: Header) -> dict[str, list[int]]:
    """Where data begin, in bytes, by their names: as often as there are bins of time of flight."""
    count = header.whole("number of scan data types", default=1)
    if count > len(header.values):
        raise header.refusal(f"has {count} scan data types, more than it has lines")
    found: dict[str, list[int]] = {}
    for number in range(1, count + 1):
        key = f"data offset in bytes[{number}]"
        name = header.values.get(f"scan data type description[{number}]", "prompts").lower()
        offset = header.whole(key, least=0, default=0 if count == 1 else None)
        found.setdefault(name, []).append(offset)
    return found


def _check_blocks(file: DataFile, offsets: dict[str, list[int]], size: int) -> None:
    """Refuse data that overlap, or end before or after their file does."""
    starts = sorted(start for found in offsets.values() for start in found)
    for start, following in pairwise(starts):
        if following < start + size:
            problem = f"has data of {size} bytes each at {start} and {following}"
            raise Header(file.header, {}).refusal(problem)
    file.ends_at(starts[-1] + size)


def _acquisition(header: Header, tof_bins: int, patient_position: str | None) -> Acquisition:
    """What the header says; it has neither the rings' radius nor their crystals.

    Its scale factor of bins is that at the crystals' faces, not at the depth of interaction: the
    width of a bin is known for arc-corrected data alone.
    """
    corrections = tuple(name for name in header.words("applied corrections") if name != "none")
    arc_corrected = any(name in ARC_CORRECTED for name in corrections)
    bin_mm = header.length("scale factor (mm/pixel)[1]")
    plane_mm = header.length("scale factor (mm/pixel)[3]")
    position = header.values.get("patient orientation", "").upper()
    return Acquisition(
        scanner=header.values.get("originating system"),
        rings=header.optional_whole("number of rings"),
        ring_spacing_mm=None if plane_mm is None else 2 * plane_mm,
        bin_mm=bin_mm if arc_corrected else None,
        arc_corrected=arc_corrected,
        tof_bins=tof_bins,
        patient_position=patient_position or (position if position in POSITIONS else None),
        corrections=corrections,
    )
