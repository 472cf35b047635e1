import brainweb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.planes import NO_TEXTURE
from pipeline.phantom import Texture, add_texture, class_values, phantom
from pipeline.storage import hdf5
from pipeline.storage.kinds import LABELS, PHANTOM

GREY, WHITE, SKIN, SKULL, DURA, MARROW = 2, 3, 6, 7, 10, 11


def write_labels(path, labels):
    facts = {"source": "test", "labels_sha256": "-", "voxel_mm": np.array([0.5, 0.5, 0.5])}
    hdf5.write(path, LABELS, {"labels": labels}, hdf5.provenance({}, **facts))
    return path


def make(tmp_path, labels, texture=NO_TEXTURE, subject="subject04", seed=1):
    written = write_labels(tmp_path / "labels.h5", labels)
    phantom(written, tmp_path / "phantom.h5", subject, seed, texture)
    return hdf5.read(tmp_path / "phantom.h5", PHANTOM)


def test_grey_and_white_matter_and_skin_are_active_and_nothing_else():
    activity = class_values(brainweb.FDG)
    assert activity.dtype == np.float32
    expected = np.zeros(12)
    expected[[GREY, WHITE, SKIN]] = 128, 32, 16
    np.testing.assert_array_equal(activity, expected)


def test_bone_attenuates_more_than_tissue_and_air_not_at_all():
    attenuation = class_values(brainweb.Mu)
    expected = np.full(12, 0.0975)
    expected[0] = 0
    expected[[SKULL, DURA, MARROW]] = 0.13  # the package counts the dura as bone
    np.testing.assert_allclose(attenuation, expected)


def test_every_voxel_gets_the_values_of_its_class(tmp_path):
    labels = np.random.default_rng(1).integers(0, 12, (3, 5, 4)).astype(np.uint8)
    arrays, attributes = make(tmp_path, labels)
    np.testing.assert_array_equal(arrays["activity"], class_values(brainweb.FDG)[arrays["labels"]])
    np.testing.assert_array_equal(
        arrays["attenuation"], class_values(brainweb.Mu)[arrays["labels"]]
    )
    np.testing.assert_array_equal(attributes["voxel_mm"], [0.5, 0.5, 0.5])


def test_a_plane_of_one_tissue_from_border_to_border_is_emptied(tmp_path, caplog):
    """As the lowest of BrainWeb's subject53."""
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[:, 1:4, 2:5] = 2
    labels[0] = 8
    arrays, _ = make(tmp_path, labels)
    for name in ("activity", "attenuation", "labels"):
        assert not arrays[name][0].any()
        assert arrays[name][1:].any(axis=(1, 2)).all()
    assert "planes of one tissue from border to border are emptied: [0]" in caplog.text
    labels[0] = 0
    expected, _ = make(tmp_path, labels)
    for name in ("activity", "attenuation", "labels"):
        np.testing.assert_array_equal(arrays[name], expected[name])


def test_ras_labels_become_lps(tmp_path):
    labels = np.zeros((4, 6, 5), np.uint8)
    labels[3, 5, 0] = GREY  # superior, anterior, left: the last, the last, the first in RAS
    arrays, attributes = make(tmp_path, labels)
    assert attributes["orientation"] == "LPS"
    # In LPS y runs to posterior and x to the left.
    for name in ("labels", "activity", "attenuation"):
        assert np.argwhere(arrays[name]).tolist() == [[3, 0, 4]]


@given(st.floats(0.1, 1), st.floats(0.5, 2), st.integers(0, 1000))
@settings(deadline=None, max_examples=8)
def test_texture_keeps_the_mean_and_the_zeros(fraction, sigma_voxels, seed):
    activity = np.zeros((40, 40, 40), np.float32)
    activity[10:30, 10:30, 10:30] = 128
    textured = add_texture(activity, fraction, sigma_voxels, np.random.default_rng(seed))
    assert textured.dtype == np.float32
    assert (textured[activity == 0] == 0).all()
    inside = textured[activity > 0]
    # 8000 voxels of uniform noise, correlated over some sigma^3: the mean errs by about 1 %.
    assert inside.mean() == pytest.approx(128, rel=0.05 * fraction)
    assert inside.std() > 0.01 * fraction * 128
    assert (inside >= 128 * (1 - fraction)).all()
    assert (inside <= 128 * (1 + fraction)).all()


def test_unsmoothed_texture_is_uniform_within_its_fraction():
    activity = np.full((30, 30, 30), 10, np.float32)
    textured = add_texture(activity, 0.5, 0.0, np.random.default_rng(1))
    assert textured.min() == pytest.approx(5, rel=1e-2)
    assert textured.max() == pytest.approx(15, rel=1e-2)
    assert textured.std() == pytest.approx(10 / np.sqrt(12), rel=2e-2)


def test_texture_belongs_to_seed_and_subject(tmp_path):
    labels = np.pad(np.full((6, 6, 6), GREY, np.uint8), 1)
    texture = Texture(fraction=0.5, sigma_voxels=1.0)

    def activity(**who):
        return make(tmp_path, labels, texture, **who)[0]["activity"]

    first = activity(subject="subject04", seed=1)
    np.testing.assert_array_equal(first, activity(subject="subject04", seed=1))
    assert not np.array_equal(first, activity(subject="subject05", seed=1))
    assert not np.array_equal(first, activity(subject="subject04", seed=2))


def test_texture_leaves_attenuation_and_labels_alone(tmp_path):
    labels = np.random.default_rng(1).integers(0, 12, (5, 5, 5)).astype(np.uint8)
    plain, _ = make(tmp_path, labels)
    textured, _ = make(tmp_path, labels, Texture(fraction=1.0, sigma_voxels=1.0))
    for name in ("attenuation", "labels"):
        np.testing.assert_array_equal(plain[name], textured[name])
    assert not np.array_equal(plain["activity"], textured["activity"])
