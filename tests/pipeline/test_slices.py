import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.planes import NO_TEXTURE, SETTINGS, centres
from pipeline.lesions import LesionSettings, lesions
from pipeline.phantom import phantom
from pipeline.shard import block_mean
from pipeline.slices import (
    axial_means,
    box_mean,
    box_weights,
    brain_slices,
    nearest,
    resample,
    rotation_angles_deg,
    slices,
)
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import LABELS, SLICES
from pipeline.tomography.geometry import Grid

GREY, WHITE = 2, 3
VOXEL_MM = np.array([0.5, 0.5])
ANGLES = st.floats(-180, 180)


def sliced(planes, voxel_mm, grid, angle_deg=0.0):
    return resample(box_mean(planes, voxel_mm, grid.pixel_mm), voxel_mm, grid, angle_deg)


def centroid(image, grid):
    """Centre of mass (x, y) in mm."""
    weights = image.astype(np.float64) / image.sum(dtype=np.float64)
    return weights.sum(axis=0) @ grid.centres_mm, weights.sum(axis=1) @ grid.centres_mm


def blobs(shape, voxel_mm, seed, reach_mm, sigma_mm=(3.0, 5.0), count=8):
    """Sum of Gaussians within reach of the axis."""
    rng = np.random.default_rng(seed)
    y, x = centres(shape, voxel_mm)
    image = np.zeros(shape)
    for _ in range(count):
        at, sigma = rng.uniform(-reach_mm, reach_mm, 2), rng.uniform(*sigma_mm)
        distance = (x - at[0]) ** 2 + (y - at[1]) ** 2
        image += rng.uniform(0.5, 1) * np.exp(-0.5 * distance / sigma**2)
    return image.astype(np.float32)


# One plane


@given(ANGLES, st.floats(0.3, 4), st.integers(40, 60), st.integers(40, 60))
@settings(deadline=None, max_examples=25)
def test_a_constant_stays_what_it_is(angle, pixel_mm, rows, columns):
    planes = np.full((1, rows, columns), 7, np.float32)
    # A quarter of the plane's extent: neither its corners nor the box reach beyond it.
    grid = Grid(max(1, int(10 * 0.5 / pixel_mm)), pixel_mm)
    np.testing.assert_allclose(sliced(planes, VOXEL_MM, grid, angle), 7, rtol=1e-5)


@given(ANGLES, st.integers(0, 1000), st.sampled_from([1.0, 2.0863, 3.3]))
@settings(deadline=None, max_examples=25)
def test_the_total_activity_stays_what_it_is(angle, seed, pixel_mm):
    # As large as a brain, with sharp edges: every pixel that an edge crosses errs by itself.
    planes = np.rint(4 * blobs((362, 434), VOXEL_MM, seed, 50, (6, 14), 12))[None]
    grid = Grid(int(230 / pixel_mm), pixel_mm)
    before = planes.sum(dtype=np.float64) * VOXEL_MM.prod()
    after = sliced(planes, VOXEL_MM, grid, angle).sum(dtype=np.float64) * pixel_mm**2
    assert after == pytest.approx(before, rel=1e-3)


@given(ANGLES, st.floats(-20, 20), st.floats(-20, 20))
@settings(deadline=None, max_examples=25)
def test_a_positive_angle_turns_a_disc_from_x_to_y(angle, x_mm, y_mm):
    y, x = centres((160, 130), VOXEL_MM)
    planes = ((x - x_mm) ** 2 + (y - y_mm) ** 2 < 8**2).astype(np.float32)[None]
    drawn_x, drawn_y = (planes[0] * x).sum() / planes.sum(), (planes[0] * y).sum() / planes.sum()
    grid = Grid(48, 2.0)
    turned = centroid(sliced(planes, VOXEL_MM, grid, angle)[0], grid)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    expected = drawn_x * cos - drawn_y * sin, drawn_x * sin + drawn_y * cos
    np.testing.assert_allclose(turned, expected, atol=0.1)  # a fifth of a voxel


def test_a_quarter_turn_takes_the_x_axis_to_the_y_axis():
    planes = np.zeros((1, 41, 41), np.float32)
    planes[0, 20, 30] = 1  # on the x axis, to the left of the patient
    turned = sliced(planes, np.array([1.0, 1.0]), Grid(41, 1.0), 90.0)[0]
    assert np.unravel_index(turned.argmax(), turned.shape) == (30, 20)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(61, 80), (80, 61), (64, 64)])
def test_a_point_moves_by_5_mm_whatever_the_sizes_of_volume_and_voxels(shape, axis):
    voxel_mm, grid = np.array([1.0, 1.25]), Grid(32, 2.0863)
    steps = int(5 / voxel_mm[axis])
    found = []
    for shift in (0, steps):
        planes = np.zeros((1, *shape), np.float32)
        at = [shape[0] // 2, shape[1] // 2]
        at[axis] += shift
        planes[0, at[0], at[1]] = 1
        found.append(centroid(sliced(planes, voxel_mm, grid)[0], grid))
    moved = np.subtract(found[1], found[0])[::-1]
    # The box and the interpolation of a single voxel move its centre by a tenth of one.
    np.testing.assert_allclose(moved, np.eye(2)[axis] * 5, atol=0.15)


@pytest.mark.parametrize("angle", [0.0, 11.0, -37.0])
def test_pixels_are_means_over_their_area(angle):
    shape, grid = (200, 220), Grid(32, 2.0863)
    planes = blobs(shape, VOXEL_MM, 3, 15)
    found = sliced(planes[None], VOXEL_MM, grid, angle)[0]
    # Independently: look up the nearest voxel at 24 x 24 points of each rotated pixel.
    points = 24
    fine = grid.finer(points).centres_mm
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x, y = np.meshgrid(fine, fine)
    before_x, before_y = x * cos + y * sin, -x * sin + y * cos
    column = np.rint(before_x / VOXEL_MM[1] + (shape[1] - 1) / 2).astype(int)
    row = np.rint(before_y / VOXEL_MM[0] + (shape[0] - 1) / 2).astype(int)
    size = grid.size
    expected = planes[row, column].reshape(size, points, size, points).mean(axis=(1, 3))
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(expected)


def test_a_fine_checkerboard_does_not_alias():
    y, x = np.indices((300, 300))
    planes = ((x + y) % 2).astype(np.float32)[None]
    grid = Grid(48, 2.0863)
    for angle in (0.0, 7.0, 45.0):
        averaged = sliced(planes, VOXEL_MM, grid, angle)
        picked = nearest(planes, VOXEL_MM, grid, angle)
        assert averaged.mean() == pytest.approx(0.5, abs=0.01)
        assert averaged.var() < 0.01 * picked.var()


@given(st.floats(0.1, 12))
def test_a_box_is_as_wide_as_the_pixel(width):
    weights = box_weights(width)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_array_equal(weights, weights[::-1])
    assert 1 / weights.max() == pytest.approx(max(width, 1))


@given(ANGLES)
@settings(deadline=None, max_examples=20)
def test_nearest_gives_the_class_of_the_voxel_under_the_pixel_centre(angle):
    planes = np.random.default_rng(1).integers(0, 12, (1, 71, 51)).astype(np.uint8)
    voxel_mm, grid = np.array([1.0, 1.3]), Grid(9, 4.0)
    found = nearest(planes, voxel_mm, grid, angle)[0]
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x, y = np.meshgrid(grid.centres_mm, grid.centres_mm)
    column = (x * cos + y * sin) / 1.3 + 25
    row = (-x * sin + y * cos) / 1.0 + 35
    # Where a centre lies on the edge of two voxels, rounding decides.
    clear = (np.abs(column % 1 - 0.5) > 1e-6) & (np.abs(row % 1 - 0.5) > 1e-6)
    expected = planes[0][np.rint(row).astype(int), np.rint(column).astype(int)]
    assert clear.any()
    np.testing.assert_array_equal(found[clear], expected[clear])


def test_pixels_beyond_the_phantom_are_air():
    planes = np.ones((1, 20, 20), np.float32)
    image = sliced(planes, VOXEL_MM, Grid(32, 1.0), 30.0)[0]
    assert image[0, 0] == image[-1, 16] == 0
    assert image[16, 16] == pytest.approx(1)


# Along the axis


@given(st.floats(0.4, 6), st.floats(6, 20))
@settings(deadline=None, max_examples=25)
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
@settings(deadline=None)
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
