"""How diffusion is scaled to its data, and what an error at each noise level costs."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_models import NETWORK, SAMPLING, SIZE, own_settings
from models.dataset import Batch, SliceKey, to_signed
from models.draws import keyed_rng
from models.methods.cdpm import CDPM
from models.registry import build

KEYS = [SliceKey("subject04", 0, n) for n in range(3)]
UNGUIDED = replace(SAMPLING, guidance=0.0)
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def cdpm(**changes):
    torch.manual_seed(0)
    return CDPM(NETWORK, own_settings("cDPM", **changes))


def images(seed):
    return torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def step(method, batch):
    (objective,) = method.training_step(batch, [keyed_rng(1, *key) for key in batch.keys])
    return objective.losses["loss"]


def signals(method, t):
    """sqrt(a_t) and sqrt(1 - a_t), of the linear schedule's closed form."""
    betas = torch.linspace(1e-4, 0.02, method.settings.timesteps, dtype=torch.float64)
    power = torch.cumprod(1 - betas, 0)[t][:, None, None, None]
    return power.sqrt(), (1 - power).sqrt()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@settings(deadline=None)
@given(gamma=st.floats(0.01, 50), error=st.floats(0.1, 2))
def test_an_error_of_x0_costs_the_same_whatever_is_predicted(prediction, gamma, error):
    """min(SNR, gamma) error^2, of Hang et al. 2023."""
    method = cdpm(prediction=prediction, min_snr_gamma=gamma)
    batch, steps = Batch(images(0), images(1), KEYS), []

    def network(x, t, features):
        steps.append(t)
        signal, noise = signals(method, t)
        x0 = to_signed(batch.image).double()
        found = x0 + error  # what is predicted by one who is off by that
        eps = (x[:, :1] - signal * found) / noise
        return {"epsilon": eps, "sample": found, "v_prediction": signal * eps - noise * found}[
            prediction
        ]

    method.network.forward = network
    loss = float(step(method, batch))
    (t,) = steps
    signal, noise = (each.flatten() for each in signals(method, t))
    expected = float(((signal / noise).square().clamp(max=gamma) * error**2).mean())
    assert math.isclose(loss, expected, rel_tol=1e-3, abs_tol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_gamma_of_0_is_the_plain_squared_error(prediction):
    method, seen = cdpm(prediction=prediction), []
    batch = Batch(images(0), images(1), KEYS)
    method.network.forward = lambda x, t, features: (
        seen.append((x, t)) or torch.zeros_like(x[:, :1])
    )
    loss = step(method, batch)
    ((x, t),) = seen
    signal, noise = signals(method, t)
    x0 = to_signed(batch.image).double()
    eps = (x[:, :1] - signal * x0) / noise
    target = {"epsilon": eps, "sample": x0, "v_prediction": signal * eps - noise * x0}[prediction]
    torch.testing.assert_close(loss.double(), target.square().mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("sigma_data", [1.0, 0.25, 0.04])
def test_networks_see_images_over_sigma_data(sigma_data):
    method, seen = cdpm(sigma_data=sigma_data, prediction="sample"), []
    image = images(1)
    method.network.forward = lambda x, t, features: (
        seen.append((x, t)) or torch.zeros_like(x[:, :1])
    )
    loss = step(method, Batch(images(0), image, KEYS))
    torch.testing.assert_close(loss, (to_signed(image) / sigma_data).square().mean())
    ((x, t),) = seen
    signal, noise = signals(method, t)
    eps = (x[:, :1] - signal * to_signed(image) / sigma_data) / noise
    assert 0.9 < eps.std() < 1.1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++"])
@pytest.mark.parametrize("sigma_data", [1.0, 0.25, 0.04])
def test_samples_are_in_the_units_of_images_again(sampler, sigma_data):
    image = images(1)
    method = cdpm(sigma_data=sigma_data, prediction="sample")
    method.network.forward = lambda x, t, features: to_signed(image) / sigma_data
    sampling = replace(UNGUIDED, sampler=sampler, steps=5, samples=2)
    found = method.predict(images(0), KEYS, sampling, 1)
    torch.testing.assert_close(found, image.expand(-1, 2, -1, -1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("sigma_data", [1.0, 0.1])
def test_estimates_stay_in_the_range_of_images(sigma_data):
    method = cdpm(sigma_data=sigma_data, prediction="sample")
    method.network.forward = lambda x, t, features: torch.full_like(x[:, :1], 100.0)
    found = method.predict(images(0), KEYS, UNGUIDED, 1)
    torch.testing.assert_close(found, torch.ones_like(found), atol=1e-4, rtol=0)


def test_the_spread_of_samples_is_that_of_the_data():
    """Gaussian pixels of a known deviation, sampled by who knows them, have it again.

    Their best estimate of x_0 is exact, so that only the steps are to blame. With a tenth of the
    deviation that the noise schedule is meant for, few steps lose most of it.
    """
    deviation = 0.05  # of images in [-1, 1]
    spread = {}
    for sigma_data in (1.0, deviation):
        method = cdpm(sigma_data=sigma_data, prediction="sample")

        def best(x, t, features, method=method, variance=(deviation / sigma_data) ** 2):
            signal, noise = signals(method, t)
            weight = signal * variance / (signal**2 * variance + noise**2)
            return (weight * x[:, :1]).float()

        method.network.forward = best
        sampling = replace(UNGUIDED, sampler="dpm-solver++", steps=10, samples=8)
        found = to_signed(method.predict(images(0), KEYS, sampling, 1))
        spread[sigma_data] = float(found.std()) / deviation
    assert spread[1.0] < 0.5
    assert 0.9 < spread[deviation] < 1.05


def linear(method, deviation=0.3, mean=0.1):
    """What a network gives that knows Gaussian data: an affine function of x_t."""

    def best(x, t, features):
        signal, noise = signals(method, t)
        weight = signal * deviation**2 / (signal**2 * deviation**2 + noise**2)
        return (mean + weight * (x[:, :1] - signal * mean)).float()

    return best


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++"])
@pytest.mark.parametrize("samples", [2, 6])
def test_antithetic_samples_of_an_affine_network_have_the_mean_itself(sampler, samples):
    method = cdpm(prediction="sample")
    method.network.forward = linear(method)
    plain = replace(UNGUIDED, sampler=sampler, eta=0.0, steps=10, samples=samples)
    independent, pairs = (
        to_signed(method.predict(images(0), KEYS, each, 1))
        for each in (plain, replace(plain, antithetic=True))
    )
    torch.testing.assert_close(pairs[:, 0], independent[:, 0])
    torch.testing.assert_close(pairs[:, 2::2], independent[:, 1 : samples // 2])
    around = pairs.unflatten(1, (-1, 2)).mean(dim=2)
    torch.testing.assert_close(around, torch.full_like(around, 0.1), atol=2e-3, rtol=0)
    assert (independent.mean(dim=1) - 0.1).std() > 0.05


def test_antithetic_samples_do_not_depend_on_their_batch():
    method = cdpm()
    pairs = replace(UNGUIDED, sampler="dpm-solver++", steps=5, samples=4, antithetic=True)
    with torch.no_grad():
        whole = method.predict(images(0), KEYS, pairs, 1)
        alone = torch.cat(
            [method.predict(images(0)[n : n + 1], KEYS[n : n + 1], pairs, 1) for n in range(3)]
        )
    torch.testing.assert_close(alone, whole, atol=1e-4, rtol=0)


def test_weights_from_before_have_neither_setting():
    old = own_settings("cDPM").__dict__
    old = {key: value for key, value in old.items() if key not in ("sigma_data", "min_snr_gamma")}
    found = build("cDPM", NETWORK, old).settings
    assert (found.sigma_data, found.min_snr_gamma) == (1.0, 0.0)
