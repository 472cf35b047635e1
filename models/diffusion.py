"""Conditional denoising diffusion: forward process, training objective, guided sampling.

Images are in [-1, 1] here. With a_t the cumulative product of 1 - beta_t, the forward process is
x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps, eps ~ N(0, 1), t = 0 .. T - 1.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.dataset import Batch, SliceKey, from_signed, to_signed
from models.method import Method, make_unet
from models.seeds import generator, normal_like
from models.unet import Features
from pipeline.errors import InputError

# `diffusers` is imported where it is used: that takes seconds, which only training and sampling
# should pay for. Its schedulers carry no types.

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t, (N, 1, H, W); t, (N,)) -> the network's output, (N, 1, H, W)."""


class Condition(NamedTuple):
    """The paper's C: the sinogram s, (N, 1, H, W), and PnPNet's features (for LegoPET)."""

    sinogram: Tensor
    features: Features | None

    def times(self, keep: Tensor) -> "Condition":
        """Multiply slice n by ``keep[n]``; 0 turns its condition into zeros of the same shape."""
        keep = keep[:, None, None, None]
        features = None if self.features is None else self.features.map(lambda f: f * keep)
        return Condition(self.sinogram * keep, features)

    def followed_by_zeros(self) -> "Condition":
        """(N, ...) -> (2 N, ...): the condition, then the absence of any."""
        features = None if self.features is None else self.features.map(_followed_by_zeros)
        return Condition(_followed_by_zeros(self.sinogram), features)


def _followed_by_zeros(x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros_like(x)])


class Diffusion(Method):
    """A U-Net that sees [x_t, s] and t, and predicts eps, v or x_0.

    By itself this is a sinogram-conditioned diffusion model (cDPM); `condition` is what a subclass
    changes.
    """

    samples = True

    def __init__(self, network: Mapping[str, Any], settings: Mapping[str, Any]):
        self.settings = settings
        self.network = make_unet(network, in_channels=2, time_conditioned=True)

    def condition(self, sinogram: Tensor) -> Condition:
        """Gather all that the denoiser is told about a slice, once per slice."""
        return Condition(sinogram, None)

    @cached_property
    def schedule(self) -> Any:
        """The forward process, a DDPMScheduler."""
        from diffusers import DDPMScheduler

        return DDPMScheduler(**schedule_options(self.settings))

    def training_step(self, batch: Batch, draw: torch.Generator) -> dict[str, Tensor]:
        """Compute E |target - network(x_t, t, C)|^2 at random t, for one draw of eps per slice.

        The target is eps (the paper's), v = sqrt(a_t) eps - sqrt(1 - a_t) x_0, or x_0. For
        classifier-free guidance C is replaced by zeros with probability ``condition_dropout``,
        independently for each slice.
        """
        image = to_signed(batch.image)
        n = len(image)
        t = torch.randint(self.settings["timesteps"], (n,), generator=draw).to(image.device)
        noise = normal_like(image, draw)
        keep = torch.rand(n, generator=draw) >= self.settings["condition_dropout"]
        condition = self.condition(batch.sinogram).times(keep.to(image))
        output = self._denoise(self.schedule.add_noise(image, noise, t), t, condition)
        return {"loss": F.mse_loss(output.float(), self._target(image, noise, t))}

    def predict(
        self, sinogram: Tensor, keys: Sequence[SliceKey], sampling: Mapping[str, Any], seed: int
    ) -> Tensor:
        """Draw one sample a slice; see `sample`."""
        denoiser = self._guided(self.condition(sinogram), sampling["guidance"])
        return from_signed(sample(denoiser, sinogram, keys, self.settings, sampling, seed))

    def _denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network(torch.cat([x, condition.sinogram], dim=1), t, condition.features)

    def _guided(self, condition: Condition, guidance: float) -> Denoiser:
        """Classifier-free guidance: eps = (1 + l2) eps(x_t, t, C) - l2 eps(x_t, t, 0).

        The weights add up to 1 and v and x_0 are affine in eps at given x_t, so the same line
        serves all three predictions. Both passes share a batch; without guidance there is one.
        """
        if guidance == 0:
            return lambda x, t: self._denoise(x, t, condition)
        both = condition.followed_by_zeros()

        def denoiser(x: Tensor, t: Tensor) -> Tensor:
            output = self._denoise(torch.cat([x, x]), torch.cat([t, t]), both)
            conditional, unconditional = output.chunk(2)
            return (1 + guidance) * conditional - guidance * unconditional

        return denoiser

    def _target(self, image: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        prediction = self.settings["prediction"]
        if prediction == "epsilon":
            return noise
        if prediction == "sample":
            return image
        return self.schedule.get_velocity(image, noise, t)


def schedule_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a method's settings for the schedulers of ``diffusers``."""
    return {
        "num_train_timesteps": settings["timesteps"],
        "beta_schedule": "linear",
        "beta_start": settings["beta_start"],
        "beta_end": settings["beta_end"],
        "prediction_type": settings["prediction"],
        # Estimates of x_0 are kept inside the data's range at every step.
        "clip_sample": True,
        "clip_sample_range": 1.0,
        # The first step starts at t = T - 1, where x_t is indeed almost pure noise.
        "timestep_spacing": "trailing",
    }


def make_sampler(
    settings: Mapping[str, Any], sampling: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Prepare the reverse process.

    Returns
    -------
    scheduler, options
        The scheduler with its steps set, and further arguments of its ``step``.

    Raises
    ------
    InputError
        If the steps do not divide the T of training (``diffusers`` would silently misplace them).
    """
    from diffusers import DDIMScheduler, DDPMScheduler

    steps, timesteps = sampling["steps"], settings["timesteps"]
    if timesteps % steps:
        raise InputError(
            "sampling.steps", f"{steps} does not divide {timesteps} timesteps", "choose a divisor"
        )
    scheduler: Any
    options: dict[str, Any]
    if sampling["sampler"] == "ddpm":
        scheduler, options = DDPMScheduler(**schedule_options(settings)), {}
    else:
        scheduler = DDIMScheduler(**schedule_options(settings))
        # eps is derived again from the clipped x_0, so that both always make up x_t.
        options = {"eta": sampling["eta"], "use_clipped_model_output": True}
    scheduler.set_timesteps(steps)
    return scheduler, options


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    like: Tensor,
    keys: Sequence[SliceKey],
    settings: Mapping[str, Any],
    sampling: Mapping[str, Any],
    seed: int,
) -> Tensor:
    """Run the reverse process from pure noise.

    All noise of a slice, that of every step included, comes from a generator of its own, keyed by
    (seed, subject, rotation, slice): its sample does not depend on the batch it is in.

    Parameters
    ----------
    denoiser : callable
        See `Denoiser`.
    like : Tensor
        (N, 1, H, W); gives shape, dtype and device.
    keys : sequence of SliceKey
        N keys.
    settings, sampling : mapping
        The method's settings (forward process, prediction) and ``sampling``.
    seed : int
        The configuration's ``seed``.

    Returns
    -------
    Tensor
        (N, 1, H, W), samples of x_0 in [-1, 1].
    """
    scheduler, options = make_sampler(settings, sampling)
    draws = [generator(seed, "sample", *key) for key in keys]
    x = torch.cat([normal_like(one[None], draw) for one, draw in zip(like, draws, strict=True)])
    for t in scheduler.timesteps.tolist():
        output = denoiser(x, torch.full((len(x),), t, device=x.device))
        x = scheduler.step(output, t, x, generator=draws, **options).prev_sample
    return x
