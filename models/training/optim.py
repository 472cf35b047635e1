"""Optimisers, the learning rate's schedule, gradient norms and averaged weights."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.methods.base import MethodSettings

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def make_optimiser(module: nn.Module, settings: MethodSettings) -> torch.optim.Optimizer:
    """Make the optimiser that a method's settings ask for, in its fused form."""
    return OPTIMISERS[settings.optimiser](
        module.parameters(),
        lr=settings.learning_rate,
        betas=tuple(settings.betas),
        weight_decay=settings.weight_decay,
        fused=True,
    )  # type: ignore[call-arg]


def learning_rate(settings: MethodSettings, step: int, total: int) -> float:
    """Give the learning rate of step 0 .. total - 1.

    It grows linearly over the first ``warmup_steps`` steps; after that the schedule "constant"
    keeps it, and "cosine" lets it fall to zero at ``total``.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def gradient_norm(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Compute the Euclidean norm of all gradients together; shorten them to ``largest`` if > 0.

    Returns
    -------
    Tensor
        Scalar, the norm before.
    """
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
    if largest > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """Copy a network to hold the exponential moving average of its weights and buffers.

    After step k, average = decay x average + (1 - decay) x weights.
    """
    average = get_ema_multi_avg_fn(decay)
    return AveragedModel(module, multi_avg_fn=average, use_buffers=True).requires_grad_(False)
