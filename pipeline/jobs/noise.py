"""The noise schedules of diffusion: what is left of the image after each step, in float64."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.storage.errors import InputError

LARGEST_LAST_SIGNAL = 0.05
"""Largest sqrt(a_T), the part of the image that may be left where sampling starts.

Training has sqrt(a_T) x_0 + sqrt(1 - a_T) eps there, sampling pure noise. Of a Gaussian of mean m
and standard deviation s, |m| <= 1, the exact reverse process then ends sqrt(a_T) m s beside the
mean, to first order: by at most 5 % of the posterior's standard deviation with this bound. DDPM's
schedule (1000 steps, beta from 1e-4 to 0.02) has 0.0064, and the cosine schedule at most 0.022.
"""

SMALLEST_SIGNAL_POWER = float(np.finfo(np.float32).tiny)
"""Smallest a_t: images are float32, and samplers divide by it."""

SMALLEST_NOISE_POWER = float(np.finfo(np.float32).eps)
"""Smallest 1 - a_t: in float32, which images are in, a smaller one may be zero."""


def betas(settings: Mapping[str, Any]) -> np.ndarray:
    """Compute the variance of the noise that each step adds.

    Parameters
    ----------
    settings : mapping
        A method's ``timesteps`` T and ``noise_schedule``: "linear" from ``beta_start`` to
        ``beta_end``, or "cosine" (Nichol and Dhariwal, "Improved denoising diffusion probabilistic
        models", ICML 2021, equation 17, no beta above 0.999).

    Returns
    -------
    ndarray
        (T,) float64.
    """
    steps = settings["timesteps"]
    if settings["noise_schedule"] == "linear":
        return np.linspace(settings["beta_start"], settings["beta_end"], steps)
    time = np.arange(steps + 1) / steps
    signal_power = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - signal_power[1:] / signal_power[:-1], 0.999)


def alphas_cumprod(settings: Mapping[str, Any]) -> np.ndarray:
    """Compute a_t, the cumulative product of 1 - beta_t; as `betas`, gives (T,) float64.

    After step t an image is sqrt(a_t) x_0 + sqrt(1 - a_t) eps.
    """
    return np.cumprod(1 - betas(settings))


def check_schedule(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse noise schedules from which no model can sample.

    Parameters
    ----------
    name : str
        Of the model.
    settings : mapping
        As for `betas`.

    Raises
    ------
    InputError
        If the noise shrinks from step to step, the first step's is lost in float32, or the last
        step leaves less of the image than float32 can tell from nothing, or more than
        `LARGEST_LAST_SIGNAL`.
    """
    if settings["noise_schedule"] == "cosine":
        return  # all of them are right
    start, end, steps = (settings[key] for key in ("beta_start", "beta_end", "timesteps"))
    if start > end:
        raise InputError(
            f"{name}: beta_start",
            f"{start} is above beta_end {end}",
            "noise must grow with the step: give beta_start the smaller value",
        )
    if start < SMALLEST_NOISE_POWER:
        raise InputError(
            f"{name}: beta_start",
            f"{start} is lost in float32: the first step would add no noise",
            f"give at least {SMALLEST_NOISE_POWER:.2g} (1.0e-4 is usual)",
        )
    _check_last_signal(name, settings, f"beta from {start:g} to {end:g} over {steps} timesteps")


def _check_last_signal(name: str, settings: Mapping[str, Any], schedule: str) -> None:
    power = float(alphas_cumprod(settings)[-1])
    if power < SMALLEST_SIGNAL_POWER:
        raise InputError(
            f"{name}: beta_end",
            f"{schedule} leaves {power**0.5:.2g} of the image at the last step, which float32 "
            "cannot tell from nothing",
            f"give it at least {SMALLEST_SIGNAL_POWER**0.5:.2g} ({_usual(settings)})",
        )
    if power**0.5 > LARGEST_LAST_SIGNAL:
        raise InputError(
            f"{name}: beta_end",
            f"{schedule} leaves {power**0.5:.2g} of the image at the last step, and sampling "
            "starts from pure noise, which training never shows",
            f"leave at most {LARGEST_LAST_SIGNAL:g} ({_usual(settings)})",
        )


def _usual(settings: Mapping[str, Any]) -> str:
    """Say what to do: betas of DDPM, as much noise in fewer or more steps, or the cosine."""
    factor = 1000 / settings["timesteps"]
    if 0.02 * factor >= 1:  # there is no such beta
        return "choose noise_schedule: cosine, or more timesteps"
    scaled = f"beta_start {1e-4 * factor:.2g} and beta_end {0.02 * factor:.2g}"
    return f"scale the betas: {scaled} do, for instance; or choose noise_schedule: cosine"
