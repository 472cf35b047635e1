"""The noise schedules of diffusion: what is left of the image after each step, in float64."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
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


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process.

    Attributes
    ----------
    timesteps : int
        T.
    noise_schedule : str
        "linear" from ``beta_start`` to ``beta_end``, or "cosine" (Nichol and Dhariwal, "Improved
        denoising diffusion probabilistic models", ICML 2021, equation 17, no beta above 0.999).
    beta_start, beta_end : float
    """

    timesteps: int
    noise_schedule: str
    beta_start: float
    beta_end: float


def betas(schedule: NoiseSchedule) -> np.ndarray:
    """Compute the variance of the noise that each of T steps adds, (T,) float64."""
    steps = schedule.timesteps
    if schedule.noise_schedule == "linear":
        return np.linspace(schedule.beta_start, schedule.beta_end, steps)
    time = np.arange(steps + 1) / steps
    signal_power = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - signal_power[1:] / signal_power[:-1], 0.999)


def alphas_cumprod(schedule: NoiseSchedule) -> np.ndarray:
    """Compute a_t, the cumulative product of 1 - beta_t; as `betas`, gives (T,) float64.

    After step t an image is sqrt(a_t) x_0 + sqrt(1 - a_t) eps.
    """
    return np.cumprod(1 - betas(schedule))


def check_schedule(where: str, settings: Mapping[str, Any]) -> None:
    """Refuse noise schedules from which no model can sample.

    Parameters
    ----------
    where : str
        Section of the model in the configuration.
    settings : mapping
        Its settings, with the fields of `NoiseSchedule`.

    Raises
    ------
    InputError
        If the noise shrinks from step to step, the first step's is lost in float32, or the last
        step leaves less of the image than float32 can tell from nothing, or more than
        `LARGEST_LAST_SIGNAL`.
    """
    schedule = NoiseSchedule(**{each.name: settings[each.name] for each in fields(NoiseSchedule)})
    if schedule.noise_schedule == "cosine":
        return  # all of them are right
    start, end, steps = schedule.beta_start, schedule.beta_end, schedule.timesteps
    if start > end:
        raise InputError(
            f"{where}.beta_start",
            f"{start} is above beta_end {end}",
            "noise must grow with the step: give beta_start the smaller value",
        )
    if start < SMALLEST_NOISE_POWER:
        raise InputError(
            f"{where}.beta_start",
            f"{start} is lost in float32: the first step would add no noise",
            f"give at least {SMALLEST_NOISE_POWER:.2g} (1.0e-4 is usual)",
        )
    _check_last_signal(where, schedule, f"beta from {start:g} to {end:g} over {steps} timesteps")


def _check_last_signal(where: str, schedule: NoiseSchedule, described: str) -> None:
    power = float(alphas_cumprod(schedule)[-1])
    if power < SMALLEST_SIGNAL_POWER:
        raise InputError(
            f"{where}.beta_end",
            f"{described} leaves {power**0.5:.2g} of the image at the last step, which float32 "
            "cannot tell from nothing",
            f"give it at least {SMALLEST_SIGNAL_POWER**0.5:.2g} ({_usual(schedule)})",
        )
    if power**0.5 > LARGEST_LAST_SIGNAL:
        raise InputError(
            f"{where}.beta_end",
            f"{described} leaves {power**0.5:.2g} of the image at the last step, and sampling "
            "starts from pure noise, which training never shows",
            f"leave at most {LARGEST_LAST_SIGNAL:g} ({_usual(schedule)})",
        )


def _usual(schedule: NoiseSchedule) -> str:
    """Say what to do: betas of DDPM, as much noise in fewer or more steps, or the cosine."""
    factor = 1000 / schedule.timesteps
    if 0.02 * factor >= 1:  # there is no such beta
        return "choose noise_schedule: cosine, or more timesteps"
    scaled = f"beta_start {1e-4 * factor:.2g} and beta_end {0.02 * factor:.2g}"
    return f"scale the betas: {scaled} do, for instance; or choose noise_schedule: cosine"
