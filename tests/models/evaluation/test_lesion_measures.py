import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from scipy.special import ive
from scipy.stats import norm

from models.evaluation.lesion_measures import (
    EXCEEDED,
    area_under_curve,
    contrast_recovery,
    false_structure,
    noise_variance,
    observed,
    relative_noise,
    threshold_of,
)
from pipeline.tomography.forward_model import FWHM_PER_SIGMA


@settings(deadline=None, max_examples=20)
@given(st.floats(-2, 2), st.floats(0.2, 5), st.integers(0, 100))
def test_the_area_of_two_gaussians_is_known(separation, deviation, seed):
    """Phi(d / sqrt 2) of Gaussians that lie d standard deviations apart."""
    rng = np.random.default_rng(seed)
    absent, present = deviation * rng.normal(size=(2, 2000)) + [[0], [separation * deviation]]
    found = area_under_curve(present, absent)
    assert found == pytest.approx(norm.cdf(separation / np.sqrt(2)), abs=0.06)


@given(arrays(float, (2, 7), elements=st.floats(-5, 5)))
def test_exchanged_twins_have_the_rest_of_the_area(values):
    one, other = values.round(1)  # some are equal
    assert area_under_curve(one, other) + area_under_curve(other, one) == pytest.approx(1)
    assert area_under_curve(one, np.roll(one, 1)) >= 0
    assert area_under_curve(np.full(7, 2.0), np.full(7, 2.0)) == 0.5


def test_pairs_of_one_draw_do_not_count():
    # The same noise in both: by itself each twin with a lesion is above that without.
    noise = np.random.default_rng(0).normal(size=300)
    assert area_under_curve(noise + 1e-6, noise) == pytest.approx(0.5, abs=1e-12)


def disc_of(radius_mm, size=129, pixel_mm=1.0):
    axis = (np.arange(size) - size // 2) * pixel_mm
    return np.hypot(axis[:, None], axis) <= radius_mm


@pytest.mark.parametrize("sigma", [3.0, 6.0, 12.0])
def test_the_recovery_of_a_blurred_disc_is_known(sigma):
    """1 - exp(-u) (I_0(u) + I_1(u)), u = (radius / sigma)^2: a disc's mean, blurred by a Gaussian.

    Of the integral of 2 J_1(k R)^2 exp(-(sigma k)^2 / 2) / k over k.
    """
    radius = 15.0
    disc = disc_of(radius)
    lesion = 40.0 * disc
    blurred = gaussian_filter(lesion, sigma, truncate=6)
    u = (radius / sigma) ** 2
    recovery = contrast_recovery(blurred[disc].mean(), lesion[disc].mean())
    assert recovery == pytest.approx(1 - ive(0, u) - ive(1, u), rel=0.02)


def test_recovery_and_noise_are_ratios_of_what_they_are_given():
    np.testing.assert_allclose(contrast_recovery(np.array([3.0, 1]), np.array([6.0, 1])), [0.5, 1])
    np.testing.assert_allclose(relative_noise(np.array([9.0, 4]), np.array([30.0, 1])), [0.1, 2])


def test_the_observer_sees_the_disc_above_its_ring():
    disc = disc_of(5)
    ring = disc_of(9) & ~disc_of(6)
    images = np.stack([10 + 7.0 * disc, 10 - 2.0 * disc + 100 * ~disc_of(20)])
    np.testing.assert_allclose(observed(images, disc, ring), [7, -2])


def test_noise_is_the_variance_over_draws_alone():
    rng = np.random.default_rng(2)
    disc = disc_of(30)
    pattern = 50 * rng.random(disc.shape)  # the same in all draws
    images = pattern + 3.0 * rng.normal(size=(20, *disc.shape)) + 40.0 * ~disc
    assert noise_variance(images, disc) == pytest.approx(9, rel=0.03)
    two = np.stack([np.zeros(disc.shape), np.full(disc.shape, 2.0)])
    assert noise_variance(two, disc) == pytest.approx(2)  # divided by K - 1


@given(
    st.lists(
        arrays(float, st.integers(100, 3000), elements=st.floats(0, 1, width=16)),
        min_size=1,
        max_size=3,
    )
)
def test_the_threshold_is_exceeded_in_one_percent_of_the_mean_slice(slices):
    threshold = threshold_of(slices)
    assert np.mean([(values > threshold).mean() for values in slices]) <= EXCEEDED + 1e-9
    assert np.mean([(values >= threshold).mean() for values in slices]) > EXCEEDED - 1e-9


def test_false_structure_is_that_of_the_size_that_is_looked_for():
    truth = np.random.default_rng(3).random((129, 129))
    inner = np.s_[40:90, 40:90]
    np.testing.assert_allclose(false_structure(truth, truth, 8, 2.0), 0)
    images = np.stack([truth + 3, truth - 3])
    np.testing.assert_allclose(false_structure(images, truth, 8, 2.0)[:, *inner], 3, rtol=1e-3)
    # A single wrong pixel: the middle of a Gaussian of sum 1.
    point = truth.copy()
    point[64, 64] += 5
    sigma = 12 / FWHM_PER_SIGMA / 2.0
    found = false_structure(point, truth, 12, 2.0)
    assert found[64, 64] == pytest.approx(5 / (2 * np.pi * sigma**2), rel=0.02)
    assert found.argmax() == 64 * 129 + 64
