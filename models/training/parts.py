"""A method's networks on the devices that train them, each with its optimiser."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from models import checkpoints
from models.checkpoints import Metadata
from models.devices import share_statistics
from models.methods.base import Method, MethodSettings
from models.settings import Training
from models.training.optim import Weights, averaged, make_optimiser

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Part:
    """One trained network: as it was built, as `Fabric` runs it, its weights, their optimiser."""

    plain: nn.Module
    wrapped: nn.Module
    weights: Weights
    optimiser: torch.optim.Optimizer


class Parts:
    """All networks that a training changes; those of the method are wrapped in place.

    Parameters
    ----------
    method : Method
    own : MethodSettings
        Its settings: the optimiser's.
    training : Training
    fabric : Fabric

    Attributes
    ----------
    averaged : AveragedModel or None
        Moving average of the network that predicts.
    """

    def __init__(self, method: Method, own: MethodSettings, training: Training, fabric: "Fabric"):
        self._parts: dict[str, Part] = {}
        recomputed: Any = training.activation_checkpointing
        for name, module in method.parts.items():
            plain = share_statistics(module, fabric)
            for submodule in plain.modules():
                if hasattr(submodule, "checkpointing"):
                    submodule.checkpointing = recomputed
            compiled: Any = torch.compile(plain) if training.compile else plain
            wrapped = fabric.setup_module(compiled)
            setattr(method, name, wrapped)
            weights = Weights(plain)  # on their device from here on
            optimiser: Any = fabric.setup_optimizers(make_optimiser(weights, own))
            self._parts[name] = Part(plain, wrapped, weights, optimiser)
        decay = training.ema_decay
        self.averaged = averaged(self.predicting, decay) if decay else None
        if method.frozen is not None:
            fabric.to_device(method.frozen)

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    @property
    def predicting(self) -> nn.Module:
        """The network that predicts, as it was built."""
        return self._parts["network"].plain

    def average(self) -> None:
        """Let the moving average, if there is one, follow the weights."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.predicting)

    def not_finite(self) -> list[str]:
        """Name the networks with weights that are not finite."""
        return [
            name
            for name, part in self._parts.items()
            if not all(p.isfinite().all() for p in part.plain.parameters())
        ]

    def save_weights(self, path: Path, metadata: Metadata) -> None:
        """Write the weights as they are now."""
        average = None if self.averaged is None else self.averaged.module
        checkpoints.save(path, self.predicting, average, metadata)

    def state(self) -> dict[str, Any]:
        """Give all that a run needs of them to go on."""
        return {
            "parts": {
                name: {"weights": p.plain.state_dict(), "optimiser": p.optimiser.state_dict()}
                for name, p in self._parts.items()
            },
            "averaged": {} if self.averaged is None else self.averaged.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""
        for name, part in self._parts.items():
            part.plain.load_state_dict(state["parts"][name]["weights"])
            part.optimiser.load_state_dict(state["parts"][name]["optimiser"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
