"""MATLAB's numeric arrays, as SciPy writes them, and as MATLAB itself packs whole numbers."""

import struct

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scans.matlab import read_matlab


def only(names):
    (name,) = names
    return name


@settings(max_examples=100, deadline=None)
@given(
    dtype=st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]),
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    packed=st.booleans(),
    name=st.text("abcdefghijk_", min_size=1, max_size=31).filter(lambda n: n[0] != "_"),
)
def test_arrays_come_back(tmp_path_factory, dtype, shape, packed, name):
    path = tmp_path_factory.mktemp("matlab") / "scan.mat"
    array = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    scipy.io.savemat(path, {name: array}, do_compression=packed)
    found = read_matlab(path, only)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_no_number_is_passed_over(tmp_path, packed):
    path = tmp_path / "scan.mat"
    others = {
        "text": "PET",
        "structure": {"a": np.ones((2, 2))},
        "cell": np.array(["a", 1], dtype=object),
        "complex": np.ones((2, 2)) * 1j,
        "empty": np.ones((0, 3)),
    }
    arrays = {"before": np.ones((1, 3)), **others, "prompts": np.arange(6.0).reshape(2, 3)}
    scipy.io.savemat(path, arrays, do_compression=packed)
    seen = []

    def last(names):
        seen.extend(names)
        return names[-1]

    np.testing.assert_array_equal(read_matlab(path, last), arrays["prompts"])
    assert seen == ["before", "prompts"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_doubles_that_are_stored_as_bytes_come_back(tmp_path, order):
    """MATLAB stores doubles that are small whole numbers as bytes; up to four lie in the tag."""
    for numbers in (b"\1\2\3", b"\1\2\3\4\5"):
        shape = struct.pack(f"{order}8x2i", 1, len(numbers))
        small = struct.pack(f"{order}I", 2 | len(numbers) << 16) + numbers.ljust(4, b"\0")
        large = struct.pack(f"{order}II", 2, len(numbers)) + numbers.ljust(8, b"\0")
        body = (
            struct.pack(f"{order}4I", 6, 8, 6, 0)
            + struct.pack(f"{order}II", 5, 8)
            + shape[8:]
            + struct.pack(f"{order}I", 1 | 1 << 16)
            + b"a\0\0\0"
            + (small if len(numbers) <= 4 else large)
        )
        mark = b"IM" if order == "<" else b"MI"
        head = b"MATLAB 5.0".ljust(124) + struct.pack(f"{order}H", 0x100) + mark
        path = tmp_path / "scan.mat"
        path.write_bytes(head + struct.pack(f"{order}II", 14, len(body)) + body)
        assert scipy.io.loadmat(path)["a"].tolist() == [list(numbers)]
        assert read_matlab(path, only).tolist() == [list(numbers)]


def test_version_4_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "scan.mat", {"a": np.ones((20, 3))}, format="4")
    with pytest.raises(ValueError, match="no header of MATLAB 5"):
        read_matlab(tmp_path / "scan.mat", only)
