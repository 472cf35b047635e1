"""Spoilt files of every format: what is read is a scan, or is refused, in bounded memory."""

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from helpers import interfile as writer
from helpers.fuzz import fuzz
from pipeline.scans.projections import ScanSettings, single_slice_rebinned
from pipeline.scans.registry import read
from pipeline.storage.errors import InputError

MAX_BYTES = 32 * 2**20
"""Of memory for a file of a few kB, of which deflate may make a thousand times as much."""

RANGES = [(-1, 1), (-3, -2), (2, 3)]
SETTINGS = ScanSettings(axes="plane view radial", patient_position="HFS")

NUMBERS = ["-1", "0", "1", "2", "4", "1e12", "1000000000000", "9" * 400, "nan", "inf", "-0.5", "٣"]
LISTS = ["{", "}", "{1,2", "{1,,2}", "{}", "{-1,1}", "{ -3,-1,2}"]
WORDS = ["", "ё", "\0", "..", "/dev/zero", "float", "segment", "view", "off", "on", "bigendian"]
NASTY = st.sampled_from([*NUMBERS, *LISTS, *WORDS, "1_0", "0x10", "timing positions"])


def survives(path):
    """Whether a file is read and rebinned; if not, it is refused within one screen."""
    tracemalloc.start()
    refusal = ""
    try:
        planes = single_slice_rebinned(read(path, SETTINGS), 3)
        assert planes.ndim == 3
        assert np.isfinite(planes).all()
    except InputError as error:
        refusal = str(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(refusal) < 2200
    assert peak < MAX_BYTES
    return not refusal


@st.composite
def spoilt_bytes(draw, whole):
    """A few bytes changed, the file cut off or doubled, or a piece moved."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["set", "cut", "insert", "delete", "repeat"]))
        if kind == "set" and place < len(data):
            data[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "delete":
            del data[place : place + draw(st.integers(1, 8))]
        else:
            data[place:place] = data[place : place + draw(st.integers(1, 64))]
    return bytes(data)


@st.composite
def spoilt_lines(draw, text):
    """Lines left out, doubled, swapped, or with another value."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        if not lines:
            break
        place = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["value", "delete", "double", "swap"]))
        if kind == "value":
            key, _, _ = lines[place].partition(":=")
            lines[place] = f"{key}:= {draw(NASTY)}"
        elif kind == "delete":
            del lines[place]
        elif kind == "double":
            lines.insert(draw(st.integers(0, len(lines))), lines[place])
        else:
            other = draw(st.integers(0, len(lines) - 1))
            lines[place], lines[other] = lines[other], lines[place]
    return "\n".join(lines).encode()


def whole_scan(folder, name):
    segments, _ = writer.toy_segments(RANGES, tof=2 if "tof" in name else 1)
    write = writer.write_siemens if name == "siemens" else writer.write
    return write(folder, segments)


@pytest.fixture(params=["interfile", "interfile tof", "siemens"])
def scan(request, tmp_path):
    return whole_scan(tmp_path, request.param)


def test_headers_with_spoilt_values(scan):
    text = scan.read_text()
    outcomes = set()

    @fuzz
    @given(spoilt_lines(text))
    def spoil(data):
        scan.write_bytes(data)
        outcomes.add(survives(scan))

    spoil()
    assert outcomes == {True, False}, "some changes matter, some do not"


def test_headers_with_spoilt_bytes(scan):
    whole = scan.read_bytes()
    outcomes = set()

    @fuzz
    @given(spoilt_bytes(whole))
    def spoil(data):
        scan.write_bytes(data)
        outcomes.add(survives(scan))

    spoil()
    assert outcomes == {True, False}


def test_spoilt_data(scan):
    data_file = scan.parent / "scan.s"
    whole = data_file.read_bytes()
    outcomes = set()

    @fuzz
    @given(spoilt_bytes(whole))
    def spoil(data):
        data_file.write_bytes(data)
        outcomes.add(survives(scan))

    spoil()
    assert outcomes == {True, False}


def save(path: Path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, sinogram=array)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"sinogram": array}, do_compression="packed" in path.name)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("sinogram", data=array, compression="gzip", chunks=(1, 4, 5))


@pytest.mark.parametrize("name", ["scan.npy", "scan.npz", "scan.mat", "packed.mat", "scan.h5"])
def test_spoilt_arrays(tmp_path, name):
    path = tmp_path / name
    save(path, np.arange(60.0).reshape(3, 4, 5))
    whole = path.read_bytes()
    assert survives(path)
    outcomes = set()

    @fuzz
    @given(spoilt_bytes(whole))
    def spoil(data):
        path.write_bytes(data)
        outcomes.add(survives(path))

    spoil()
    assert False in outcomes
