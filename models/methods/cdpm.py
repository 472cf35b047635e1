"""cDPM, conditional denoising diffusion: forward process, training objective, guided sampling.

Images in [-1, 1], over `CDPMSettings.sigma_data`, are x_0 here. With a_t the cumulative product of
1 - beta_t, the forward process is x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps, eps ~ N(0, 1),
t = 0 .. T - 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from models.dataset import Batch, SliceKey, from_signed, to_signed
from models.draws import normal_like
from models.methods.base import Correct, Method, MethodSettings, Objective
from models.networks.unet import Features, make_unet
from models.sampling import Denoiser, sample, with_schedule
from models.settings import Network, Sampling
from pipeline.jobs.noise import NoiseSchedule

# `diffusers` is imported where it is used: that takes seconds, which only training and sampling
# should pay for. Its schedulers carry no types.


@dataclass(frozen=True)
class CDPMSettings(NoiseSchedule, MethodSettings):
    """Of cDPM: the forward process, what is predicted, and how often without a condition.

    Attributes
    ----------
    prediction : str
        "epsilon" (the paper's), "v_prediction" or "sample" (x_0).
    condition_dropout : float
        Probability p_dp that a training slice's conditions are replaced by zeros.
    sigma_data : float
        What images in [-1, 1], or ``residual`` ones' differences, are divided by. As the standard
        deviation of these it gives x_0 a variance of 1, for which the noise schedule is meant
        (sigma_data of Karras et al., NeurIPS 2022, appendix B.6); 1 leaves them as they are.
    min_snr_gamma : float
        The squared error of x_0 is weighted by min(SNR, gamma), SNR = a_t / (1 - a_t), whatever is
        predicted (Hang et al., ICCV 2023, equation 7); 0 for the plain squared error of that.
    """

    training_alone = MethodSettings.training_alone | {"condition_dropout", "min_snr_gamma"}

    prediction: str
    condition_dropout: float
    sigma_data: float = field(default=1.0, kw_only=True)  # weights from before it have none
    min_snr_gamma: float = field(default=0.0, kw_only=True)  # likewise


class Condition(NamedTuple):
    """The paper's C: the inputs (its s), (N, C, H, W), and PnPNet's features (for LegoPET)."""

    inputs: Tensor
    features: Features | None

    def times(self, keep: Tensor) -> "Condition":
        """Multiply slice n by ``keep[n]``; 0 turns its condition into zeros of the same shape."""
        keep = keep[:, None, None, None]
        features = None if self.features is None else self.features.map(lambda f: f * keep)
        return Condition(self.inputs * keep, features)

    def followed_by_zeros(self) -> "Condition":
        """(N, ...) -> (2 N, ...): the condition, then the absence of any."""
        features = None if self.features is None else self.features.map(_followed_by_zeros)
        return Condition(_followed_by_zeros(self.inputs), features)


def _followed_by_zeros(x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros_like(x)])


def _of_diffused(correct: Correct, sigma_data: float) -> Correct:
    """Give the same of x_0, images in [-1, 1] over sigma_data."""

    def scaled(x: Tensor, done: float) -> Tensor:
        return to_signed(correct(from_signed(x * sigma_data), done)) / sigma_data

    return scaled


class CDPM(Method):
    """Conditional diffusion: a U-Net that sees [x_t, s] and t, and predicts eps, v or x_0.

    `condition` is what a subclass changes.
    """

    Settings: ClassVar[type[MethodSettings]] = CDPMSettings
    settings: CDPMSettings
    samples = True
    middle = 0.5  # 0 of [-1, 1]

    def __init__(self, network: Network, settings: CDPMSettings):
        self.settings = settings
        channels = 1 + len(settings.conditioning)
        self.network = make_unet(network, in_channels=channels, time_conditioned=True)

    def condition(self, inputs: Tensor) -> Condition:
        """Gather all that the denoiser is told about a slice, once per slice."""
        return Condition(inputs, None)

    @cached_property
    def schedule(self) -> Any:
        """The forward process, a DDPMScheduler."""
        from diffusers import DDPMScheduler

        return with_schedule(DDPMScheduler, self.settings)

    def training_step(self, batch: Batch, draws: Sequence[torch.Generator]) -> Iterator[Objective]:
        """Yield ``loss``, E w_t |target - network(x_t, t, C)|^2 at random t, one eps a slice.

        The target is eps (the paper's), v = sqrt(a_t) eps - sqrt(1 - a_t) x_0, or x_0; w_t is 1, or
        that of ``min_snr_gamma``. For
        classifier-free guidance C is replaced by zeros with probability ``condition_dropout``,
        independently for each slice.
        """
        image = to_signed(batch.image) / self.settings.sigma_data
        steps, dropout = self.settings.timesteps, self.settings.condition_dropout
        t = torch.cat([torch.randint(steps, (1,), generator=draw) for draw in draws])
        t = t.to(image.device)
        keep = torch.cat([torch.rand(1, generator=draw) >= dropout for draw in draws])
        noise = normal_like(image, draws)
        condition = self.condition(batch.inputs).times(keep.to(image))
        output = self._denoise(self.schedule.add_noise(image, noise, t), t, condition)
        error = (output.float() - self._target(image, noise, t)).square()
        yield Objective("network", {"loss": (self._weights(t) * error).mean()})

    def predict(
        self,
        inputs: Tensor,
        keys: Sequence[SliceKey],
        sampling: Sampling,
        seed: int,
        correct: Correct | None = None,
    ) -> Tensor:
        """Draw samples, (N, K, size, size); see `sample`. The condition is computed once."""
        denoiser = self._guided(self.condition(inputs), sampling.guidance)
        own, like = self.settings, inputs[:, :1]
        scaled = None if correct is None else _of_diffused(correct, own.sigma_data)
        samples = [
            sample(
                denoiser,
                like,
                keys,
                own,
                own.prediction,
                sampling,
                seed,
                number,
                1 / own.sigma_data,
                scaled,
            )
            for number in range(sampling.samples)
        ]
        return from_signed(torch.cat(samples, dim=1) * own.sigma_data)

    def _denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network(torch.cat([x, condition.inputs], dim=1), t, condition.features)

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
        prediction = self.settings.prediction
        if prediction == "epsilon":
            return noise
        if prediction == "sample":
            return image
        return self.schedule.get_velocity(image, noise, t)

    def _weights(self, t: Tensor) -> Tensor:
        """(N, 1, 1, 1): of the squared error of what is predicted, at each slice's step.

        At given x_t, errors of x_0 are those of eps over sqrt(SNR), of v over sqrt(SNR + 1).
        """
        gamma, prediction = self.settings.min_snr_gamma, self.settings.prediction
        if gamma == 0:
            return torch.ones(len(t), 1, 1, 1, device=t.device)
        signal = self.schedule.alphas_cumprod.to(t.device)[t]
        ratio = signal / (1 - signal)
        of_image = {"epsilon": ratio, "v_prediction": ratio + 1, "sample": torch.ones_like(ratio)}
        weights = ratio.clamp(max=gamma) / of_image[prediction]
        return weights.float()[:, None, None, None]
