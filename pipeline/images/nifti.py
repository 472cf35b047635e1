"""NIfTI files (.nii, .nii.gz): the header by nibabel, the values here, within limits."""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.images.volume import Volume, check_grid
from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.storage.hdf5 import GZIP_RATIO
from pipeline.storage.system_errors import unreadable

HEADERS = {348: "Nifti1Header", 540: "Nifti2Header"}
"""Length that a header states of itself, and nibabel's class of such headers."""

MAX_OFFSET = 2**24
"""Bytes before the values: header and extensions, in which some programs keep DICOM's."""

MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Length of NIfTI's units, by their codes: none stated (taken for mm), m, mm, micrometres."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From NIfTI's patient coordinates (x to the right, y to anterior) to ours."""

EXPORT = "export it again as NIfTI"


def read(path: Path) -> Volume:
    """Read one volume of real numbers, scaled as the header says; NIfTI states no unit of them.

    Raises
    ------
    InputError
        If the file is damaged or no NIfTI file, does not say how it lies in the patient, or holds
        several volumes, colours or complex numbers.
    """
    check_readable(path, "NIfTI file", "delete it and put the image there")
    with _parsed(path):
        header = _header(_contents(path, max(HEADERS)), path)
        shape, affine_mm = _shape(header, path), _affine_mm(header, path)
        dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
        slope, intercept = header.get_slope_inter()
    check_grid(path, shape, affine_mm)
    if dtype.kind not in "iuf":
        remedy = f"{EXPORT}, one real number a voxel"
        raise InputError(path, f"holds colours or complex numbers ({dtype})", remedy)
    if not min(HEADERS) < offset <= MAX_OFFSET:
        raise InputError(path, f"says that its values begin at byte {offset}", EXPORT)
    end = offset + math.prod(shape) * dtype.itemsize
    if end > GZIP_RATIO * (size := path.stat().st_size):
        raise InputError(path, f"declares {end} bytes, and has {size}", "copy it again")
    data = _contents(path, end)
    if len(data) < end:
        raise InputError(path, f"ends after {len(data)} bytes of {end}", "copy it again")
    raw = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
    return Volume(_scaled(raw, slope, intercept), affine_mm)


@contextmanager
def _parsed(path: Path) -> Iterator[None]:
    """Blame the header for whatever nibabel raises, which can be anything."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        problem = f"is no NIfTI file, or has a damaged header ({str(error)[:200]})"
        raise InputError(path, problem, EXPORT) from error


def _contents(path: Path, count: int) -> bytes:
    """Read as many uncompressed bytes, or all that there are."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not zipped:
                return file.read(count)
            unzipped = gzip.GzipFile(fileobj=file)
            data = unzipped.read(count)
            if count > max(HEADERS):
                unzipped.read(1)  # at the end of the file its checksum is compared
            return data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"is a truncated or damaged gzip ({error})"
        raise InputError(path, problem, "copy it again") from error
    except OSError as error:
        raise unreadable(path, error, f"cannot be read ({error})", "correct its path") from error


def _header(data: bytes, path: Path) -> Any:
    import nibabel

    lengths = [int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")]
    length = next((found for found in lengths if found in HEADERS), None)
    if length is None:
        raise InputError(path, f"is no NIfTI file; it starts with {data[:16]!r}", EXPORT)
    header = getattr(nibabel, HEADERS[length])(data[:length])
    if not bytes(header["magic"]).startswith(b"n+"):
        problem = "is a header alone, and its values lie in another file"
        raise InputError(path, problem, f"{EXPORT}, as one file")
    return header


def _shape(header: Any, path: Path) -> tuple[int, int, int]:
    """Voxels along z, y, x; further axes must have a length of 1."""
    found = tuple(map(int, header.get_data_shape()))
    if len(found) < 3 or any(length != 1 for length in found[3:]):
        raise InputError(
            path,
            f"has {len(found)} axes of {found} voxels, where one volume has 3",
            "give one volume: a frame of several, or their mean",
        )
    x, y, z = found[:3]
    return z, y, x


def _affine_mm(header: Any, path: Path) -> np.ndarray:
    """As of `Volume`; the sform counts before the qform, as for other programs."""
    if not (header["sform_code"] or header["qform_code"]):
        raise InputError(
            path,
            "does not say how it lies in the patient: its sform_code and qform_code are both 0",
            f"{EXPORT} with its orientation: without it nobody can tell left from right",
        )
    unit_mm = MM[int(header["xyzt_units"]) & 7]
    affine: np.ndarray = LPS @ np.diag([unit_mm] * 3 + [1.0]) @ header.get_best_affine()
    return affine


def _scaled(raw: np.ndarray, slope: float | None, intercept: float | None) -> np.ndarray:
    values = np.empty(raw.shape, np.float32)
    # A plane at a time, in float64: large integers keep their digits until they are scaled.
    with np.errstate(over="ignore", invalid="ignore"):
        for plane, target in zip(raw, values, strict=True):
            scaled = plane.astype(np.float64)
            if slope is not None:
                scaled = scaled * slope + intercept
            target[...] = scaled
    return values
