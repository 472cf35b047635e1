"""Whatever bytes a file has, it is read or refused, and within bounds of memory."""

import gzip
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzz import fuzz
from helpers.own_images import save_dicom, save_nifti
from pipeline.images import dicom, nifti
from pipeline.storage.errors import InputError

VALUES = np.random.default_rng(1).uniform(1, 9, (4, 5, 3)).astype(np.float32)

BOUND = 64 * 2**20
"""Bytes; the files here have some thousand."""

INTERESTING = [0, 1, 2, 3, 127, 128, 255]


def read_or_refuse(read, path):
    """Read a file; give the volume, or None if it was refused."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of nibabel and pydicom, of odd values
            found = read(path)
    except InputError:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < BOUND
    assert found.values.dtype == np.float32
    assert found.values.ndim == 3
    assert np.isfinite(found.affine_mm).all()
    return found


def mutations(length):
    """Places below a length, and the bytes that are put there."""
    byte = st.sampled_from(INTERESTING) | st.integers(0, 255)
    return st.lists(st.tuples(st.integers(0, length - 1), byte), min_size=1, max_size=12)


def mutated(data, changes):
    data = bytearray(data)
    for place, byte in changes:
        data[place % len(data)] = byte
    return bytes(data)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A NIfTI file's bytes, and those of a series' slices."""
    folder = tmp_path_factory.mktemp("good")
    paths = save_dicom(folder / "series", VALUES)
    return save_nifti(folder / "a.nii", VALUES).read_bytes(), [p.read_bytes() for p in paths]


@given(changes=mutations(348), zipped=st.booleans())
@fuzz
def test_nifti_headers(good, tmp_path, changes, zipped):
    data = mutated(good[0], changes)
    (tmp_path / "a.nii").write_bytes(gzip.compress(data, 1) if zipped else data)
    read_or_refuse(nifti.read, tmp_path / "a.nii")


@given(
    code=st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 1792, 2304]),
    dim=st.lists(st.integers(-5, 9) | st.integers(-(2**15), 2**15 - 1), min_size=8, max_size=8),
    offset=st.floats(width=32),
    slope=st.floats(width=32),
    rows=st.lists(st.floats(width=32), min_size=4, max_size=4),
)
@fuzz
def test_nifti_fields(tmp_path, code, dim, offset, slope, rows):
    fields = {"datatype": code, "dim": dim, "vox_offset": offset, "scl_slope": slope}
    save_nifti(tmp_path / "a.nii", VALUES, **fields, srow_x=rows)
    read_or_refuse(nifti.read, tmp_path / "a.nii")


@given(data=st.binary(max_size=600))
@fuzz
def test_any_bytes_as_nifti(tmp_path, data):
    (tmp_path / "a.nii").write_bytes(data)
    assert read_or_refuse(nifti.read, tmp_path / "a.nii") is None


@given(changes=mutations(2000), slice_=st.integers(0, 2), cut=st.none() | st.integers(0, 1500))
@fuzz
def test_dicom_bytes(good, tmp_path, changes, slice_, cut):
    for number, data in enumerate(good[1]):
        if number == slice_:
            data = mutated(data, changes)[:cut]
        (tmp_path / f"{number}.dcm").write_bytes(data)
    read_or_refuse(dicom.read, tmp_path)


@given(data=st.binary(max_size=400))
@fuzz
def test_any_bytes_as_dicom(tmp_path, data):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + data)
    assert read_or_refuse(dicom.read, tmp_path) is None


def test_the_good_ones_are_read(good, tmp_path):
    (tmp_path / "a.nii").write_bytes(good[0])
    assert read_or_refuse(nifti.read, tmp_path / "a.nii") is not None
    for number, data in enumerate(good[1]):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    assert read_or_refuse(dicom.read, tmp_path) is not None
