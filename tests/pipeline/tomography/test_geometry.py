import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.storage.errors import InputError
from pipeline.tomography.geometry import Grid, field_of_view, grid_from
from pipeline.tomography.scanners import Ring, scanner_from

MMR = {"blocks": 56, "crystals_per_block": 9, "radius_mm": 328.0, "pitch_mm": 4.09}


@st.composite
def rings(draw):
    """Rings whose blocks do not overlap, with bins that do not run along a block."""
    blocks = draw(st.integers(4, 30))
    crystals = draw(st.integers(1, 9))
    assume(blocks * crystals % 2 == 0 and blocks * crystals >= 12)
    radius_mm = draw(st.floats(50, 500))
    side_mm = 2 * radius_mm * np.tan(np.pi / blocks)
    pitch_mm = side_mm / crystals * draw(st.floats(0.7, 1))
    views = blocks * crystals // 2
    assume(crystals < views - 2)
    return Ring(blocks, crystals, radius_mm, pitch_mm, draw(st.integers(crystals, views - 2)))


def end_point_pairs(ring):
    """Numbers (view, radial, 2) of the two end points of every LOR, the smaller one first."""
    number = {tuple(point): n for n, point in enumerate(ring.end_point_xy_mm)}
    ends = ring.lors_mm(np.arange(ring.views))
    flat = np.stack(ends, axis=2).reshape(-1, 2)
    numbers = np.array([number[tuple(point)] for point in flat])
    return np.sort(numbers.reshape(ring.views, ring.radial_bins, 2), axis=-1)


@pytest.mark.parametrize(("trim", "bins"), [(124, 255), (80, 343)])
def test_the_biograph_mmr_has_its_published_numbers(trim, bins):
    ring = Ring(**MMR, radial_trim=trim)
    assert (ring.end_points, ring.views, ring.radial_bins) == (504, 252, bins)
    start, end = ring.lors_mm(np.arange(ring.views))
    assert start.shape == end.shape == (252, bins, 2)


@given(rings())
@settings(deadline=None, max_examples=30)
def test_a_sinogram_holds_no_lor_twice(ring):
    pairs = end_point_pairs(ring).reshape(-1, 2)
    assert len(np.unique(pairs, axis=0)) == ring.views * ring.radial_bins
    assert (pairs[:, 0] < pairs[:, 1]).all()


@given(rings())
@settings(deadline=None, max_examples=30)
def test_end_points_lie_on_the_sides_of_the_polygon(ring):
    distance = np.hypot(*ring.end_point_xy_mm.T)
    assert distance.min() >= ring.radius_mm * (1 - 1e-12)
    assert distance.max() <= ring.radius_mm / np.cos(np.pi / ring.blocks)
    first_side = ring.end_point_xy_mm[: ring.crystals_per_block]
    np.testing.assert_allclose(first_side[:, 1], -ring.radius_mm)
    np.testing.assert_allclose(np.diff(first_side[:, 0]), ring.pitch_mm)
    assert first_side[:, 0].mean() == pytest.approx(0, abs=1e-9)


@given(rings())
@settings(deadline=None, max_examples=15)
def test_the_central_bin_joins_opposite_end_points(ring):
    pairs = end_point_pairs(ring)[:, ring.radial_bins // 2]
    assert (pairs[:, 1] - pairs[:, 0] == ring.end_points // 2).all()


@given(rings())
@settings(deadline=None, max_examples=30)
def test_radial_and_angle_describe_the_line_through_both_end_points(ring):
    radial_mm, angle = ring.radial_and_angle()
    for x, y in (np.moveaxis(points, -1, 0) for points in ring.lors_mm(np.arange(ring.views))):
        distance = x * np.cos(angle) + y * np.sin(angle)
        np.testing.assert_allclose(distance, radial_mm, atol=1e-9 * ring.radius_mm)


@given(rings())
@settings(deadline=None, max_examples=30)
def test_radial_distances_of_a_view_are_monotonic(ring):
    radial_mm, _ = ring.radial_and_angle()
    steps = np.diff(radial_mm, axis=1)
    assert (steps > 0).all() or (steps < 0).all()
    if ring.blocks % 2 == 0:  # opposite blocks: the central LORs meet on the axis
        np.testing.assert_allclose(radial_mm[:, ring.radial_bins // 2], 0, atol=1e-9)


@given(rings())
@settings(deadline=None, max_examples=30)
def test_angles_increase_from_view_to_view_over_half_a_turn(ring):
    _, angle = ring.radial_and_angle()
    # After the last view comes the first one again, turned by pi, with its bins mirrored.
    steps = np.diff(np.vstack([angle, angle[:1, ::-1] + np.pi]), axis=0)
    assert (steps > 0).all()
    np.testing.assert_allclose(steps.sum(axis=0), np.pi + angle[0, ::-1] - angle[0])
    # Neighbouring bins of a view point the same way but for part of a block: no jump.
    assert np.abs(np.diff(angle, axis=1)).max() < 2 * np.pi / ring.blocks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 7, "radial_trim": 1}, "7 blocks x 9 crystals is an odd number"),
        ({"radial_trim": 252}, "252 leaves -1 radial bins"),
    ],
)
def test_impossible_rings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Ring(**{**MMR, "radial_trim": 124, **change})


def test_the_largest_radial_trim_that_is_suggested_works():
    with pytest.raises(InputError, match="choose at most 250"):
        Ring(**MMR, radial_trim=252)
    assert Ring(**MMR, radial_trim=250).radial_bins == 3


@given(st.integers(1, 40), st.floats(0.5, 5), st.integers(1, 4))
def test_a_finer_grid_covers_the_same_square_with_pixels_inside_pixels(size, pixel_mm, factor):
    grid, fine = Grid(size, pixel_mm), Grid(size, pixel_mm).finer(factor)
    assert fine.size * fine.pixel_mm == pytest.approx(size * pixel_mm)
    inside_a_pixel = fine.centres_mm.reshape(size, factor).mean(axis=1)
    np.testing.assert_allclose(inside_a_pixel, grid.centres_mm, atol=1e-9)
    np.testing.assert_allclose(grid.centres_mm, -grid.centres_mm[::-1], atol=1e-9)


@given(rings(), st.integers(8, 60))
@settings(deadline=None, max_examples=30)
def test_the_field_of_view_is_the_largest_disc_that_image_and_every_view_cover(ring, size):
    grid = Grid(size, 1.8 * ring.radius_mm / size)
    radial_mm, _ = ring.radial_and_angle()
    covered_mm = min(np.abs(radial_mm[:, 0]).min(), np.abs(radial_mm[:, -1]).min())
    x, y = np.meshgrid(grid.centres_mm, grid.centres_mm)
    distance = np.hypot(x, y)
    inside = field_of_view(ring, grid)
    edge_mm = min(covered_mm, 0.9 * ring.radius_mm)
    assert (distance[inside] <= edge_mm * (1 + 1e-9)).all()
    assert (distance[~inside] >= edge_mm * (1 - 1e-9)).all()


def test_ring_and_grid_come_from_their_sections_of_the_configuration():
    config = {
        "scanner": {"geometry": "ring", **MMR, "radial_trim": 124, "gaps": [0, 3]},
        "slices": {
            "size": 256,
            "pixel_mm": 2.0863,
            "slice_mm": 2.0312,
            "volume_slices": 127,
            "rotations": 5,
            "max_rotation_deg": 15.0,
            "per_volume": 55,
        },
    }
    assert scanner_from(config["scanner"]) == Ring(**MMR, radial_trim=124, gaps=(0, 3))
    assert grid_from(config) == Grid(256, 2.0863)
