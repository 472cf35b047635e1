"""Calibrated intervals, on posteriors that are known in closed form."""

import numpy as np
import pytest
import torch

from models import metrics
from models.conformal import conformal_factor, deviation, interval_levels, scores

PIXELS, BINS, SIGMA, COUNT = 24, 18, 0.7, 8
"""Of a linear measurement with Gaussian noise of a Gaussian image; samples of the posterior."""


class LinearGaussian:
    """x ~ N(m, P), y = A x + n, n ~ N(0, sigma^2): x given y is N(m + K (y - A m), (I - K A) P)."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        place = np.arange(PIXELS)
        self.prior = np.exp(-abs(place[:, None] - place) / 3) * np.outer(*[1 + place / PIXELS] * 2)
        self.mean = 5 + np.sin(place)
        self.matrix = self.rng.normal(0, 1, (BINS, PIXELS)) / np.sqrt(PIXELS)
        data = self.matrix @ self.prior @ self.matrix.T + SIGMA**2 * np.eye(BINS)
        self.gain = self.prior @ self.matrix.T @ np.linalg.inv(data)
        self.posterior = self.prior - self.gain @ self.matrix @ self.prior

    def draw(self, images, shrunk=1.0):
        """Truths (N, 1, 1, pixels) and posterior samples (N, K, 1, pixels), their spread shrunk."""
        truths = self.rng.multivariate_normal(self.mean, self.prior, images)
        noise = self.rng.normal(0, SIGMA, (images, BINS))
        residuals = truths @ self.matrix.T + noise - self.matrix @ self.mean
        centres = self.mean + residuals @ self.gain.T
        zero = np.zeros(PIXELS)
        spread = self.rng.multivariate_normal(zero, self.posterior, (images, COUNT))
        samples = centres[:, None] + spread / shrunk
        return truths[:, None, None], samples[:, :, None]


def spread_of(samples):
    return samples.mean(axis=1, keepdims=True), samples.std(axis=1, ddof=1, keepdims=True)


@pytest.mark.parametrize("shrunk", [1.0, 3.0])
def test_coverage_is_right_raw_of_the_true_posterior_and_calibrated_of_any(shrunk):
    posterior = LinearGaussian(1)
    truths, samples = posterior.draw(3000, shrunk)
    fitted = scores(*spread_of(samples), truths, 1e-9).ravel()
    levels = interval_levels(COUNT)
    factors = {level: conformal_factor(fitted.copy(), level) for level in levels}

    truths, samples = posterior.draw(3000, shrunk)
    found = scores(*spread_of(samples), truths, 1e-9)
    calibrated = {level: (found <= factor).mean() for level, factor in factors.items()}
    assert calibrated == pytest.approx({level: level for level in levels}, abs=0.02)

    pair = torch.from_numpy(samples), torch.from_numpy(truths)
    raw = {level: float(share.mean()) for level, share in metrics.interval_coverage(*pair).items()}
    if shrunk == 1:
        assert raw == pytest.approx({level: level for level in levels}, abs=0.02)
    else:
        assert all(raw[level] < level - 0.05 for level in levels)


def test_factors_make_up_for_the_samples_spread():
    """Shrunk by 3, with the same errors of the mean, the factor is three times as large."""
    posterior = LinearGaussian(2)
    truths, samples = posterior.draw(500)
    mean, deviation = spread_of(samples)
    for level in interval_levels(COUNT):
        plain, small = (
            conformal_factor(scores(mean, each, truths, 1e-9).ravel(), level)
            for each in (deviation, deviation / 3)
        )
        assert small == pytest.approx(3 * plain)


def test_a_factor_is_the_quantile_of_a_further_score():
    """Of n scores and a new one, all orders are as likely: P(new <= k-th) = k / (n + 1)."""
    assert conformal_factor(np.array([3.0, 1.0, 2.0, 4.0]), 0.6) == 3
    assert conformal_factor(np.array([3.0, 1.0, 2.0, 4.0]), 0.61) == 4
    assert conformal_factor(np.array([3.0, 1.0, 2.0, 4.0]), 0.81) == np.inf
    assert conformal_factor(np.array([]), 0.5) == np.inf
    held = np.random.default_rng(3).random((4000, 20))
    inside = [row[-1] <= conformal_factor(row[:-1].copy(), 0.75) for row in held]
    assert np.mean(inside) == pytest.approx(0.75, abs=0.02)


def test_samples_that_agree_have_a_small_spread_and_not_none():
    found = scores(np.array([1.0, 1.0]), np.array([0.0, 0.5]), np.array([1.2, 2.0]), 0.1)
    assert found == pytest.approx([2, 2])


def test_levels_are_those_of_order_statistics():
    assert interval_levels(5) == [4 / 6, 2 / 6]
    assert interval_levels(2) == [1 / 3]
    assert interval_levels(1) == []


def test_width_is_between_the_jth_smallest_and_largest():
    samples = torch.tensor([[4.0, 1.0, 2.0, 8.0], [0.0, 0.0, 3.0, 5.0]]).T.reshape(1, 4, 1, 2)
    found = metrics.interval_width(samples)
    assert {level: float(each) for level, each in found.items()} == pytest.approx(
        {3 / 5: (7 + 5) / 2, 1 / 5: (2 + 3) / 2}
    )
    first = torch.tensor([True, False]).reshape(1, 1, 1, 2)
    assert [float(each) for each in metrics.interval_width(samples, first).values()] == [7, 2]


def test_width_of_normal_samples_is_that_of_their_order_statistics():
    """The range of two standard normal samples is 2 / sqrt(pi) on average, of any spread in it."""
    samples = 3 * torch.randn(1, 2, 300, 300, generator=torch.Generator().manual_seed(4))
    (found,) = metrics.interval_width(samples).values()
    assert float(found) == pytest.approx(3 * 2 / np.sqrt(np.pi), abs=0.03)


@pytest.mark.parametrize("samples", [2, 4, 8])
def test_levels_and_deviation_of_antithetic_pairs_are_those_of_further_draws(samples):
    """Pairs mean +- u, of normal u: how often is another draw inside, and what is its deviation?"""
    draws = np.random.default_rng(samples)
    mean = draws.normal(size=(40, 1, 50, 50))
    half = 3.0 * draws.normal(size=(40, samples // 2, 50, 50))
    pairs = np.stack([mean + half, mean - half], axis=2).reshape(40, samples, 50, 50)
    truth = mean + 3.0 * draws.normal(size=mean.shape)
    found = metrics.interval_coverage(
        torch.from_numpy(pairs), torch.from_numpy(truth), antithetic=True
    )
    assert list(found) == interval_levels(samples, antithetic=True)
    for level, share in found.items():
        assert abs(float(share.mean()) - level) < 0.01
    assert abs(np.sqrt((deviation(pairs, True) ** 2).mean()) - 3) < 0.05
    independent = mean + 3.0 * draws.normal(size=(40, samples, 50, 50))
    assert abs(np.sqrt((deviation(independent, False) ** 2).mean()) - 3) < 0.05


def test_widths_of_antithetic_pairs_have_the_same_levels():
    samples = torch.tensor([-3.0, 3.0, -1.0, 1.0]).reshape(1, 4, 1, 1)
    assert {k: float(v) for k, v in metrics.interval_width(samples, antithetic=True).items()} == {
        2 / 3: 6.0,
        1 / 3: 2.0,
    }
