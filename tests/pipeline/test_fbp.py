import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fbp import (
    FbpSettings,
    FilteredBackProjection,
    arc_correction,
    bracket,
    ramp_response,
    reconstruct,
)
from pipeline.storage import hdf5
from pipeline.storage.kinds import FBP
from pipeline.tomography.geometry import field_of_view

pytestmark = pytest.mark.usefixtures("one_thread")


def disc_sinogram(ring, radius_mm, centre_mm):
    """Exact line integrals (1, view, radial) of a disc of 1."""
    radial_mm, angle = ring.radial_and_angle()
    distance = radial_mm - centre_mm[0] * np.cos(angle) - centre_mm[1] * np.sin(angle)
    chords = 2 * np.sqrt(np.clip(radius_mm**2 - distance**2, 0, None))
    return chords.astype(np.float32)[None]


def blob_projection(distance_mm, angle, sigma_mm, centre_mm):
    """Exact line integrals of a Gaussian of height 1."""
    offset = distance_mm - centre_mm[0] * np.cos(angle) - centre_mm[1] * np.sin(angle)
    return np.sqrt(2 * np.pi) * sigma_mm * np.exp(-0.5 * (offset / sigma_mm) ** 2)


def from_centre(grid, centre_mm):
    x, y = np.meshgrid(grid.centres_mm, grid.centres_mm)
    return np.hypot(x - centre_mm[0], y - centre_mm[1])


@pytest.fixture(scope="module")
def method(fine_ring, fine_grid):
    return FilteredBackProjection(fine_ring, fine_grid, "ramp", 1.0)


@given(st.floats(0, 2 * np.pi), st.floats(0, 25), st.floats(40, 60))
@settings(deadline=None, max_examples=15)
def test_a_disc_returns_flat_wherever_it_lies(
    method, fine_ring, fine_grid, direction, offset, radius
):
    centre = offset * np.cos(direction), offset * np.sin(direction)
    image = method(100 * disc_sinogram(fine_ring, radius, centre))[0]
    distance = from_centre(fine_grid, centre)
    middle = distance < 0.8 * radius
    np.testing.assert_allclose(image[middle], 100, rtol=1e-2)
    # 2e-3 off in the middle of the ring, where the rim lies between the same bins in all views.
    assert image[middle].mean() == pytest.approx(100, rel=5e-3)
    # No rings: the mean over each circle is that of the whole.
    for inner in np.arange(0, 0.8, 0.2) * radius:
        circle = (distance >= inner) & (distance < inner + 0.2 * radius)
        assert image[circle].mean() == pytest.approx(image[middle].mean(), rel=2e-3)
    outside = (distance > 1.3 * radius) & field_of_view(fine_ring, fine_grid)
    assert abs(image[outside].mean()) < 1


def test_position_and_total_are_right(method, fine_ring, fine_grid):
    centre, radius = (21.0, -14.0), 40.0
    image = method(disc_sinogram(fine_ring, radius, centre))[0].astype(np.float64)
    total = image.sum()
    x, y = image.sum(axis=0) @ fine_grid.centres_mm, image.sum(axis=1) @ fine_grid.centres_mm
    np.testing.assert_allclose([x / total, y / total], centre, atol=0.05)
    assert total * fine_grid.pixel_mm**2 == pytest.approx(np.pi * radius**2, rel=1e-3)


def test_projections_of_an_image_return_it(sparse, method, fine_ring, fine_grid, disc):
    activity = 100 * disc(fine_grid, 55, (10, -12))[None]
    image = method(sparse(fine_ring, fine_grid).project(activity))[0]
    middle = from_centre(fine_grid, (10, -12)) < 40
    assert image[middle].mean() == pytest.approx(100, rel=1e-3)
    assert image[middle].std() < 1


def test_a_turned_sinogram_gives_the_turned_image(method, fine_ring, quarter_turn):
    shape = (1, fine_ring.views, fine_ring.radial_bins)
    sinogram = np.random.default_rng(1).random(shape, dtype=np.float32)
    turned = method(quarter_turn(sinogram))
    expected = np.rot90(method(sinogram), -1, axes=(1, 2))
    assert np.linalg.norm(turned - expected) < 1e-5 * np.linalg.norm(expected)


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_reconstruction_is_linear(method, fine_ring, first, second, seed):
    shape = (1, fine_ring.views, fine_ring.radial_bins)
    one, two = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    first, second = np.float32(first), np.float32(second)
    together, alone, other = method(first * one + second * two), method(one), method(two)
    error = together - (first * alone + second * other)
    assert np.linalg.norm(error) < 1e-5 * 10 * np.linalg.norm(alone)


def test_slices_are_reconstructed_one_by_one(method, fine_ring):
    shape = (4, fine_ring.views, fine_ring.radial_bins)
    sinograms = np.random.default_rng(1).random(shape, dtype=np.float32)
    together = method(sinograms)
    for row in range(4):
        alone = method(sinograms[row : row + 1])[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-5 * np.abs(alone).max())


def test_outside_the_field_of_view_there_is_nothing(method, fine_ring, fine_grid):
    image = method(np.ones((1, fine_ring.views, fine_ring.radial_bins), np.float32))[0]
    inside = field_of_view(fine_ring, fine_grid)
    assert not image[~inside].any()
    assert image[inside].all()


# Arc correction


@given(st.floats(-25, 25), st.floats(-25, 25))
@settings(deadline=None, max_examples=10)
def test_arc_correction_gives_the_parallel_sinogram_of_a_blob(method, fine_ring, x, y):
    radial_mm, angle = fine_ring.radial_and_angle()
    matrix = arc_correction(
        radial_mm, angle, fine_ring.counting, method.angles, method.distances_mm
    )
    measured = blob_projection(radial_mm, angle, 15.0, (x, y))
    expected = blob_projection(method.distances_mm, method.angles[:, None], 15.0, (x, y))
    found = (matrix @ measured.ravel()).reshape(expected.shape)
    # Linear interpolation of a Gaussian over gaps of 1/4 sigma misses h^2 / 8 of its curvature.
    assert np.abs(found - expected).max() < 5e-3 * expected.max()
    assert np.linalg.norm(found - expected) < 3e-3 * np.linalg.norm(expected)


def test_without_arc_correction_the_blob_would_be_wrong(method, fine_ring):
    radial_mm, angle = fine_ring.radial_and_angle()
    measured = blob_projection(radial_mm, angle, 15.0, (25, -25))
    reach = len(method.distances_mm) // 2
    middle = fine_ring.radial_bins // 2
    kept = measured[:, middle - reach : middle + reach + 1][:, ::-1]
    expected = blob_projection(method.distances_mm, method.angles[:, None], 15.0, (25, -25))
    errors = [np.abs(each - expected).max() for each in (kept, kept[:, ::-1])]
    assert min(errors) > 0.02 * expected.max()


def test_arc_correction_is_an_interpolation(method, fine_ring):
    radial_mm, angle = fine_ring.radial_and_angle()
    matrix = arc_correction(
        radial_mm, angle, fine_ring.counting, method.angles, method.distances_mm
    )
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
    assert matrix.data.min() >= 0
    assert np.diff(matrix.indptr).max() <= 4


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30, unique=True).map(sorted),
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30),
)
def test_values_are_bracketed_by_their_neighbours(increasing, wanted):
    increasing, wanted = np.array(increasing), np.array(wanted)
    first, fraction = bracket(increasing, wanted)
    assert ((fraction >= 0) & (fraction <= 1)).all()
    found = (1 - fraction) * increasing[first] + fraction * increasing[first + 1]
    np.testing.assert_allclose(found, np.clip(wanted, increasing[0], increasing[-1]), atol=1e-9)


# The filter


@given(st.integers(40, 400), st.floats(0.2, 5))
def test_the_ramp_rises_by_one_from_nearly_zero(count, step_mm):
    response = ramp_response(count, step_mm, "ramp", 1.0)
    per_mm = np.linspace(0, 0.5 / step_mm, len(response))
    assert 2 * (len(response) - 1) >= 2 * count
    # Sampled in space, the ramp is not quite zero at zero, but just so that sums come out right.
    assert 0 < response[0] < 0.5 * per_mm[1]
    np.testing.assert_allclose(response[4:], per_mm[4:], rtol=1e-2)
    slope = np.polyfit(per_mm[4:], response[4:], 1)[0]
    assert slope == pytest.approx(1, rel=5e-3)


@pytest.mark.parametrize("cutoff", [0.3, 0.5, 1.0])
def test_windows_weaken_high_frequencies_and_end_at_the_cutoff(cutoff):
    plain = ramp_response(100, 2.0, "ramp", 1.0)
    relative = np.linspace(0, 1, len(plain))
    ramp, hann = (ramp_response(100, 2.0, window, cutoff) for window in ("ramp", "hann"))
    kept = relative <= cutoff
    np.testing.assert_array_equal(ramp, np.where(kept, plain, 0))
    assert not hann[~kept].any()
    inside = np.flatnonzero(kept)
    ratio = hann[inside] / plain[inside]
    assert (np.diff(ratio) < 0).all()
    assert ratio[0] == pytest.approx(1)
    np.testing.assert_allclose(ratio, np.cos(np.pi * relative[inside] / cutoff / 2) ** 2, atol=1e-6)


def test_smoothing_lowers_noise_and_keeps_the_level(fine_ring, fine_grid):
    exact = 100 * disc_sinogram(fine_ring, 60, (0, 0))
    noise = np.random.default_rng(1).normal(0, 100, exact.shape).astype(np.float32)
    middle = from_centre(fine_grid, (0, 0)) < 40
    spreads = []
    for window, cutoff in (("ramp", 1.0), ("hann", 1.0), ("hann", 0.5)):
        method = FilteredBackProjection(fine_ring, fine_grid, window, cutoff)
        assert method(exact)[0][middle].mean() == pytest.approx(100, rel=2e-3)
        spreads.append(method(noise)[0][middle].std())
    assert spreads[0] > 1.3 * spreads[1] > 1.3 * 1.5 * spreads[2]


# The rule


def test_the_rule_gives_activity_back(tmp_path, fine_ring, fine_grid, disc, write_sinogram, sparse):
    centre = (12, -8)
    line_integrals = 100 * disc_sinogram(fine_ring, 45, centre)
    line_integrals = np.concatenate([line_integrals, 3 * line_integrals, 0 * line_integrals])
    factors = np.exp(-sparse(fine_ring, fine_grid).project(0.0096 * disc(fine_grid, 80)[None]))
    path = write_sinogram(
        tmp_path / "sinogram.h5", line_integrals, 2.0, factors, 100.0, rotation=[0, 1, 1]
    )
    settings = FbpSettings(window="ramp", cutoff=1.0)
    reconstruct(path, tmp_path / "fbp.h5", settings, fine_ring, fine_grid)
    arrays, attributes = hdf5.read(tmp_path / "fbp.h5", FBP)
    middle = from_centre(fine_grid, centre) < 35
    means = arrays["fbp"][:, middle].mean(axis=1)
    np.testing.assert_allclose(means, [100, 300, 0], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(arrays["rotation"], [0, 1, 1])
    np.testing.assert_array_equal(arrays["slice_index"], [0, 0, 1])
    assert attributes["subject"] == "subject04"
