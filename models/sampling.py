"""The reverse process of diffusion: samplers, and one sample's way from noise to image."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.dataset import SliceKey
from models.draws import keyed_rng, normal_like
from models.methods.base import Correct, check_finite
from models.settings import Sampling
from pipeline.jobs.noise import NoiseSchedule, alphas_cumprod, betas
from pipeline.storage.errors import InputError

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t, (N, 1, H, W); t, (N,)) -> the network's output, (N, 1, H, W)."""


def with_schedule(kind: type, schedule: NoiseSchedule, **options: Any) -> Any:
    """Make a scheduler of ``diffusers`` of a forward process, its products in float64.

    In its own float32, small differences of large products would round to zero or below.
    """
    scheduler = kind(
        num_train_timesteps=schedule.timesteps,
        trained_betas=betas(schedule),
        # The first step starts at t = T - 1, where x_t is indeed almost pure noise.
        timestep_spacing="trailing",
        **options,
    )
    scheduler.alphas_cumprod = torch.from_numpy(alphas_cumprod(schedule))
    return scheduler


def make_sampler(schedule: NoiseSchedule, sampling: Sampling) -> tuple[Any, dict[str, Any]]:
    """Prepare the reverse process: DDPM, DDIM or the second-order DPM-Solver++.

    Returns
    -------
    scheduler, options
        The scheduler with its steps set, for estimates of x_0; further arguments of its ``step``.

    Raises
    ------
    InputError
        If the steps do not divide the T of training (``diffusers`` would silently misplace them).
    """
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    steps, timesteps = sampling.steps, schedule.timesteps
    if timesteps % steps:
        raise InputError(
            "sampling.steps", f"{steps} does not divide {timesteps} timesteps", "choose a divisor"
        )
    # The estimate of x_0 is clipped before the scheduler sees it, see `sample`.
    of_estimates = partial(with_schedule, schedule=schedule, prediction_type="sample")
    scheduler: Any
    options: dict[str, Any] = {}
    if sampling.sampler == "ddpm":
        scheduler = of_estimates(DDPMScheduler, clip_sample=False)
    elif sampling.sampler == "ddim":
        scheduler = of_estimates(DDIMScheduler, clip_sample=False)
        # With an eta of 1, rounding could leave less than no noise for the rest of a step.
        options = {"eta": min(sampling.eta, 1 - 1e-12)}
    else:
        scheduler = of_estimates(DPMSolverMultistepScheduler, algorithm_type="dpmsolver++")
    scheduler.set_timesteps(steps)
    return scheduler, options


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    like: Tensor,
    keys: Sequence[SliceKey],
    schedule: NoiseSchedule,
    prediction: str,
    sampling: Sampling,
    seed: int,
    number: int = 0,
    largest: float = 1.0,
    correct: Correct | None = None,
) -> Tensor:
    """Run the reverse process from pure noise.

    All noise of a sample, that of every step included, is drawn by an rng of its own, keyed by
    (seed, subject, rotation, slice, number), and by the measurement's draw if the slice has
    several: it does not depend on the batch. Of ``antithetic`` samples, which draw their start
    alone, the second of a pair has the negative of the first's (Jia et al., "Antithetic noise in
    diffusion models", ICLR 2026): what they err by is nearly opposite, and their mean nearly
    that of all samples that could be drawn. At every step the estimate of x_0 is kept inside the
    data's range.

    Parameters
    ----------
    denoiser : callable
        See `Denoiser`.
    like : Tensor
        (N, 1, H, W); gives shape, dtype and device.
    keys : sequence of SliceKey
        N keys.
    schedule : NoiseSchedule
        The method's forward process.
    prediction : str
        What the denoiser gives, see `estimate_image`.
    sampling : Sampling
    seed : int
        The configuration's ``seed``.
    number : int
        Which of the slices' samples.
    largest : float
        End of the data's range, [-largest, largest].
    correct : callable or None
        See `models.methods.base.Correct`; here of estimates of x_0, which may leave the range.

    Returns
    -------
    Tensor
        (N, 1, H, W), samples of x_0.

    Raises
    ------
    InputError
        If the denoiser or the sampler gives pixels that are not finite: names sampler, step, slice.
    """
    scheduler, options = make_sampler(schedule, sampling)
    paired, sign = (number // 2, (-1) ** number) if sampling.antithetic else (number, 1)
    draws = [keyed_rng(seed, "sample", *key.words, paired) for key in keys]
    if sampling.sampler != "dpm-solver++":  # which draws nothing but its start
        options["generator"] = draws
    x = sign * normal_like(like, draws)
    for step, t in enumerate(scheduler.timesteps.tolist(), start=1):
        place = f"{sampling.sampler}, step {step} of {sampling.steps} (t = {t})"
        output = denoiser(x, torch.full((len(x),), t, device=x.device)).to(x.dtype)
        check_finite(output, keys, f"network at {place}")
        estimate = estimate_image(output, x, scheduler.alphas_cumprod[t], prediction)
        estimate = estimate.clamp(-largest, largest)
        if correct is not None:
            estimate = correct(estimate, (step - 1) / sampling.steps)
        x = scheduler.step(estimate, t, x, **options).prev_sample
        check_finite(x, keys, place)
    return x


def estimate_image(output: Tensor, x: Tensor, alpha: Tensor, prediction: str) -> Tensor:
    """Solve x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps for x_0, given eps, v or x_0 itself.

    Parameters
    ----------
    output : Tensor
        The network's, of the kind that ``prediction`` names.
    x : Tensor
        x_t.
    alpha : Tensor
        a_t, scalar.
    """
    if prediction == "sample":
        return output
    signal, noise = float(alpha.sqrt()), float((1 - alpha).sqrt())
    if prediction == "epsilon":
        return (x - noise * output) / signal
    return signal * x - noise * output
