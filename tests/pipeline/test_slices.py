import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.planes import NO_TEXTURE, SETTINGS, centroid
from pipeline.lesions import LesionSettings, lesions
from pipeline.phantom import phantom
from pipeline.shard import block_mean
from pipeline.slices import (
    axial_means,
    brain_slices,
    rotation_angles_deg,
    slices,
)
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import LABELS, SLICES
from pipeline.tomography.geometry import Grid

GREY, WHITE = 2, 3


# Along the axis


@given(st.floats(0.4, 6), st.floats(6, 20))
@settings(max_examples=25)
def test_a_slice_is_the_mean_over_its_thickness(thickness, centre):
    with h5py.File("volume", "w", driver="core", backing_store=False) as file:
        # z squared within voxels of constant value: the mean of steps, known in closed form.
        values = np.arange(27, dtype=np.float32)
        volume = file.create_dataset("volume", data=values[:, None, None] * np.ones((1, 2, 3)))
        volume.file.attrs["rule"] = "phantom"
        found = axial_means(volume, np.array([centre]), thickness)

    def integral(z):  # of the step function rint(z), from -0.5
        full = np.floor(z + 0.5)
        return full * (full - 1) / 2 + full * (z + 0.5 - full)

    upper, lower = centre + thickness / 2, centre - thickness / 2
    expected = (integral(upper) - integral(lower)) / thickness
    assert found.shape == (1, 2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@st.composite
def brains(draw):
    planes = draw(st.integers(60, 200))
    first = draw(st.integers(5, planes // 2))
    last = draw(st.integers(first + 20, planes - 1))
    labels = np.zeros((planes, 3, 3), np.uint8)
    labels[first : last + 1, 1, 1] = draw(st.sampled_from([GREY, WHITE]))
    labels[:, 0, 0] = 5  # muscle, which is no brain
    return labels, first, last


@given(brains(), st.floats(0.5, 2), st.floats(1, 3), st.integers(1, 12))
def test_slices_are_spread_evenly_over_the_brain(brain, voxel_mm, slice_mm, count):
    labels, first, last = brain
    volume_slices = int(np.ceil(len(labels) * voxel_mm / slice_mm)) + 4
    try:
        chosen = brain_slices(labels, voxel_mm, slice_mm, volume_slices, count)
    except InputError:
        assert (last - first + 1) * voxel_mm / slice_mm < count + 1
        return
    assert len(chosen) == len(np.unique(chosen)) == count
    steps = np.diff(chosen)
    assert count == 1 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
    z_mm = (chosen - (volume_slices - 1) / 2) * slice_mm
    voxel = z_mm / voxel_mm + (len(labels) - 1) / 2
    assert voxel[0] >= first - 0.5
    assert voxel[-1] <= last + 0.5
    if count == 1:
        assert abs(voxel[0] - (first + last) / 2) <= slice_mm / voxel_mm + 0.5
        return
    # Another slice beyond the first or the last would lie outside the brain.
    assert voxel[0] - slice_mm / voxel_mm <= first
    assert voxel[-1] + slice_mm / voxel_mm >= last


def test_the_papers_volume_has_room_for_its_55_slices():
    labels = np.zeros((362, 1, 1), np.uint8)
    labels[100:360] = GREY  # 130 mm: 64 slices
    chosen = brain_slices(labels, 0.5, 2.0312, 127, 55)
    assert len(np.unique(chosen)) == 55
    assert chosen.min() >= 0
    assert chosen.max() < 127


@pytest.mark.parametrize("count", [11, 50])
def test_too_few_slices_of_brain_are_refused_with_the_numbers(count):
    labels = np.zeros((40, 2, 2), np.uint8)
    labels[10:30] = GREY  # 20 mm
    assert len(brain_slices(labels, 1.0, 2.0, 20, 10)) == 10
    with pytest.raises(InputError, match=f"{count} slices asked for, the brain covers 10 slices"):
        brain_slices(labels, 1.0, 2.0, 20, count)


def test_a_volume_without_brain_is_refused():
    with pytest.raises(InputError, match="the brain covers 0 slices"):
        brain_slices(np.full((10, 2, 2), 5, np.uint8), 1.0, 1.0, 10, 1)


# Rotations


@given(st.integers(1, 20), st.floats(0, 90), st.integers(0, 2**31))
def test_the_first_rotation_is_none_and_the_others_stay_within_the_limit(count, limit, seed):
    angles = rotation_angles_deg(count, limit, seed, "subject04")
    assert angles.shape == (count,)
    assert angles[0] == 0
    assert (np.abs(angles) <= np.float32(limit)).all()


def test_rotations_belong_to_seed_and_subject_and_fill_the_range():
    first = rotation_angles_deg(5, 15.0, 1, "subject04")
    np.testing.assert_array_equal(first, rotation_angles_deg(5, 15.0, 1, "subject04"))
    others = [rotation_angles_deg(5, 15.0, *who) for who in ((1, "subject05"), (2, "subject04"))]
    drawn = np.concatenate([first[1:], *(other[1:] for other in others)])
    assert len(np.unique(drawn)) == 12
    many = rotation_angles_deg(2000, 15.0, 1, "subject04")
    assert many.min() < -14.5
    assert many.max() > 14.5
    assert abs(many.mean()) < 1


# The whole road from labels to slices


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A head with a piece of grey matter: on the patient's left, anterior, in the upper half."""
    folder = tmp_path_factory.mktemp("slices")
    labels = np.zeros((40, 100, 88), np.uint8)  # RAS
    labels[:, 10:90, 10:78] = 5
    labels[20:36, 10:90, 10:78] = WHITE
    labels[20:36, 64:80, 16:36] = GREY
    facts = {"source": "test", "labels_sha256": "-", "voxel_mm": np.array([1.0, 0.5, 0.5])}
    hdf5.write(folder / "labels.h5", LABELS, {"labels": labels}, hdf5.provenance({}, **facts))
    phantom(folder / "labels.h5", folder / "phantom.h5", "subject04", 1, NO_TEXTURE)
    return folder / "phantom.h5"


@pytest.fixture(scope="module")
def written(volume):
    """Its slices with 1 and 2 simulation pixels a side."""
    found = {}
    for oversampling in (1, 2):
        output = volume.with_name(f"slices{oversampling}.h5")
        slices(volume, output, "subject04", 1, SETTINGS, oversampling, 30.0)
        found[oversampling] = hdf5.read(output, SLICES)
    return found


def test_slices_come_rotation_by_rotation(written):
    arrays, attributes = written[1]
    assert arrays["activity"].shape == arrays["labels"].shape == (12, 24, 24)
    np.testing.assert_array_equal(arrays["rotation"], np.repeat([0, 1, 2], 4))
    angles = rotation_angles_deg(3, 15.0, 1, "subject04")
    np.testing.assert_array_equal(arrays["rotation_deg"], np.repeat(angles, 4))
    # The white and grey matter from 0 to 16 mm above the middle of 20 slices of 2 mm.
    np.testing.assert_array_equal(arrays["slice_index"], np.tile([10, 12, 15, 17], 3))
    assert attributes["orientation"] == "LPS"
    assert attributes["subject"] == "subject04"


def test_left_is_at_high_x_and_anterior_at_low_y(written):
    arrays, _ = written[1]
    image, grey = arrays["activity"][0], arrays["labels"][0] == GREY
    x, y = centroid(np.clip(image - 32, 0, None), Grid(24, 2.0))
    # 10 mm wide and 8 mm long: 9 mm to the left of the middle, 11 mm before it.
    assert x == pytest.approx(9, abs=0.01)
    assert y == pytest.approx(-11, abs=0.01)
    assert grey[image > 127].all()
    assert (image[grey] > 32).all()


def test_superior_slices_come_last(tmp_path):
    labels = np.zeros((40, 10, 10), np.uint8)
    labels[20:, 1:-1, 1:-1] = WHITE
    labels[35:, 1:-1, 1:-1] = GREY
    facts = {"source": "test", "labels_sha256": "-", "voxel_mm": np.array([1.0, 1.0, 1.0])}
    hdf5.write(tmp_path / "labels.h5", LABELS, {"labels": labels}, hdf5.provenance({}, **facts))
    phantom(tmp_path / "labels.h5", tmp_path / "phantom.h5", "subject04", 1, NO_TEXTURE)
    few = replace(SETTINGS, rotations=1, per_volume=10)
    slices(tmp_path / "phantom.h5", tmp_path / "slices.h5", "subject04", 1, few, 1, 30.0)
    arrays, _ = hdf5.read(tmp_path / "slices.h5", SLICES)
    # 2 mm slices of voxels 20-21, 22-23, ...: the eighth holds voxels 34 (white) and 35 (grey).
    middle = arrays["activity"][:, 12, 12]
    np.testing.assert_allclose(middle, [32] * 7 + [80] + [128] * 2, rtol=1e-5)


def test_too_many_slices_are_refused_by_the_name_of_the_subject(tmp_path):
    labels = np.zeros((40, 10, 10), np.uint8)
    labels[20:30, 1:-1, 1:-1] = WHITE
    facts = {"source": "test", "labels_sha256": "-", "voxel_mm": np.array([1.0, 1.0, 1.0])}
    hdf5.write(tmp_path / "labels.h5", LABELS, {"labels": labels}, hdf5.provenance({}, **facts))
    phantom(tmp_path / "labels.h5", tmp_path / "phantom.h5", "subject04", 1, NO_TEXTURE)
    many = replace(SETTINGS, rotations=1, per_volume=10)
    with pytest.raises(InputError, match=r"covers 5 slices of 2.0 mm, in subject04") as refused:
        slices(tmp_path / "phantom.h5", tmp_path / "slices.h5", "subject04", 1, many, 1, 30.0)
    assert refused.value.where == "slices.per_volume"
    assert refused.value.remedy.startswith("ask for at most 5")


def test_attenuation_turns_with_the_activity(written):
    arrays, _ = written[1]
    inside = arrays["attenuation"] > 0.097
    assert (arrays["activity"][~inside] <= 128).all()
    assert inside[:, 12, 12].all()
    assert arrays["attenuation"].max() == pytest.approx(0.0975)
    for row in (4, 8):  # both are turned about the same centre
        heavy = arrays["attenuation"][row] * (arrays["activity"][row] > 16)
        whole = arrays["attenuation"][row]
        np.testing.assert_allclose(
            centroid(heavy, Grid(24, 2.0)), centroid(whole, Grid(24, 2.0)), atol=0.5
        )


def test_a_finer_simulation_grid_shows_the_same_slices(written):
    (coarse, _), (fine, attributes) = written[1], written[2]
    assert attributes["oversampling"] == 2
    assert fine["activity"].shape == (12, 48, 48)
    for name in ("labels", "rotation_deg", "slice_index"):
        np.testing.assert_array_equal(fine[name], coarse[name])
    for name in ("activity", "attenuation"):
        mean = block_mean(fine[name], 2)
        assert np.linalg.norm(mean - coarse[name]) < 0.05 * np.linalg.norm(coarse[name])
        assert mean.sum() == pytest.approx(coarse[name].sum(), rel=1e-3)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_lesions_are_in_some_slices_of_each_rotation_and_change_activity_alone(
    volume, written, tmp_path, oversampling
):
    few = LesionSettings(per_volume=2, per_slice=1, diameter_mm=(6, 8), hot=1.5, cold=0.5)
    slices(volume, tmp_path / "s.h5", "subject04", 1, SETTINGS, oversampling, 30.0, few)
    plain, before = written[oversampling]
    found, attributes = hdf5.read(tmp_path / "s.h5", SLICES)
    assert found.keys() == plain.keys()
    for name in found.keys() - {"activity"}:
        np.testing.assert_array_equal(found[name], plain[name])
    assert json.loads(attributes["config"])["lesions"]["per_volume"] == 2
    assert "lesions" not in json.loads(before["config"])
    changed = (found["activity"] != plain["activity"]).any(axis=(1, 2))
    assert np.bincount(plain["rotation"][changed]).tolist() == [2, 2, 2]
    # Those that a set of this subject's lesions would have.
    lesions(volume.with_name(f"slices{oversampling}.h5"), tmp_path / "l.h5", few, 2)
    twins, _ = hdf5.read(tmp_path / "l.h5", SLICES)
    np.testing.assert_array_equal(found["activity"][changed], twins["activity"][1::4])
