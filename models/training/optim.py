"""Optimisers, the learning rate's schedule, gradient norms and averaged weights."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.methods.base import MethodSettings

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class Weights:
    """A network's weights as its optimiser sees them: in the order in which they lie in memory.

    PyTorch's fused optimisers on CPUs copy gradients of channels-last weights first, in vain, and
    take wrong ones where a gradient's layout is not its weight's.

    Parameters
    ----------
    module : Module
        On its device; from here on its weights may be changed in place alone.

    Attributes
    ----------
    rows : list of Parameter
        A view of each weight, (elements,).
    """

    def __init__(self, module: nn.Module):
        self._parameters = list(module.parameters())
        self.rows = [nn.Parameter(_row(each.detach(), each)) for each in self._parameters]

    def forget_gradients(self) -> None:
        """Let the next backward pass begin at no gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def take_gradients(self) -> None:
        """Let the rows have the gradients that the weights have now."""
        for parameter, row in zip(self._parameters, self.rows, strict=True):
            gradient = parameter.grad
            row.grad = None if gradient is None else _row(gradient, parameter)


def _row(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """View a tensor without gaps as it lies in memory, if that is as the parameter lies."""
    if tensor.stride() != parameter.stride():  # or they differ along axes of length 1
        tensor = torch.empty_like(parameter).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def make_optimiser(weights: Weights, settings: MethodSettings) -> torch.optim.Optimizer:
    """Make the optimiser that a method's settings ask for, in its fused form."""
    return OPTIMISERS[settings.optimiser](
        weights.rows,
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


def gradient_norm(weights: Weights, largest: float) -> float:
    """Compute the Euclidean norm of all gradients together; shorten them to ``largest`` if > 0.

    Returns
    -------
    float
        The norm before.
    """
    norm = torch.nn.utils.get_total_norm(r.grad for r in weights.rows if r.grad is not None)
    if 0 < largest < norm:
        torch.nn.utils.clip_grads_with_norm_(weights.rows, largest, norm)
    return float(norm)


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """Copy a network to hold the exponential moving average of its weights and buffers.

    After step k, average = decay x average + (1 - decay) x weights.
    """
    average = get_ema_multi_avg_fn(decay)
    return AveragedModel(module, multi_avg_fn=average, use_buffers=True).requires_grad_(False)
