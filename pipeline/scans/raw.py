"""The raw numbers that a header describes: their type, their file, and no byte more or less."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.scans.headers import Header, data_path
from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.storage.system_errors import unreadable

SIZES = {"float": (4, 8), "signed integer": (1, 2, 4, 8), "unsigned integer": (1, 2, 4, 8)}
"""Bytes that numbers of each format may have."""

KINDS = {"float": "f", "signed integer": "i", "unsigned integer": "u"}


@dataclass(frozen=True)
class DataFile:
    """A file of raw numbers.

    Attributes
    ----------
    path : Path
    header : Path
        Its header; an array's own file.
    length : int
        Bytes.
    dtype : NumPy dtype
        Of its numbers, in its byte order.
    """

    path: Path
    header: Path
    length: int
    dtype: np.dtype

    def block(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """Map an array of a shape, from an offset in bytes, into memory.

        Raises
        ------
        InputError
            If the file ends before the array does.
        """
        end = offset + math.prod(shape) * self.dtype.itemsize
        if end > self.length:
            raise self._refusal(end)
        try:
            return np.memmap(self.path, self.dtype, "r", offset, shape)
        except (OSError, ValueError, OverflowError) as error:
            problem = f"cannot be mapped into memory ({error})"
            raise unreadable(self.path, error, problem, "copy it anew") from error

    def ends_at(self, end: int) -> None:
        """Refuse a file that has more bytes than its header describes."""
        if end != self.length:
            raise self._refusal(end)

    def _refusal(self, end: int) -> InputError:
        problem = f"has {self.length} bytes, {end} by its header"
        return InputError(self.path, problem, "copy it anew, with its header, or correct that")


def data_file(header: Header, byte_order_key: str) -> DataFile:
    """Find the data file of a header, relative to it.

    Raises
    ------
    InputError
        If it is missing, or its numbers' format is unknown.
    """
    kind = header.choice("number format", tuple(KINDS))
    size = header.whole("number of bytes per pixel")
    if size not in SIZES[kind]:
        raise header.refusal(f"has {size} bytes a number, for {kind} {SIZES[kind]} are known")
    order = header.choice(byte_order_key, ("littleendian", "bigendian"))
    dtype = np.dtype(f"{'<' if order == 'littleendian' else '>'}{KINDS[kind]}{size}")
    path = data_path(header)
    remedy = f"put it there, or correct 'name of data file' in {header.path.name}"
    check_readable(path, "file of projection data", remedy)
    return DataFile(path, header.path, path.stat().st_size, dtype)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error, f"cannot be read ({error})", "copy it anew") from error


def summed(blocks: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Sum arrays, those of time of flight; whole numbers stay so if they cannot overflow."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    whole = first.dtype.kind in "iu" and first.dtype.itemsize < 8
    total = np.zeros(first.shape, np.int64 if whole else np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # refused when rebinned
        for block in blocks:
            total += block
    return total


def scaled(data: np.ndarray, factor: float) -> np.ndarray:
    """Multiply by a header's scale factor: float32 if there is one."""
    if factor == 1:
        return data
    with np.errstate(invalid="ignore", over="ignore"):  # refused when rebinned
        return np.multiply(data, factor, dtype=np.float64).astype(np.float32)
