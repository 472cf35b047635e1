"""Small label volumes in the formats of BrainWeb's files."""

import gzip
import struct
from io import BytesIO

import numpy as np
from scipy.io import netcdf_file

from pipeline.sources import brainweb

SMALL = (3, 4, 5)

CODES = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 145, 161, 177])
"""What raw files hold for each class."""

HTML = b"<!DOCTYPE html>\n<html><head><title>503 Service\n Unavailable</title></head></html>"


def some_labels(seed: int = 0) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, 12, SMALL, dtype=np.uint8)
    labels[0, 0, 0] = 11
    return labels


def minc(
    voxels: np.ndarray,
    *,
    step: tuple[float, ...] = brainweb.VOXEL_MM,
    axes: tuple[str, ...] = ("zspace", "yspace", "xspace"),
    highest: float = 255.0,
    valid_range: tuple[float, float] = (0.0, 255.0),
) -> bytes:
    """Encode unsigned bytes as MINC1, laid out as BrainWeb's files are."""
    stream = BytesIO()
    file = netcdf_file(stream, "w")
    for axis, length, size in zip(axes, voxels.shape, step, strict=True):
        file.createDimension(axis, length)
        dimension = file.createVariable(axis, "i", ())
        dimension.spacing, dimension.step, dimension.start = b"regular__", size, -10.0
        dimension.data[...] = 0
    for name, value in (("image-min", 0.0), ("image-max", highest)):
        file.createVariable(name, "d", ()).data[...] = value
    image = file.createVariable("image", "b", axes)
    image.signtype, image.valid_range = b"unsigned", np.array(valid_range, ">f8")
    image[:] = voxels.view(np.int8)
    file.flush()
    return stream.getvalue()


def raw_short(labels: np.ndarray) -> bytes:
    return gzip.compress(CODES[labels].astype("<u2").tobytes(), mtime=0)


LABELS = some_labels()

PACKED = gzip.compress(minc(LABELS), mtime=0)

OTHER_CRC = PACKED[:-8] + struct.pack("<I", 1) + PACKED[-4:]
