"""From an own image to its slices: the same, however the file lies; with labels and without."""

from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pytest

from helpers.own_images import LPS, OBLIQUE, affine, real_data, save_nifti, volume
from helpers.planes import SETTINGS
from helpers.workflow import SUBJECTS
from pipeline.phantom import HEAD_FRACTION, HEAD_PERCENTILE, of_image
from pipeline.slices import head_slices, slices
from pipeline.sources import folder
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import PHANTOM, SLICES

FEW = replace(SETTINGS, size=64, pixel_mm=3.0, slice_mm=3.1, volume_slices=50, per_volume=8)
TABLE = "\n".join(
    ["subject\tsplit\tlabels_sha256"]
    + [f"{subject}\t{split}\t-" for subject, split in SUBJECTS.items()]
)
RAS, LAS = LPS * (-1, -1, 1), LPS * (1, -1, 1)


def sliced(place, directions=LPS, settings=FEW, **beside):
    """Phantom and slices of the head, stored along some directions."""
    place.mkdir()
    values = volume(directions)
    save_nifti(place / "subject01.nii.gz", values, affine(directions))
    for name, make in beside.items():
        save_nifti(place / f"subject01_{name}.nii.gz", make(values), affine(directions))
    return made(place, settings)


def made(place, settings=FEW):
    (place / "subjects.tsv").write_text(TABLE)
    config = {"images_dir": place, "negative": "refuse", "subjects": place / "subjects.tsv"}
    folder.fetch(place / "image.h5", "subject01", config)
    of_image(place / "image.h5", place / "phantom.h5", "subject01")
    slices(place / "phantom.h5", place / "slices.h5", "subject01", 1, settings, 1, 95.0)
    return hdf5.read(place / "phantom.h5", PHANTOM), hdf5.read(place / "slices.h5", SLICES)


def test_copies_in_other_orientations_give_the_same_slices(tmp_path):
    (_, (first, _)) = sliced(tmp_path / "lps")
    for name, directions in (("ras", RAS), ("las", LAS), ("sagittal", LAS[:, [1, 2, 0]])):
        (_, (other, _)) = sliced(tmp_path / name, directions)
        for array in first:
            np.testing.assert_allclose(other[array], first[array], atol=2e-4, err_msg=name)
        np.testing.assert_array_equal(other["slice_index"], first["slice_index"])


def test_an_oblique_copy_gives_the_same_slices_but_for_interpolation(tmp_path):
    (_, straight), (_, oblique) = sliced(tmp_path / "lps"), sliced(tmp_path / "oblique", OBLIQUE)
    a, b = straight[0]["activity"], oblique[0]["activity"]
    assert np.abs(straight[0]["slice_index"] - oblique[0]["slice_index"]).max() <= 1
    same = straight[0]["slice_index"] == oblique[0]["slice_index"]
    assert same.any()
    assert np.linalg.norm((a - b)[same]) < 0.03 * np.linalg.norm(a[same])
    mirrored = np.linalg.norm((a - b[:, :, ::-1])[same])
    assert mirrored > 0.15 * np.linalg.norm(a[same])


def test_the_phantom_says_what_it_was_made_of(tmp_path):
    ((arrays, attributes), (_, of_slices)) = sliced(tmp_path / "a", LAS)
    assert "labels" not in arrays
    assert not arrays["attenuation"].any()
    assert (attributes["orientation"], attributes["interpolation"]) == ("LPS", "none")
    above = HEAD_FRACTION * np.percentile(arrays["activity"], HEAD_PERCENTILE)
    for found in (attributes, of_slices):
        assert found["head_above"] == pytest.approx(above)
        assert found["activity_unit"] == "unknown"
        assert found["source"] == "folder"
    assert sliced(tmp_path / "b", OBLIQUE)[0][1]["interpolation"] == "linear"


def test_attenuation_and_labels_turn_with_the_image(tmp_path):
    found = {}
    for name, directions in (("lps", LPS), ("las", LAS)):
        (_, (found[name], _)) = sliced(
            tmp_path / name,
            directions,
            mu=lambda v: np.where(v > 5, np.float32(0.096), np.float32(0)),
            labels=lambda v: np.where(v > 70, 2, np.where(v > 5, 3, 0)).astype(np.uint8),
        )
    for array in found["lps"]:
        np.testing.assert_allclose(found["las"][array], found["lps"][array], atol=2e-4)
    assert found["lps"]["attenuation"].max() == pytest.approx(0.096)
    activity, labels = found["lps"]["activity"], found["lps"]["labels"]
    assert activity[labels == 2].mean() > 1.2 * activity[labels == 3].mean() > 0


def test_slices_are_spread_over_the_head_and_not_over_noise(tmp_path):
    place = tmp_path / "noisy"
    place.mkdir()
    values = volume(LPS)
    head = np.flatnonzero((values > 10).any(axis=(0, 1)))
    values[5, 5, 0] = values[9, 50, -1] = 90  # as in the outermost planes of a scanner
    save_nifti(place / "subject01.nii.gz", values, affine(LPS))
    (_, (arrays, _)) = made(place, replace(FEW, rotations=1))
    voxel = (arrays["slice_index"] - (FEW.volume_slices - 1) / 2) * FEW.slice_mm / 2.5
    voxel += (values.shape[2] - 1) / 2
    assert head[0] - 1 <= voxel[0] < head[0] + 8
    assert head[-1] - 8 < voxel[-1] <= head[-1] + 1
    assert np.ptp(np.diff(arrays["slice_index"])) <= 1


def test_too_few_slices_of_head_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"40 slices asked for, the head covers 3[0-9] slices"):
        sliced(tmp_path / "a", settings=replace(FEW, per_volume=40))
    with h5py.File("volume", "w", driver="core", backing_store=False) as file:
        file.attrs["rule"] = "phantom"
        volume_ = file.create_dataset("activity", data=np.zeros((9, 4, 4), np.float32))
        with pytest.raises(InputError) as refused:
            head_slices(volume_, 0.0, 1.0, 1.0, 9, 1)
    assert "none of these slices is above 0" in refused.value.remedy


def test_noise_beyond_the_field_of_view_is_no_head(tmp_path):
    place = tmp_path / "wide"
    place.mkdir()
    values = volume(LPS, (100, 100, 56))
    values += 1  # 1 % of the marks, everywhere: a square of 250 mm
    save_nifti(place / "subject01.nii.gz", values, affine(LPS, values.shape))
    made(place)
    values[0, 50] = 70
    save_nifti(place / "subject01.nii.gz", values, affine(LPS, values.shape))
    with pytest.raises(InputError, match="head reaches 12"):
        made(place)


def test_a_real_template_is_upright_and_the_same_when_flipped(tmp_path):
    image = nibabel.load(real_data("cn_fdg_template", "CN_PET_TEMPLATE_int16.nii.gz"))
    values = image.get_fdata(dtype=np.float32)
    found = {}
    for name, flipped in (("ras", False), ("las", True)):
        (tmp_path / name).mkdir()
        from_left = (
            np.diag([-1, 1, 1, 1]) + (values.shape[0] - 1) * np.eye(4)[:, [0]] * np.eye(4)[3]
        )
        data, to_mm = (
            (values[::-1], image.affine @ from_left) if flipped else (values, image.affine)
        )
        nibabel.save(nibabel.Nifti1Image(data, to_mm), tmp_path / name / "subject01.nii.gz")
        found[name] = made(tmp_path / name, replace(FEW, size=80))
    (ras, attributes), (las, _) = found["ras"][0], found["las"][0]
    np.testing.assert_array_equal(ras["activity"], las["activity"])
    np.testing.assert_allclose(attributes["voxel_mm"], 2)
    for array, expected in found["ras"][1][0].items():
        np.testing.assert_array_equal(found["las"][1][0][array], expected)
    # The lowest part of the brain is the cerebellum, at the back: at high y.
    brain = np.argwhere(ras["activity"] > attributes["head_above"])
    lowest = brain[brain[:, 0] <= brain[:, 0].min() + 8]
    assert lowest[:, 1].mean() > brain[:, 1].mean() + 5
