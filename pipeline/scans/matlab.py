"""Numeric arrays of MATLAB's files, versions 5 to 7.2 (7.3 is HDF5).

SciPy's reader lets some damaged files crash the interpreter; this one reads numbers and nothing
else. The format is MathWorks' "MAT-File Format", of which a file is a row of elements: a type, a
length, and that many bytes.
"""

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HEADER_BYTES = 128
PEEK_BYTES = 2**12
"""Of an array, to learn its name and shape; these have 100, and the name's length, at most."""

NUMBERS = {
    **{1: "i1", 3: "i2", 5: "i4", 12: "i8"},
    **{2: "u1", 4: "u2", 6: "u4", 13: "u8"},
    **{7: "f4", 9: "f8"},
}
"""NumPy types of MATLAB's element types."""

MATRIX, COMPRESSED = 14, 15
NUMERIC_CLASSES = range(6, 16)
COMPLEX = 0x800


@dataclass(frozen=True)
class _Array:
    """An array as its element begins.

    Attributes
    ----------
    name : str
    numeric : bool
        Whether it holds real numbers, and is no structure or text.
    shape : tuple of int
    end : int
        Bytes of the whole element.
    start : int
        Where its numbers' element begins.
    """

    name: str
    numeric: bool
    shape: tuple[int, ...]
    end: int
    start: int


def read_matlab(path: Path, choose: Callable[[list[str]], str]) -> np.ndarray:
    """Read one numeric array.

    Parameters
    ----------
    path : Path
    choose : callable
        Gives the name of the array to read, of the names of all numeric ones.

    Returns
    -------
    array
        Of the shape that it has in MATLAB, with the type of number that the file has.

    Raises
    ------
    ValueError, struct.error or zlib.error
        If the file is damaged or of another version.
    """
    data = np.memmap(path, np.uint8, "r").data
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:HEADER_BYTES]))
    if order is None:
        raise ValueError("it has no header of MATLAB 5 or later")
    place, found = HEADER_BYTES, {}  # arrays, their bytes, and whether these are packed
    while place < len(data):
        kind, content, following = _element(data, place, order)
        packed = kind == COMPRESSED
        begun = _unpacked(content, PEEK_BYTES) if packed else data[place:following]
        array = _begun(begun, order)
        if array.numeric:
            found[array.name] = array, content if packed else begun, packed
        # Packed elements alone are not filled up to a multiple of 8 bytes.
        place = following if packed else -(-following // 8) * 8
    array, content, packed = found[choose(list(found))]
    whole = _unpacked(content, array.end) if packed else content
    kind, numbers, _ = _element(whole, array.start, order)
    return np.frombuffer(numbers, order + NUMBERS[kind]).reshape(array.shape, order="F")


def _unpacked(content: memoryview, limit: int) -> memoryview:
    return memoryview(zlib.decompressobj().decompress(content, limit))


def _element(data: memoryview, place: int, order: str) -> tuple[int, memoryview, int]:
    """Type and content of the element at a place, and where the content ends."""
    kind, size = struct.unpack_from(f"{order}II", data, place)
    start = place + 8
    if kind >> 16:  # up to four bytes, in the place of the length
        kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
    if start + size > len(data):
        raise ValueError(f"an element of {size} bytes ends behind the file's end")
    return kind, data[start : start + size], start + size


def _begun(data: memoryview, order: str) -> _Array:
    """Read how an array begins: flags, shape, name."""
    kind, size = struct.unpack_from(f"{order}II", data)
    if kind != MATRIX:
        raise ValueError(f"an element is of type {kind}, and no array")
    parts, place = [], 8
    for _ in range(3):
        _, content, end = _element(data, place, order)
        parts.append(content)
        place = -(-end // 8) * 8
    flags, shape, name = parts
    (flag,) = struct.unpack_from(f"{order}I", flags)
    lengths = tuple(map(int, np.frombuffer(shape, f"{order}i4")))
    numeric = flag & 0xFF in NUMERIC_CLASSES and not flag & COMPLEX and math.prod(lengths) > 0
    text = bytes(name).decode("utf-8", errors="replace")
    return _Array(text, numeric, lengths, size + 8, place)
