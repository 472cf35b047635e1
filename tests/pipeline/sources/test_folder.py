"""Own images from a folder: what is found, checked, and written as it came."""

import hashlib
import re

import numpy as np
import pytest

from helpers.own_images import LPS, OBLIQUE, affine, save_dicom, save_nifti, volume
from pipeline.jobs.config import check_images
from pipeline.sources import folder
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import IMAGE

SHAPE, VOXEL_MM = (20, 24, 18), (7.0, 7.0, 7.0)
HEAD = volume(LPS, SHAPE, VOXEL_MM)
AFFINE = affine(LPS, SHAPE, VOXEL_MM)
MU = np.where(HEAD > 1, np.float32(0.096), np.float32(0))
LABELS = np.where(HEAD > 70, 2, np.where(HEAD > 1, 3, 0)).astype(np.uint8)


@pytest.fixture
def place(tmp_path):
    """A folder of images, and the fetching of subject01 from it."""
    (tmp_path / "images").mkdir()

    def fetch(negative="refuse", sha256="-", images_dir=tmp_path / "images"):
        table = tmp_path / "subjects.tsv"
        rows = [f"subject01\ttrain\t{sha256}", "subject02\tvalidation\t-", "subject03\ttest\t-"]
        table.write_text("\n".join(["subject\tsplit\tlabels_sha256", *rows]) + "\n")
        config = {"images_dir": str(images_dir), "negative": negative, "subjects": str(table)}
        folder.fetch(tmp_path / "image.h5", "subject01", config)
        return hdf5.read(tmp_path / "image.h5", IMAGE)

    return tmp_path / "images", fetch


def refused(fetch, **how):
    with pytest.raises(InputError) as caught:
        fetch(**how)
    return str(caught.value)


@pytest.mark.parametrize("name", ["subject01.nii", "subject01.nii.gz"])
def test_an_image_is_kept_as_it_came(place, name):
    images, fetch = place
    save_nifti(images / name, HEAD, AFFINE)
    arrays, attributes = fetch()
    assert arrays.keys() == {"activity"}
    np.testing.assert_array_equal(arrays["activity"], HEAD.T)
    np.testing.assert_allclose(attributes["affine_mm"], AFFINE, atol=1e-5)
    assert (attributes["source"], attributes["subject"]) == ("folder", "subject01")
    assert (attributes["origin"], attributes["activity_unit"]) == (name, "unknown")
    values = np.ascontiguousarray(HEAD.T)
    assert attributes["labels_sha256"] == hashlib.sha256(values.tobytes()).hexdigest()


def test_a_series_keeps_its_unit(place):
    images, fetch = place
    save_dicom(images / "subject01", HEAD, AFFINE)
    arrays, attributes = fetch()
    np.testing.assert_allclose(arrays["activity"], HEAD.T, atol=HEAD.max() / 60000)
    assert attributes["activity_unit"] == "BQML"


def test_attenuation_and_labels_lie_beside_it(place):
    images, fetch = place
    save_nifti(images / "subject01.nii.gz", HEAD, AFFINE)
    save_nifti(images / "subject01_mu.nii.gz", MU, AFFINE)
    save_nifti(images / "subject01_labels.nii", LABELS.astype("f4"), AFFINE)
    arrays, _ = fetch()
    np.testing.assert_array_equal(arrays["attenuation"], MU.T)
    np.testing.assert_array_equal(arrays["labels"], LABELS.T)
    assert arrays["labels"].dtype == np.uint8


def test_the_hash_is_verified_where_there_is_one(place, caplog):
    images, fetch = place
    save_nifti(images / "subject01.nii", HEAD, AFFINE)
    _, attributes = fetch()
    assert "not verified" in caplog.text
    sha256 = attributes["labels_sha256"]
    caplog.clear()
    fetch(sha256=sha256)
    assert "not verified" not in caplog.text
    said = refused(fetch, sha256="0" * 64)
    assert f"holds an image with SHA-256 {sha256}; subject01 has 0000" in said


def test_negative_values_and_nan_are_refused_or_set_to_0(place, caplog):
    images, fetch = place
    values = HEAD.copy()
    values[0, 0, :3], values[0, 1, 0] = -5, np.nan
    path = save_nifti(images / "subject01.nii", values, AFFINE)
    said = refused(fetch)
    assert f"{path}: has 3 negative values, 1 NaN in 8640 voxels, down to -5" in said
    assert "set negative: clip" in said
    arrays, attributes = fetch("clip")
    wanted = HEAD.copy()
    wanted[0, 0, :3] = wanted[0, 1, 0] = 0
    np.testing.assert_array_equal(arrays["activity"], wanted.T)
    assert "set to 0" in caplog.text
    assert attributes["negative"] == "clip"


@pytest.mark.parametrize("negative", ["refuse", "clip"])
def test_infinity_is_refused_whatever_is_set(place, negative):
    images, fetch = place
    values = HEAD.astype("f8")
    values[0, 0, 0] = 1e300  # too large for what is stored
    save_nifti(images / "subject01.nii", values, AFFINE)
    assert "1 infinite value" in refused(fetch, negative=negative)


def test_a_missing_image_names_what_was_looked_for(place):
    images, fetch = place
    said = refused(fetch)
    wanted = "subject01.nii.gz, subject01.nii, subject01/"
    assert f"{images}: lacks subject01; looked for {wanted}" in said
    assert "images_dir: is empty" in refused(fetch, images_dir="")
    assert "is not a folder" in refused(fetch, images_dir=images / "none")
    save_nifti(images / "Subject01.nii", HEAD, AFFINE)
    said = refused(fetch)
    assert "lacks subject01" in said
    assert "rename Subject01.nii to subject01.nii" in said
    save_nifti(images / "subject01.nii", HEAD, AFFINE)
    (images / "subject01").mkdir()
    assert "subject01.nii and subject01 of subject01" in refused(fetch)


def test_what_is_not_there_is_told_before_any_image_is_read(tmp_path):
    config = {"source": "folder", "images_dir": str(tmp_path)}
    (tmp_path / "subject01.nii.gz").write_bytes(b"whatever")
    (tmp_path / "subject02").mkdir()
    check_images(config, ["subject01", "subject02"])
    check_images({**config, "images_dir": ""}, [])
    check_images({**config, "source": "mni152", "images_dir": ""}, ["subject01"])
    for changes, said in (
        ({}, f"{tmp_path}: lacks subject03; looked for subject03.nii.gz"),
        ({"images_dir": ""}, "images_dir: is empty"),
        ({"images_dir": str(tmp_path / "none")}, "none: is not a folder"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            check_images({**config, **changes}, ["subject01", "subject02", "subject03"])


@pytest.mark.parametrize(
    ("name", "values", "affine_mm", "problem"),
    [
        ("mu", MU[1:], None, "(18, 24, 19) voxels, and the image (18, 24, 20)"),
        ("mu", MU, affine(LPS, SHAPE, VOXEL_MM, (3, -20, 41)), "up to 1 mm"),
        ("mu", MU, affine(OBLIQUE, SHAPE, VOXEL_MM), "elsewhere: its corners are up to"),
        ("mu", MU / 10, AFFINE, "values up to 0.0096, where an attenuation map in 1/cm has 0.1"),
        ("mu", MU * 1e4, AFFINE, "values up to 960"),
        ("mu", MU * 0, AFFINE, "values up to 0,"),
        ("mu", -MU, AFFINE, "negative values"),
        ("labels", LABELS[:, 1:], None, "(18, 23, 20) voxels, and the image (18, 24, 20)"),
        ("labels", LABELS * 4, AFFINE, "holds 12, where classes are whole numbers up to 11"),
        ("labels", LABELS - 0.5, AFFINE, "holds -0.5"),
        ("labels", np.where(HEAD > 1, np.nan, 0), AFFINE, "holds nan"),
    ],
)
def test_what_does_not_belong_to_the_image_is_refused(place, name, values, affine_mm, problem):
    images, fetch = place
    save_nifti(images / "subject01.nii.gz", HEAD, AFFINE)
    path = save_nifti(images / f"subject01_{name}.nii.gz", values, affine_mm)
    said = refused(fetch)
    assert said.startswith(f"{path}: ")
    assert problem in said


def test_an_empty_image_is_refused(place):
    images, fetch = place
    save_nifti(images / "subject01.nii.gz", HEAD * 0, AFFINE)
    assert "nothing but zeros" in refused(fetch)
