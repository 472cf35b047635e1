"""One DICOM series of axial PET slices: a folder, whatever the files in it are called."""

import os
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.images.volume import UNKNOWN, Volume, check_grid
from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.storage.system_errors import unreadable

MAX_BYTES = 2**23
"""Of a file, which holds one slice."""

MAX_FOLDERS = 100
"""Folders below that are searched for slices, to say where they are."""

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Transfer syntax that compresses whole files: its length is known when all of it is unpacked."""

ALIKE = (
    "SeriesInstanceUID", "Modality", "Units", "Rows", "Columns", "PixelSpacing",
    "ImageOrientationPatient",
)  # fmt: skip
"""What all slices of a series have in common; a file that lacks one of these has None."""

TOLERANCE_MM = 0.02
"""By which positions of slices may differ from even spacing; files round them."""

NO_SERIES = "put one series of slices there, all of it and nothing else"
CONVERT = "convert the series to NIfTI (by dcm2niix, for instance) and give that file"


def read(folder: Path) -> Volume:
    """Read a series: slices in the order of their positions, each with its own rescaling.

    Files that are no DICOM files are passed over. A rescale slope or intercept that is absent is 1
    or 0.

    Raises
    ------
    InputError
        If the slices are of several series, or not one beside the other at equal distances; or a
        file is damaged, compressed in a way that cannot be decoded here, or holds more than a
        slice.
    """
    slices = [_header(path) for path in _files(folder)]
    if len(slices) < 2:
        raise _too_few(folder, len(slices))
    _check_alike(folder, slices)
    slices, shape, affine_mm = _in_order(folder, slices)
    check_grid(folder, shape, affine_mm)
    values = np.empty(shape, np.float32)
    for plane, header in zip(values, slices, strict=True):
        plane[...] = _values(Path(header.filename), shape[1:])
    return Volume(values, affine_mm, _fact(slices[0], "Units") or UNKNOWN)


def _files(folder: Path) -> list[Path]:
    """DICOM files of a folder, told by the four letters that they have after 128 bytes."""
    found = []
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name != "DICOMDIR":
                with path.open("rb") as file:
                    found += [path] if file.read(132)[128:] == b"DICM" else []
    except OSError as error:
        raise unreadable(folder, error, f"cannot be read ({error})", "correct it") from error
    return found


def _too_few(folder: Path, count: int) -> InputError:
    """Error about a folder of fewer than two slices; they may lie in one below."""
    problem = f"holds {count} DICOM slices"
    for place, folders, _ in islice(os.walk(folder), MAX_FOLDERS):
        folders.sort()
        with suppress(InputError):
            if Path(place) != folder and (found := _files(Path(place))):
                problem += f", and {place} {len(found)} DICOM files"
                return InputError(folder, problem, f"move the files of one series into {folder}")
    return InputError(folder, problem, NO_SERIES)


def _header(path: Path) -> Any:
    """Everything of a file but its pixels, of which it must hold one slice that can be decoded."""
    from pydicom import dcmread

    try:
        data = _contents(path)
        _check_syntax(path, data)
        header = dcmread(BytesIO(data), stop_before_pixels=True)
        header.filename = path
        frames, colours = (int(header.get(n) or 1) for n in ("NumberOfFrames", "SamplesPerPixel"))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom lets errors of any kind out
        raise _damaged(path, error) from error
    if frames * colours != 1:
        problem = f"holds {frames} frames of {colours} numbers a pixel, not one slice"
        raise InputError(path, problem, CONVERT)
    return header


def _contents(path: Path) -> bytes:
    """All of a file: pydicom would ask for as much memory as a damaged one declares."""
    check_readable(path, "DICOM file", NO_SERIES)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(path, f"has more than {MAX_BYTES} bytes, as no slice has", CONVERT)
    return data


def _check_syntax(path: Path, data: bytes) -> None:
    """Refuse what pydicom, with what is installed here, cannot decode."""
    from pydicom.filereader import read_dataset
    from pydicom.pixels import get_decoder

    def other_group(tag: Any, vr: Any, length: Any) -> bool:
        return bool(tag.group != 2)

    meta = read_dataset(BytesIO(data[132:]), False, True, stop_when=other_group)
    syntax: Any = meta.TransferSyntaxUID
    if syntax == DEFLATED or (syntax.is_compressed and not get_decoder(syntax).is_available):
        raise InputError(path, f"is compressed ({syntax.name}), which cannot be decoded", CONVERT)


def _damaged(path: Path, error: Exception) -> InputError:
    problem = f"is damaged, or no DICOM image ({str(error)[:200]})"
    return unreadable(path, error, problem, "copy the series again")


def _check_alike(folder: Path, slices: Sequence[Any]) -> None:
    for name in ALIKE:
        first, *others = ((header.filename, _fact(header, name)) for header in slices)
        for filename, value in others:
            if value != first[1]:
                files = f"{Path(first[0]).name} and {Path(filename).name}"
                problem = f"has slices of several series: {name} is {first[1]} and {value} in"
                raise InputError(folder, f"{problem} {files}", NO_SERIES)
    if (modality := _fact(slices[0], "Modality")) != "PT":
        raise InputError(folder, f"has slices of modality {modality}, not PT", NO_SERIES)


def _fact(header: Any, name: str) -> Any:
    """Value of an element to be compared and shown: numbers, text or None."""
    try:
        value = header.get(name)
        return None if value is None else str(value)
    except Exception as error:
        raise _damaged(Path(header.filename), error) from error


def _in_order(
    folder: Path, slices: Sequence[Any]
) -> tuple[list[Any], tuple[int, int, int], np.ndarray]:
    """Sort slices along the normal of their planes; give shape and affine of their `Volume` too."""
    try:
        shape = len(slices), int(slices[0].Rows), int(slices[0].Columns)
        row, column = np.reshape([float(n) for n in slices[0].ImageOrientationPatient], (2, 3))
        y_mm, x_mm = (float(n) for n in slices[0].PixelSpacing)
        positions = np.array([[float(n) for n in h.ImagePositionPatient] for h in slices])
        positions = positions.reshape(len(slices), 3)
    except Exception as error:
        problem = f"has slices that do not say where they lie ({str(error)[:200]})"
        raise InputError(folder, problem, CONVERT) from error
    normal = np.cross(row, column)
    along_mm = positions @ normal
    order = np.argsort(along_mm, kind="stable")
    files = np.array([Path(slices[n].filename).name for n in order])
    step_mm = _spacing(folder, along_mm[order], files)
    positions = positions[order]
    even = positions[0] + np.arange(len(order))[:, None] * step_mm * normal
    if not np.abs(positions - even).max() <= 5 * TOLERANCE_MM:  # roundings add up
        problem = "has slices that do not lie straight behind one another (a tilted gantry)"
        raise InputError(folder, problem, CONVERT)
    affine_mm = np.eye(4)
    affine_mm[:3] = np.stack([row * x_mm, column * y_mm, normal * step_mm, positions[0]], axis=1)
    return [slices[n] for n in order], shape, affine_mm


def _spacing(folder: Path, along_mm: np.ndarray, files: np.ndarray) -> float:
    """Distance of neighbouring slices at increasing positions, which must be equal."""
    steps_mm = np.diff(along_mm)
    usual_mm = float(np.median(steps_mm))
    odd = np.flatnonzero(~(np.abs(steps_mm - usual_mm) <= TOLERANCE_MM))
    if len(odd) or usual_mm <= TOLERANCE_MM:
        doubled = np.flatnonzero(~(steps_mm > TOLERANCE_MM))
        if len(doubled):
            places = [f"{files[n]} and {files[n + 1]} at {along_mm[n]:.2f} mm" for n in doubled]
        else:
            places = [
                f"{'none' if steps_mm[n] > usual_mm else 'less'} between {along_mm[n]:.2f} and "
                f"{along_mm[n + 1]:.2f} mm"
                for n in odd
            ]
        shown = "; ".join(places[:5]) + ("; ..." if len(places) > 5 else "")
        raise InputError(
            folder,
            f"has slices {usual_mm:.2f} mm apart along its axis, and "
            f"{'doubled ones: ' if len(doubled) else ''}{shown}",
            "add the missing slices, or take the doubled ones away: of a scan of several frames "
            "give one",
        )
    return float((along_mm[-1] - along_mm[0]) / (len(along_mm) - 1))


def _values(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Rescaled pixels (y, x), float64, of one file."""
    from pydicom import dcmread

    try:
        image = dcmread(BytesIO(_contents(path)))
        slope = float(image.get("RescaleSlope", 1))
        intercept = float(image.get("RescaleIntercept", 0))
        pixels: np.ndarray = image.pixel_array.astype(np.float64) * slope + intercept
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    if pixels.shape != shape:
        raise InputError(path, f"holds {pixels.shape} pixels, not {shape}", "copy it again")
    return pixels
