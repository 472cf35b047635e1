"""Sizes of networks that `models.network_sizes` has no formula of, on PyTorch's meta device.

Tensors have shapes there, and no numbers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.dataset import Batch, SliceKey
from models.draws import keyed_rng
from models.methods.base import Method, trainable_parameters
from models.network_sizes import Size
from models.registry import build
from models.sections import frozen_of
from models.settings import Network
from pipeline.jobs.experiment import Model, models_of
from pipeline.storage.errors import InputError

SLICES = 2
"""Of the traced step: batch norms want more than one."""


def traced(config: Mapping[str, Any], model: Model) -> Size:
    """Count a model's weights, and what one training step keeps for its backward pass.

    What predicts is taken to hold as much as what trains, which is more than it does.

    Raises
    ------
    InputError
        If the method needs numbers to train.
    """
    try:
        with torch.device("meta"):
            method = _built(config, model)
            kept = _kept(method, config["network"]["size"], len(model.settings["conditioning"]))
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"methods.{model.method}",
            f"cannot be laid out without memory, to know how much it needs ({error})",
            "give its formula in models/network_sizes.py",
        ) from error
    counts = {part: trainable_parameters(module) for part, module in method.parts.items()}
    weights = counts.pop("network")
    return Size(weights, sum(counts.values()), kept, kept, kept)


def _built(config: Mapping[str, Any], model: Model) -> Method:
    method = build(model.method, Network(**config["network"]), model.settings)
    if frozen := frozen_of(model.method, model.settings):
        method.use_frozen(_built(config, models_of(config)[frozen]))
    return method


def _kept(method: Method, size: int, channels: int) -> int:
    """Numbers that a step keeps, of one slice: of each storage once, and not the weights."""
    modules = [*method.parts.values(), *filter(None, [method.frozen])]
    weights = {_storage(p) for module in modules for p in module.parameters()}
    kept: dict[int, Tensor] = {}  # held, so that no other storage can take their place

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            kept[_storage(tensor)] = tensor
        return tensor

    keys = [SliceKey("", 0, number) for number in range(SLICES)]
    batch = Batch(
        torch.empty(SLICES, channels, size, size), torch.empty(SLICES, 1, size, size), keys
    )
    with torch.device("cpu"):
        draws = [keyed_rng(0, *key) for key in keys]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        list(method.training_step(method.prepared(batch), draws))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // (4 * SLICES)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
