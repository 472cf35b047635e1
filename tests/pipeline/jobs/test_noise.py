"""Noise schedules: those that are accepted sample what they should, and the others would not."""

from dataclasses import fields

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.configurations import ROOT, SCHEMA, changed, check_refused, merged, refusal
from helpers.small_models import NETWORK, own_settings
from models.dataset import SliceKey
from models.methods.cdpm import CDPM
from models.sampling import make_sampler, sample
from models.settings import Sampling
from pipeline.jobs.config import check
from pipeline.jobs.noise import (
    LARGEST_LAST_SIGNAL,
    NoiseSchedule,
    alphas_cumprod,
    betas,
    check_schedule,
)
from pipeline.storage.errors import InputError

LINEAR = {"timesteps": 1000, "noise_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
MEAN, DEVIATION = -0.5, 0.15
KEYS = [SliceKey("subject04", 0, n) for n in range(4)]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """The configuration names its table of subjects relative to the project."""
    monkeypatch.chdir(ROOT)


def forward(**changes):
    return {**LINEAR, "prediction": "sample", **changes}


def sampling(sampler, steps, eta=0.0):
    return Sampling(sampler, steps, eta, guidance=0.0, samples=1, antithetic=False)


def denoiser(own):
    """The network's best output for pixels that are independent N(MEAN, DEVIATION^2)."""
    powers = np.cumprod(1 - betas_of_diffusers(own).double().numpy())

    def exact(x, t):
        power = powers[int(t[0])]
        signal, noise = power**0.5, max(1 - power, 0.0) ** 0.5
        gain = signal * DEVIATION**2 / (power * DEVIATION**2 + noise**2)
        image = MEAN + gain * (x.double() - signal * MEAN)
        if own["prediction"] == "sample":
            return image.float()
        eps = (x.double() - signal * image) / max(noise, 1e-30)
        return (eps if own["prediction"] == "epsilon" else signal * eps - noise * image).float()

    return exact


def typed(own):
    """Give the forward process of a method's settings."""
    return NoiseSchedule(**{each.name: own[each.name] for each in fields(NoiseSchedule)})


def betas_of_diffusers(own):
    from diffusers import DDPMScheduler

    name = {"linear": "linear", "cosine": "squaredcos_cap_v2"}[own["noise_schedule"]]
    ends = {key: own[key] for key in ("beta_start", "beta_end")}
    return DDPMScheduler(own["timesteps"], beta_schedule=name, **ends).betas


def moments(own, steps, sampler="ddim"):
    like = torch.zeros(4, 1, 64, 64)
    found = sample(
        denoiser(own), like, KEYS, typed(own), own["prediction"], sampling(sampler, steps), seed=3
    )
    return float(found.mean()), float(found.std())


# --- the schedule ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2},
        *({"noise_schedule": "cosine", "timesteps": n} for n in (2, 10, 1000, 10000)),
    ],
    ids=str,
)
def test_schedule_is_that_of_diffusers(changes):
    own = forward(**changes)
    np.testing.assert_allclose(betas(typed(own)), betas_of_diffusers(own), rtol=2e-5, atol=1e-7)
    assert betas(typed(own)).dtype == alphas_cumprod(typed(own)).dtype == np.float64
    np.testing.assert_allclose(
        alphas_cumprod(typed(own)), np.cumprod(1 - betas(typed(own))), rtol=1e-12
    )


@pytest.mark.parametrize(
    "changes", [{}, {"beta_start": 2e-7}, {"noise_schedule": "cosine"}], ids=str
)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++"])
def test_samplers_have_it_in_double_precision(sampler, changes):
    own = forward(**changes)
    scheduler, _ = make_sampler(typed(own), sampling(sampler, 10))
    expected = torch.from_numpy(alphas_cumprod(typed(own)))
    torch.testing.assert_close(scheduler.alphas_cumprod, expected, rtol=1e-12, atol=0)


# --- what is accepted works --------------------------------------------------------------------


@st.composite
def accepted(draw):
    """A forward process that the check accepts, and any sampling of few enough steps."""
    cosine = draw(st.booleans())
    timesteps = draw(st.sampled_from([2, 7, 10, 24, 100, 120, 1000, 1500, 4000, 10000]))
    steepness = draw(st.floats(2.0, 130.0))  # of -log a_T: of signals from 1 to 1e-28
    end = min(2 * steepness / timesteps, 0.999)
    own = forward(
        timesteps=timesteps,
        noise_schedule="cosine" if cosine else "linear",
        beta_start=end * 10 ** draw(st.floats(-8, 0)),
        beta_end=end,
        prediction=draw(st.sampled_from(["epsilon", "v_prediction", "sample"])),
    )
    divisors = [n for n in range(1, 61) if timesteps % n == 0]
    eta = draw(st.sampled_from([0.0, 0.5, 1.0]))
    name = draw(st.sampled_from(["ddpm", "ddim", "dpm-solver++"]))
    try:
        check_schedule("cDPM", own)
    except InputError:
        own = forward(prediction=own["prediction"])
        divisors = [1, 2, 5, 50]
    return own, sampling(name, draw(st.sampled_from(divisors)), eta)


@settings(max_examples=150)
@given(accepted(), st.sampled_from([0.0, 1.0, 1e6]))
def test_accepted_schedules_give_numbers(drawn, error):
    own, chosen = drawn
    exact = denoiser(own)

    def network(x, t):  # which may be wrong by any amount
        return exact(x, t) + error * x

    found = sample(
        network, torch.zeros(2, 1, 8, 8), KEYS[:2], typed(own), own["prediction"], chosen, seed=1
    )
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("timesteps", "steps", "end"),
    [
        *((500, 2, None), (1000, 5, None), (2000, 8, None), (4000, 2, None), (10000, 25, None)),
        *((120, 3, 0.5), (250, 2, 0.24), (4000, 2, 0.02), (100, 2, 0.8), (4000, 2, 0.03)),
    ],
)
def test_noise_of_a_full_eta_is_never_below_zero(timesteps, steps, end):
    """What is left of a step's noise, 1 - a_{t-1} - sigma^2, may be zero but for rounding."""
    own = forward(timesteps=timesteps, noise_schedule="cosine")
    if end:
        own = forward(timesteps=timesteps, beta_end=end)
    check_schedule("cDPM", own)
    found = sample(
        denoiser(own),
        torch.zeros(2, 1, 8, 8),
        KEYS[:2],
        typed(own),
        own["prediction"],
        sampling("ddim", steps, 1.0),
        seed=1,
    )
    assert found.isfinite().all()


GOOD = [
    {},
    {"timesteps": 500, "beta_start": 2e-4, "beta_end": 0.04},
    {"timesteps": 250, "beta_start": 4e-4, "beta_end": 0.08},
    {"timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2},
    {"timesteps": 700},
    {"timesteps": 2000},
    *({"timesteps": n, "noise_schedule": "cosine"} for n in (50, 100, 1000, 2000)),
]


@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_accepted_schedules_sample_the_distribution(changes):
    own = forward(**changes)
    check_schedule("cDPM", own)
    for sampler in ("ddpm", "ddim", "dpm-solver++"):
        mean, deviation = moments(own, own["timesteps"], sampler)
        assert mean == pytest.approx(MEAN, abs=LARGEST_LAST_SIGNAL * DEVIATION)
    # Of second order: the others' error of few steps is larger than that of where they start.
    assert deviation == pytest.approx(DEVIATION, rel=0.03)


def test_cosine_schedules_of_any_number_of_timesteps_are_accepted():
    for timesteps in range(2, 10001, 7):
        own = forward(timesteps=timesteps, noise_schedule="cosine", beta_start=0.9, beta_end=0.1)
        check_schedule("cDPM", own)


# --- what is refused would not -----------------------------------------------------------------

TOO_MUCH = [
    {"timesteps": 10},
    {"timesteps": 100},
    {"timesteps": 250},
    {"timesteps": 400},
    {"beta_end": 1e-4},
    {"timesteps": 10000, "beta_start": 1e-6, "beta_end": 1e-4},
]


@pytest.mark.parametrize("changes", TOO_MUCH, ids=str)
def test_schedules_that_leave_much_of_the_image_are_refused(changes):
    own = forward(**changes)
    with pytest.raises(InputError, match="starts from pure noise") as caught:
        check_schedule("LegoPET-x", own)
    assert caught.value.where == "LegoPET-x.beta_end"
    assert f"over {own['timesteps']} timesteps" in caught.value.problem
    assert "at most 0.05" in caught.value.remedy
    assert "noise_schedule: cosine" in caught.value.remedy
    mean, deviation = moments(own, min(own["timesteps"], 1000))
    off = abs(mean - MEAN) / DEVIATION
    assert off > LARGEST_LAST_SIGNAL or abs(deviation / DEVIATION - 1) > 0.05


@pytest.mark.parametrize("timesteps", [21, 50, 100, 400, 3000, 10000])
def test_the_scaled_betas_of_the_remedy_are_accepted(timesteps):
    with pytest.raises(InputError) as caught:
        check_schedule(
            "cDPM",
            forward(timesteps=timesteps, beta_start=1e-3, beta_end=1e-3 + 1e-9)
            if timesteps < 3000
            else forward(timesteps=timesteps, beta_end=0.2),
        )
    words = caught.value.remedy.replace(",", " ").split()
    start, end = (float(words[words.index(key) + 1]) for key in ("beta_start", "beta_end"))
    check_schedule("cDPM", forward(timesteps=timesteps, beta_start=start, beta_end=end))


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        ({"beta_end": 0.2}, "beta_end", "0.2 over 1000 timesteps leaves 4.6e-24 of the image"),
        ({"timesteps": 10000}, "beta_end", "0.02 over 10000 timesteps leaves 1.1e-22"),
        ({"beta_end": 0.9}, "beta_end", "float32 cannot tell from nothing"),
        ({"timesteps": 5000, "beta_end": 0.5}, "beta_end", "leaves 0 of the image"),
        ({"beta_start": 1e-8}, "beta_start", "1e-08 is lost in float32"),
        ({"beta_start": 1e-300}, "beta_start", "1e-300 is lost in float32"),
        ({"beta_start": 0.03}, "beta_start", "0.03 is above beta_end 0.02"),
    ],
    ids=str,
)
def test_schedules_without_arithmetic_are_refused(changes, key, problem):
    with pytest.raises(InputError) as caught:
        check_schedule("cDPM", forward(**changes))
    assert caught.value.where == f"cDPM.{key}"
    assert problem in caught.value.problem


# --- the configuration -------------------------------------------------------------------------


def test_configurations_with_such_schedules_are_refused():
    check_refused(
        {"methods__cDPM__beta_end": 0.2}, "methods.cDPM.beta_end", "4.6e-24", "scale the betas"
    )
    error = refusal(
        **{
            "variants__LegoPET-x": {"method": "LegoPET", "timesteps": 100},
            "sampling__steps": 50,
            "evaluation__sweeps__samplers__sampling": [{"steps": 10}],
        }
    )
    assert (error.where, "0.6 of the image" in error.problem) == (
        "variants.LegoPET-x.beta_end",
        True,
    )
    assert "beta_start 0.001 and beta_end 0.2" in error.remedy
    check(changed(**{"variants__C": {"method": "cDPM", "noise_schedule": "cosine"}}), SCHEMA)


@pytest.mark.parametrize("overlays", [["tiny"], ["tiny", "slurm"]], ids="+".join)
def test_configurations_of_the_tests_are_accepted(overlays):
    config = changed()
    for name in overlays:
        config = merged(config, yaml.safe_load((ROOT / "tests" / f"{name}.yaml").read_text()))
    config["subjects"] = changed()["subjects"]  # tests write their own
    check(config, SCHEMA)


def test_training_sees_the_same_schedule():
    own = own_settings("cDPM", beta_end=0.03)
    schedule = CDPM(NETWORK, own).schedule
    images, noise = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    t = torch.tensor([0, 500, 999])
    expected = np.sqrt(alphas_cumprod(own)[t])
    np.testing.assert_allclose(
        schedule.add_noise(images, noise, t)[:, 0, 0, 0], expected, rtol=1e-6
    )
