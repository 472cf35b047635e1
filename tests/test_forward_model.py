import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.forward_model import FWHM_PER_SIGMA, ForwardModel, psf_matrix
from pipeline.geometry import Grid, Ring, field_of_view
from pipeline.sinogram import attenuation_factors

pytestmark = pytest.mark.usefixtures("one_thread")

SUBSETS = 4
WATER_PER_CM = 0.096


def test_a_water_cylinder_attenuates_by_exp_of_minus_mu_l(sparse, disc):
    # Chords err by up to 0.3 pixels (test_projector.py says why): mu times that must be small.
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
    psf = psf_matrix(grid, 9.0, field_of_view(ring, grid))
    blurred = projector.images(torch.from_numpy(psf @ columns.numpy()))
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


@given(fwhm_px=st.floats(1.5, 6), row=st.integers(16, 31), column=st.integers(16, 31))
@settings(deadline=None, max_examples=20)
def test_a_point_is_spread_to_the_stated_width_and_keeps_its_sum(fwhm_px, row, column):
    grid = Grid(48, 2.0)
    psf = psf_matrix(grid, fwhm_px * grid.pixel_mm, np.ones((48, 48), bool))
    point = np.zeros((48, 48), np.float32)
    point[row, column] = 1
    spread = (psf @ point.ravel()).reshape(48, 48)
    assert spread.sum() == pytest.approx(1, rel=1e-5)
    assert np.unravel_index(spread.argmax(), spread.shape) == (row, column)
    for profile, centre in ((spread[row], column), (spread[:, column], row)):
        # A Gaussian's logarithm is a parabola: its curvature gives the width exactly.
        curvature = np.log(profile[centre] / profile[centre + 1])
        sigma_mm = grid.pixel_mm / np.sqrt(2 * curvature)
        assert sigma_mm * FWHM_PER_SIGMA == pytest.approx(fwhm_px * grid.pixel_mm, rel=1e-3)
        np.testing.assert_allclose(profile[centre - 3 : centre], profile[centre + 3 : centre : -1])


def test_the_full_width_is_that_at_half_of_the_maximum():
    grid = Grid(41, 0.5)
    psf = psf_matrix(grid, 4.0, np.ones((41, 41), bool))
    profile = psf[[20 * 41 + 20]].toarray().reshape(41, 41)[20]
    assert profile[20 + 4] == pytest.approx(profile[20] / 2, rel=1e-5)  # 2 mm = 4 pixels away


def test_the_psf_matrix_is_symmetric_and_keeps_the_sum_away_from_the_border(ring, grid):
    inside = field_of_view(ring, grid)
    psf = psf_matrix(grid, 9.0, inside)
    assert abs(psf - psf.T).max() == 0
    image = np.zeros(grid.size**2, np.float32)
    image[(32 - 5) * 64 + 20] = 3
    image[40 * 64 + 44] = 5
    assert (psf @ image[inside.ravel()]).sum() == pytest.approx(8, rel=1e-5)
    sums = np.asarray(psf.sum(axis=0))
    assert sums.max() <= 1 + 1e-5  # at the border some is lost, nowhere is any made
