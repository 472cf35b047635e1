"""NIfTI files of all number formats, and those that are refused."""

import gzip

import nibabel
import numpy as np
import pytest

from helpers.own_images import OBLIQUE, RAS, affine, real_data, rewrite_header, save_nifti, volume
from pipeline.images import nifti
from pipeline.storage.errors import InputError

SMALL = (3, 4, 5)


def some(dtype):
    rng = np.random.default_rng(1)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, SMALL).astype(dtype)
    native = np.dtype(dtype).newbyteorder("=")
    info = np.iinfo(native)
    return rng.integers(info.min, info.max, SMALL, native, endpoint=True).astype(dtype)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">i2", ">f4"]
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_every_number_format_is_read_as_it_is(tmp_path, dtype, name):
    values = some(dtype)
    stored = values if values.dtype.isnative else values.view(values.dtype.newbyteorder())
    image = nibabel.Nifti1Image(stored, np.diag([2.0, 2.0, 3.0, 1.0]), dtype=stored.dtype)
    nibabel.save(image, tmp_path / name)
    if stored is not values:
        rewrite_header(tmp_path / name, ">")
    found = nifti.read(tmp_path / name)
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, values.T.astype(np.float32))
    np.testing.assert_allclose(found.affine_mm, np.diag([-2.0, -2.0, 3.0, 1.0]))
    assert found.unit == "unknown"


def test_integers_are_scaled_by_slope_and_intercept(tmp_path):
    stored = some("i2")
    image = nibabel.Nifti1Image(stored, RAS, dtype="i2")
    image.header.set_slope_inter(0.25, -3)
    with (tmp_path / "a.nii").open("wb") as file:
        image.header["vox_offset"] = 352
        file.write(image.header.binaryblock + bytes(4) + stored.tobytes("F"))
    found = nifti.read(tmp_path / "a.nii").values
    np.testing.assert_array_equal(found, (stored.T * 0.25 - 3).astype(np.float32))


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("meter", 1000), ("micron", 0.001), (None, 1)])
def test_lengths_are_in_mm(tmp_path, unit, mm):
    image = nibabel.Nifti1Image(some("f4"), np.diag([2 / mm, 2 / mm, 2 / mm, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii").affine_mm, np.diag([-2, -2, 2, 1]))


def test_the_affine_is_that_of_nibabel_in_lps(tmp_path):
    wanted = affine(OBLIQUE)
    path = save_nifti(tmp_path / "a.nii.gz", volume(OBLIQUE), wanted)
    np.testing.assert_allclose(nifti.read(path).affine_mm, wanted, atol=1e-4)
    image = nibabel.load(path)
    image.set_sform(None, 0)
    image.set_qform(RAS @ wanted, 1)
    nibabel.save(image, tmp_path / "q.nii")
    np.testing.assert_allclose(nifti.read(tmp_path / "q.nii").affine_mm, wanted, atol=1e-3)


def test_trailing_axes_of_one_and_nifti_2_are_taken(tmp_path):
    values = some("f4")
    for name, image in (
        ("four", nibabel.Nifti1Image(values[..., None], np.eye(4))),
        ("five", nibabel.Nifti1Image(values[..., None, None], np.eye(4))),
        ("two", nibabel.Nifti2Image(values, np.eye(4))),
    ):
        nibabel.save(image, tmp_path / f"{name}.nii")
        np.testing.assert_array_equal(nifti.read(tmp_path / f"{name}.nii").values, values.T)


def refused(path):
    with pytest.raises(InputError) as caught:
        nifti.read(path)
    assert caught.value.where == str(path)
    return caught.value.problem


def test_an_image_that_says_not_how_it_lies_is_refused(tmp_path):
    path = save_nifti(tmp_path / "a.nii", some("f4"), sform_code=0, qform_code=0)
    assert "sform_code and qform_code are both 0" in refused(path)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.zeros((3, 4, 5, 2), "f4"), "has 4 axes of (3, 4, 5, 2) voxels"),
        (np.zeros((3, 4), "f4"), "has 2 axes"),
        (np.zeros(SMALL, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colours or complex"),
        (np.zeros(SMALL, "c8"), "colours or complex numbers (complex64)"),
        (np.zeros((513, 1, 1), "u1"), "at most 512 along an axis"),
    ],
)
def test_what_is_no_volume_of_numbers_is_refused(tmp_path, values, problem):
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    assert problem in refused(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"srow_x": 0}, "which is none of an image"),
        ({"srow_x": np.nan}, "which is none of an image"),
        ({"srow_x": [2, 2, 0, 0], "srow_y": [2, 2.1, 0, 0]}, "which is none of an image"),
        ({"srow_z": [0, 0, 1e9, 0]}, "which is none of an image"),
        ({"xyzt_units": 5}, "damaged header (5)"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 9}, "damaged header (w2 should be"),
        ({"vox_offset": 1e20}, "values begin at byte 1000000"),
        ({"vox_offset": np.nan}, "damaged header"),
        ({"dim": [3, -3, 4, 5, 1, 1, 1, 1]}, "(5, 4, -3) voxels"),
        ({"datatype": 5}, "damaged header"),
        ({"magic": b"ni1"}, "values lie in another file"),
    ],
)
def test_a_header_that_no_image_has_is_refused(tmp_path, change, problem):
    assert problem in refused(save_nifti(tmp_path / "a.nii", some("f4"), **change))


def test_damaged_files_are_refused(tmp_path):
    whole = save_nifti(tmp_path / "a.nii", some("f4")).read_bytes()
    for name, data, problem in (
        ("cut", whole[:-1], "ends after"),
        ("header", whole[:200], "damaged header"),
        ("empty", b"", "it starts with b''"),
        ("text", b"<html>" * 100, "is no NIfTI file; it starts with b'<html>"),
        ("cut.gz", gzip.compress(whole, mtime=0)[:-20], "truncated or damaged gzip"),
        ("checksum.gz", gzip.compress(whole, mtime=0)[:-8] + bytes(8), "truncated or damaged gzip"),
    ):
        (tmp_path / name).write_bytes(data)
        assert problem in refused(tmp_path / name)


def test_a_real_template_lies_as_nibabel_says(tmp_path):
    path = real_data("cn_fdg_template", "CN_PET_TEMPLATE_int16.nii.gz")
    found, image = nifti.read(path), nibabel.load(path)
    assert found.values.shape == (91, 109, 91)
    np.testing.assert_allclose(found.values, image.get_fdata().T, rtol=1e-6)
    np.testing.assert_allclose(RAS @ found.affine_mm, image.affine)
