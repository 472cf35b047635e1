"""A writer of Interfile projection data of its own, in all layouts, and of toy scans for it."""

import os
from pathlib import Path

import numpy as np
import pytest

FORMATS = {"f": "float", "i": "signed integer", "u": "unsigned integer"}
DTYPES = ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
ORDERS = ("by view", "by sinogram")

SCANNER = {
    "originating system": "Toy",
    "Number of rings": 4,
    "Number of detectors per ring": 16,
    "Inner ring diameter (cm)": 60,
    "Average depth of interaction (cm)": 0.7,
    "Distance between rings (cm)": 0.654,
    "View offset (degrees)": -5.23,
    "effective central bin size (cm)": 0.3,
    "applied corrections": "{None}",
    "patient orientation": "head_in",
    "patient rotation": "supine",
}


def real_data():
    """Folder of real files, which stay outside the project; the test is skipped without it."""
    folder = os.environ.get("REALDATA_DIR")
    if not folder:
        pytest.skip("REALDATA_DIR names no folder of real files")
    return Path(folder)


def ring_pairs(rings, low, high):
    """All pairs of rings whose difference (second minus first) is in a range."""
    every = [(one, other) for one in range(rings) for other in range(rings)]
    return [(one, other) for one, other in every if low <= other - one <= high]


def toy_segments(ranges, rings=4, views=3, tangential=4, tof=1, seed=0):
    """Counts of every pair of rings, binned into segments by hand.

    Returns
    -------
    segments : list of ((low, high), array (tof, axial, view, tangential))
    pairs : mapping of two rings to their counts (tof, view, tangential)
    """
    random = np.random.default_rng(seed)
    pairs, segments = {}, []
    for low, high in ranges:
        sums = sorted({one + other for one, other in ring_pairs(rings, low, high)})
        array = np.zeros((tof, len(sums), views, tangential), int)
        for one, other in ring_pairs(rings, low, high):
            counts = random.integers(0, 5, (tof, views, tangential))
            pairs[one, other] = counts
            array[:, sums.index(one + other)] += counts
        segments.append(((low, high), array))
    return segments, pairs


def listed(values):
    return "{ " + ",".join(map(str, values)) + "}"


def header_of(segments, order="by view", dtype="f4", byte_order="<", **changes):
    """Keys and values of a header as STIR 6 writes it; a change to None deletes a key."""
    tof, _, views, tangential = segments[0][1].shape
    axial = [array.shape[1] for _, array in segments]
    view, plane = (3, 2) if order == "by view" else (2, 3)
    keys = {
        "name of data file": "scan.s",
        "!type of data": "PET",
        "imagedata byte order": "LITTLEENDIAN" if byte_order == "<" else "BIGENDIAN",
        "!PET data type": "Emission",
        "!number format": FORMATS[dtype[0]],
        "!number of bytes per pixel": dtype[1:],
        "number of dimensions": 5 if tof > 1 else 4,
        "matrix axis label [4]": "segment",
        "!matrix size [4]": len(segments),
        f"matrix axis label [{view}]": "view",
        f"!matrix size [{view}]": views,
        f"matrix axis label [{plane}]": "axial coordinate",
        f"!matrix size [{plane}]": listed(axial),
        "matrix axis label [1]": "tangential coordinate",
        "!matrix size [1]": tangential,
        "minimum ring difference per segment": listed(low for (low, _), _ in segments),
        "maximum ring difference per segment": listed(high for (_, high), _ in segments),
        **SCANNER,
        "number of time frames": 1,
    }
    if tof > 1:
        keys |= {"matrix axis label [5]": "timing positions", "!matrix size [5]": tof}
    keys |= changes
    return {key: value for key, value in keys.items() if value is not None}


def header_text(keys):
    lines = [f"{key} := {value}" for key, value in keys.items()]
    return "\n".join(["!INTERFILE  :=", *lines, "!END OF INTERFILE :=", ""])


def numbers_of(segments, order="by view", dtype="f4", byte_order="<"):
    """Bytes of the data: (tof, segment, view, axial, tangential), or axial before view."""
    swapped = (0, 2, 1, 3) if order == "by view" else (0, 1, 2, 3)
    flat = [array.transpose(swapped).reshape(len(array), -1) for _, array in segments]
    return np.concatenate(flat, axis=1).astype(byte_order + dtype).tobytes()


def write(folder, segments, order="by view", dtype="f4", byte_order="<", offset=0, **changes):
    """Write ``scan.hs`` and ``scan.s``, and return the former."""
    folder = Path(folder)
    if offset:
        changes = {"data offset in bytes[1]": offset, **changes}
    keys = header_of(segments, order, dtype, byte_order, **changes)
    path = folder / "scan.hs"
    path.write_text(header_text(keys), encoding="utf-8")
    data = bytes(offset) + numbers_of(segments, order, dtype, byte_order)
    (folder / "scan.s").write_bytes(data)
    return path


def write_siemens(folder, segments, names=("prompts", "randoms"), start=24, gap=8, **changes):
    """Write an uncompressed ``scan.s.hdr`` and its data, each name's times its number, from 1.

    Each bin of time of flight is a data type of its own.
    """
    folder = Path(folder)
    tof, _, views, tangential = segments[0][1].shape
    table = [array.shape[1] for _, array in segments]
    planes = np.concatenate([array for _, array in segments], axis=1).astype("<i2")
    data, types = bytes(start), {}
    for factor, name in enumerate(names, 1):
        for block in planes * factor:
            number = len(types) // 2 + 1
            types[f"scan data type description [{number}]"] = name
            types[f"data offset in bytes [{number}]"] = len(data)
            data += block.tobytes() + bytes(gap)
    low, high = segments[0][0]
    keys = {
        "%comment": "Sinogram SubHeader; toy",
        "!originating system": "2008",
        "!name of data file": "scan.s",
        "%compression": "off",
        "image data byte order": "LITTLEENDIAN",
        "%patient orientation": "HFS",
        "!PET data type": "emission",
        "number format": "signed integer",
        "!number of bytes per pixel": 2,
        "number of dimensions": 3,
        "matrix axis label [1]": "bin",
        "matrix axis label [2]": "projection",
        "matrix axis label [3]": "plane",
        "matrix size [1]": tangential,
        "matrix size [2]": views,
        "matrix size [3]": sum(table),
        "scale factor (mm/pixel) [1]": 2.0445,
        "scale factor (mm/pixel) [3]": 2.03125,
        "%axial compression": high - low + 1,
        "%maximum ring difference": max(high for (_, high), _ in segments),
        "number of rings": 4,
        "%segment table": listed(table),
        "applied corrections": "",
        "%number of TOF time bins": tof,
        "number of scan data types": len(types) // 2,
        **types,
    }
    keys |= changes
    lines = [f"{key}:={value}" for key, value in keys.items() if value is not None]
    path = folder / "scan.s.hdr"
    path.write_text("\n".join(["!INTERFILE:=", *lines, ""]))
    (folder / "scan.s").write_bytes(data[: len(data) - gap])
    return path
