"""A head of which left, front and top can be told apart, and files of it in any orientation."""

import gzip
import os
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From our patient coordinates (LPS) to NIfTI's."""

MARKS = {"left": (34, 0, 0), "anterior": (0, -46, 8), "superior": (6, 10, 42)}
"""Hot spots (x, y, z), in mm from the middle of the head: LPS."""

LPS = np.eye(3)
"""Directions of the voxel axes x, y, z, one a column."""

SHAPE, VOXEL_MM = (60, 64, 58), (2.5, 2.5, 2.5)
"""Of `volume`, along x, y, z."""


def activity(points_mm: np.ndarray) -> np.ndarray:
    """Activity (...) at points (..., 3) in mm from the middle of the head; smooth, with marks."""
    radius = np.linalg.norm(points_mm / (46, 58, 54), axis=-1)
    value = 60 / (1 + np.exp((radius - 1) * 25))
    for mark in MARKS.values():
        squared = ((points_mm - np.array(mark)) ** 2).sum(axis=-1)
        value = value + 60 * np.exp(-squared / (2 * 7.0**2))
    return np.where(radius < 1.2, value, 0)


def affine(directions=LPS, shape=SHAPE, voxel_mm=VOXEL_MM, centre_mm=(3.0, -20.0, 40.0)):
    """Affine (4, 4), LPS, of a volume whose middle lies at a point."""
    result = np.eye(4)
    result[:3, :3] = np.asarray(directions) * voxel_mm
    result[:3, 3] = centre_mm - result[:3, :3] @ ((np.array(shape) - 1) / 2)
    return result


def volume(directions=LPS, shape=SHAPE, voxel_mm=VOXEL_MM) -> np.ndarray:
    """The head (x, y, z), float32, in the middle of a volume of some orientation."""
    index = np.stack(np.indices(shape), axis=-1) - (np.array(shape) - 1) / 2
    return activity(index * voxel_mm @ np.asarray(directions).T).astype(np.float32)


def turn(degrees: float, axis: int) -> np.ndarray:
    """Rotation (3, 3) about an axis x, y or z."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    result = np.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    result[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
    return result


OBLIQUE = turn(20, 0) @ turn(-12, 2) @ turn(7, 1)


def save_nifti(path: Path, values: np.ndarray, affine_mm=None, **header) -> Path:
    """Write an array (x, y, z) with an affine (LPS), and change fields of its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine_mm = affine(shape=values.shape[:3]) if affine_mm is None else affine_mm
    nibabel.save(nibabel.Nifti1Image(values, RAS @ affine_mm, dtype=values.dtype), path)
    if header:
        rewrite_header(path, **header)
    return path


def rewrite_header(path: Path, endianness: str = "<", **fields) -> None:
    """Change fields of a NIfTI header to what nibabel itself would not write."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        data = file.read()
    block = nibabel.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        block[name] = value
    with opened(path, "wb") as file:
        file.write(block.as_byteswapped(endianness).binaryblock + data[348:])


def save_dicom(folder: Path, values: np.ndarray, affine_mm=None, **elements) -> list[Path]:
    """Write an array (x, y, z) as a series, its slices named in no order.

    Elements of the files may be changed, by a value or by a function of the slice's number; None
    leaves one out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    affine_mm = affine(shape=values.shape) if affine_mm is None else affine_mm
    size_mm = np.linalg.norm(affine_mm[:3, :3], axis=0)
    directions = affine_mm[:3, :3] / size_mm
    count = values.shape[2]
    names = np.random.default_rng(1).permutation(count)
    paths = []
    for z in range(count):
        pixels = values[:, :, z].T
        slope = max(float(pixels.max()), 1e-6) / 60000 * (1 + 0.1 * (z % 3))
        plain = {
            "SeriesInstanceUID": "1.2.3.4",
            "SOPInstanceUID": f"1.2.3.4.{z + 1}",
            "Modality": "PT",
            "Units": "BQML",
            "ImagePositionPatient": [float(n) for n in (affine_mm @ [0, 0, z, 1])[:3]],
            "ImageOrientationPatient": [float(n) for n in directions.T[:2].ravel()],
            "PixelSpacing": [float(size_mm[1]), float(size_mm[0])],
            "RescaleSlope": float(f"{slope:.10g}"),
            "RescaleIntercept": 0.0,
        }
        given = {name: f(z) if callable(f) else f for name, f in elements.items()}
        paths.append(folder / f"slice{names[z]:03}.dcm")
        _slice(paths[-1], pixels / plain["RescaleSlope"], {**plain, **given})
    return paths


def _slice(path: Path, stored: np.ndarray, elements: dict) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
    meta.MediaStorageSOPInstanceUID = elements["SOPInstanceUID"]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    image.SOPClassUID = PositronEmissionTomographyImageStorage
    image.Rows, image.Columns = stored.shape
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = np.rint(stored).astype("<u2").tobytes()
    for name, value in elements.items():
        if value is None:
            image.pop(name, None)
        else:
            if name in ("RescaleSlope", "RescaleIntercept"):
                value = f"{value:.10g}"
            elif isinstance(value, list):
                value = [f"{number:.10g}" for number in value]
            setattr(image, name, value)
    pydicom.dcmwrite(path, image, enforce_file_format=True)


def real_data(*parts: str) -> Path:
    """Give a file of the folder that REALDATA_DIR names, or skip the test, saying so."""
    folder = os.environ.get("REALDATA_DIR")
    if not folder:
        pytest.skip("REALDATA_DIR names no folder with real images")
    path = Path(folder, *parts)
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return path
