"""Volumes in any orientation come to lie as all images here, without a mirror anywhere."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from helpers.own_images import LPS, MARKS, OBLIQUE, SHAPE, VOXEL_MM, activity, affine, turn, volume
from pipeline.images.orientation import is_straight, to_lps
from pipeline.images.volume import MAX_AXIS
from pipeline.storage.errors import InputError

STRAIGHT = [
    np.eye(3)[:, list(axes)] * signs
    for axes in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
"""All 48 orientations, mirrored storage included, as of RAS, LAS or sagittal files."""


def turned(values, affine_mm, order=1):
    """Of an array (x, y, z)."""
    return to_lps(np.ascontiguousarray(values.T), affine_mm, order, "file")


def expected(shape, voxel_mm):
    """The head (z, y, x) in the middle of a grid along the patient's axes."""
    return volume(LPS, shape[::-1], voxel_mm[::-1]).T


@pytest.mark.parametrize("directions", STRAIGHT)
def test_volumes_along_the_patients_axes_are_turned_exactly(directions):
    shape, voxel_mm = (30, 36, 28), (4.0, 5.0, 6.0)
    wanted_mm = affine(directions, shape, voxel_mm)
    values = volume(directions, shape, voxel_mm)
    assert is_straight(wanted_mm)
    found, found_mm = turned(values, wanted_mm)
    assert sorted(found.ravel()) == sorted(values.ravel())
    np.testing.assert_allclose(found, expected(found.shape, found_mm), rtol=1e-5, atol=1e-5)
    assert sorted(found_mm) == [4, 5, 6]


@pytest.mark.parametrize(
    "directions", [OBLIQUE, OBLIQUE[:, [2, 0, 1]] * (1, -1, 1), turn(3, 2), turn(44, 0)], ids=str
)
def test_oblique_volumes_are_interpolated_once(directions):
    affine_mm = affine(directions)
    assert not is_straight(affine_mm)
    values = volume(directions)
    found, found_mm = turned(values, affine_mm)
    # Independently: each voxel of the result looked up by the affine, from the middle.
    index = np.stack(np.indices(found.shape[::-1]), axis=-1)
    place_mm = (index - (np.array(found.shape[::-1]) - 1) / 2) * found_mm[::-1]
    middle = affine_mm @ [*((np.array(SHAPE) - 1) / 2), 1]
    voxel = (place_mm + middle[:3] - affine_mm[:3, 3]) @ np.linalg.inv(affine_mm[:3, :3]).T
    looked_up = map_coordinates(values, np.moveaxis(voxel, -1, 0), order=1, mode="constant").T
    np.testing.assert_allclose(found, looked_up, atol=2e-3)
    # And it is the head, marks and all, but for what interpolation smooths away.
    truth = activity(place_mm).T
    inside = looked_up > 0
    assert np.linalg.norm((found - truth)[inside]) < 0.03 * np.linalg.norm(truth)


@pytest.mark.parametrize("directions", [LPS, LPS * (-1, -1, 1), LPS * (1, -1, 1), OBLIQUE], ids=str)
def test_marks_end_where_they_belong(directions):
    found, voxel_mm = turned(volume(directions), affine(directions))
    middle = (np.array(found.shape) - 1) / 2
    for mark in MARKS.values():
        at = np.rint(np.array(mark[::-1]) / voxel_mm + middle).astype(int)
        around = found[tuple(slice(n - 4, n + 5) for n in at)]
        place = np.unravel_index(around.argmax(), around.shape)
        assert np.abs(np.array(place) - 4).max() <= 1


def test_a_slight_slant_is_none():
    assert is_straight(affine(turn(0.05, 1)))
    assert not is_straight(affine(turn(0.1, 1)))


def test_classes_are_never_mixed():
    labels = (volume(OBLIQUE) > 10).astype(np.uint8) * 7
    found, _ = turned(labels, affine(OBLIQUE), order=0)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 7}
    assert np.count_nonzero(found) == pytest.approx(np.count_nonzero(labels), rel=0.01)


def test_a_grid_that_would_be_too_large_is_refused():
    values = np.zeros((400, 400, 1), np.float32)
    with pytest.raises(InputError, match=f"at most {MAX_AXIS} along an axis"):
        turned(values, affine(turn(45, 2), values.shape, VOXEL_MM))
