"""One plane of voxels as pixels: means over their area, turned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.planes import centres, centroid
from pipeline.slices import box_mean, box_weights, nearest, resample
from pipeline.tomography.geometry import Grid

VOXEL_MM = np.array([0.5, 0.5])
ANGLES = st.floats(-180, 180)


def sliced(planes, voxel_mm, grid, angle_deg=0.0):
    return resample(box_mean(planes, voxel_mm, grid.pixel_mm), voxel_mm, grid, angle_deg)


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
