import subprocess
import sys

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.sinogram import attenuation_factors
from pipeline.tomography.forward_model import FWHM_PER_SIGMA, ForwardModel, PointSpread
from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.scanners import Ring

pytestmark = pytest.mark.usefixtures("one_thread")

SUBSETS = 4
WATER_PER_CM = 0.096
CPU = torch.device("cpu")


def test_a_water_cylinder_attenuates_by_exp_of_minus_mu_l(sparse, disc):
    # Chords err by up to 0.3 pixels (test_projectors.py says why): mu times that must be small.
    ring, grid = Ring(18, 4, 328, 28.8, 22), Grid(1024, 0.25)
    radius_cm, centre_cm = 10.0, (1.0, -1.5)
    cylinder = disc(grid, 10 * radius_cm, (10 * centre_cm[0], 10 * centre_cm[1]))[None]
    factors = attenuation_factors(sparse(ring, grid), np.float32(WATER_PER_CM) * cylinder)[0]
    radial_mm, angle = ring.radial_and_angle()
    offset_cm = radial_mm / 10 - centre_cm[0] * np.cos(angle) - centre_cm[1] * np.sin(angle)
    chord_cm = 2 * np.sqrt(np.clip(radius_cm**2 - offset_cm**2, 0, None))
    interior = np.abs(offset_cm) < 0.8 * radius_cm
    assert interior.sum() > 300
    expected = np.exp(-WATER_PER_CM * chord_cm)
    assert expected.min() == pytest.approx(np.exp(-1.92), rel=1e-2)  # 20 cm of water: 0.147
    np.testing.assert_allclose(factors[interior], expected[interior], rtol=1e-3)
    assert (factors[np.abs(offset_cm) > 1.02 * radius_cm] == 1).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    fwhm_mm=st.sampled_from([0.0, 4.5, 12.0]),
    attenuated=st.booleans(),
    subset=st.integers(0, SUBSETS - 1),
)
@settings(deadline=None, max_examples=15)
def test_back_is_the_adjoint_of_forward(sparse, ring, grid, seed, fwhm_mm, attenuated, subset):
    projector = sparse(ring, grid, SUBSETS)
    rng = np.random.default_rng(seed)

    def draw(rows):
        return torch.from_numpy(rng.random((rows, 2), dtype=np.float32))

    lors = ring.views // SUBSETS * ring.radial_bins
    factors = [draw(lors) for _ in range(SUBSETS)] if attenuated else None
    model = ForwardModel(projector, fwhm_mm, factors)
    x, y = draw(int(field_of_view(ring, grid).sum())), draw(lors)
    left = (model.forward(x, subset).double() * y).sum()
    right = (x.double() * model.back(y, subset)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-5)


def test_the_forward_model_blurs_then_projects_then_attenuates(sparse, ring, grid):
    projector = sparse(ring, grid, 2)
    rng = np.random.default_rng(1)
    image = rng.random((1, grid.size, grid.size), dtype=np.float32)
    factors = rng.random((1, ring.views, ring.radial_bins), dtype=np.float32)
    columns = projector.columns(image)
    model = ForwardModel(projector, 9.0, [projector.lors(factors, s) for s in range(2)])
    found = projector.sinograms([model.forward(columns, s) for s in range(2)])
    blurred = projector.images(PointSpread(grid, 9.0, field_of_view(ring, grid), CPU)(columns))
    np.testing.assert_allclose(found, factors * projector.project(blurred), rtol=1e-5)


def test_without_options_the_forward_model_is_the_projector(sparse, ring, grid):
    projector = sparse(ring, grid, 2)
    columns = projector.columns(np.ones((1, grid.size, grid.size), np.float32))
    found = ForwardModel(projector, 0.0).forward(columns, 1)
    np.testing.assert_array_equal(found, projector.forward(columns, 1))


def test_sensitivity_is_the_back_projection_of_ones(sparse, ring, grid):
    projector = sparse(ring, grid, SUBSETS)
    factors = [
        torch.full((ring.views // SUBSETS * ring.radial_bins, 2), value)
        for value in (0.5, 0.25, 1.0, 2.0)
    ]
    plain = ForwardModel(projector, 6.0).sensitivity
    attenuated = ForwardModel(projector, 6.0, factors).sensitivity
    assert plain[0].shape == (len(projector.columns(np.zeros((1, 64, 64), np.float32))), 1)
    for subset, factor in enumerate((0.5, 0.25, 1.0, 2.0)):
        np.testing.assert_allclose(attenuated[subset], factor * plain[subset].expand(-1, 2))


def columns_of(image, inside):
    return torch.from_numpy(image[inside][:, None])


def point_spread(grid, fwhm_mm, pixel):
    """Image (y, x) of a point of value 1 in a pixel."""
    everywhere = np.ones((grid.size, grid.size), bool)
    point = np.zeros((grid.size, grid.size), np.float32)
    point[pixel] = 1
    spread = PointSpread(grid, fwhm_mm, everywhere, CPU)(columns_of(point, everywhere))
    return spread.reshape(grid.size, grid.size).numpy()


@given(fwhm_px=st.floats(1.5, 6), row=st.integers(16, 31), column=st.integers(16, 31))
@settings(deadline=None, max_examples=20)
def test_a_point_is_spread_to_the_stated_width_and_keeps_its_sum(fwhm_px, row, column):
    grid = Grid(48, 2.0)
    spread = point_spread(grid, fwhm_px * grid.pixel_mm, (row, column))
    assert spread.sum() == pytest.approx(1, rel=1e-5)
    assert np.unravel_index(spread.argmax(), spread.shape) == (row, column)
    for profile, centre in ((spread[row], column), (spread[:, column], row)):
        # A Gaussian's logarithm is a parabola: its curvature gives the width exactly.
        curvature = np.log(profile[centre] / profile[centre + 1])
        sigma_mm = grid.pixel_mm / np.sqrt(2 * curvature)
        assert sigma_mm * FWHM_PER_SIGMA == pytest.approx(fwhm_px * grid.pixel_mm, rel=1e-3)
        np.testing.assert_allclose(profile[centre - 3 : centre], profile[centre + 3 : centre : -1])


def test_the_full_width_is_that_at_half_of_the_maximum():
    profile = point_spread(Grid(41, 0.5), 4.0, (20, 20))[20]
    assert profile[20 + 4] == pytest.approx(profile[20] / 2, rel=1e-5)  # 2 mm = 4 pixels away


def test_blurring_keeps_the_sum_away_from_the_border(ring, grid):
    inside = field_of_view(ring, grid)
    psf = PointSpread(grid, 9.0, inside, CPU)
    image = np.zeros((64, 64), np.float32)
    image[32 - 5, 20], image[40, 44] = 3, 5
    assert float(psf(columns_of(image, inside)).sum()) == pytest.approx(8, rel=1e-5)
    # At the border some is lost, nowhere is any made: these are the sums of all points' spreads.
    sums = psf(torch.ones(int(inside.sum()), 1))
    assert float(sums.max()) <= 1 + 1e-5


@given(
    size=st.integers(1, 24),
    fwhm_px=st.floats(0.3, 40),
    radius=st.floats(0.2, 1.5),
    slices=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
@example(size=32, fwhm_px=30, radius=1, slices=1, seed=0)  # reaches farther than the image
@example(size=1, fwhm_px=9, radius=1, slices=1, seed=0)
@settings(deadline=None, max_examples=40)
def test_blurring_is_the_sum_over_a_gaussian_s_pixels(size, fwhm_px, radius, slices, seed):
    grid = Grid(size, 1.5)
    inside = np.hypot(*np.meshgrid(grid.centres_mm, grid.centres_mm)) <= radius * size * 1.5 / 2
    images = np.random.default_rng(seed).random((slices, size, size), np.float32) * inside
    sigma = fwhm_px / FWHM_PER_SIGMA
    reach = int(np.ceil(4 * sigma))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.exp(-(y**2 + x**2) / (2 * sigma**2))
    expected = scipy.signal.convolve(
        images.astype(np.float64), kernel[None] / kernel.sum(), mode="full", method="direct"
    )[:, reach : reach + size, reach : reach + size]
    columns = torch.from_numpy(images[:, inside].T.copy())
    found = PointSpread(grid, fwhm_px * 1.5, inside, CPU)(columns)
    np.testing.assert_allclose(found.T, expected[:, inside], rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("fwhm_mm", [1e-3, 4.5, 30.0, 1e3])
def test_blurring_is_its_own_adjoint(ring, grid, fwhm_mm):
    inside = field_of_view(ring, grid)
    psf = PointSpread(grid, fwhm_mm, inside, CPU)
    x, y = torch.rand(2, int(inside.sum()), 4, generator=torch.Generator().manual_seed(1))
    left, right = (psf(x).double() * y).sum(), (x.double() * psf(y)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-6)


@pytest.mark.parametrize("oversampling", [1, 2, 3])
def test_blurring_takes_the_memory_of_a_few_images(oversampling):
    """The peak of a process that blurs one slice at the paper's size, without its imports."""
    code = f"""
import resource, numpy, torch
from pipeline.tomography.forward_model import PointSpread
from pipeline.tomography.geometry import Grid
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
grid = Grid(256, 2.0863).finer({oversampling})
columns = torch.rand(grid.size**2, 1)
torch.eye(8).to_sparse_csr() @ torch.rand(8, 8)
before = peak()
PointSpread(grid, 4.5, numpy.ones((grid.size, grid.size), bool), columns.device)(columns)
print((peak() - before) * 1024 / columns.nbytes)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 60
