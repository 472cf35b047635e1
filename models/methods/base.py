"""What a method is: networks, a training step and a prediction."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.dataset import Batch, SliceKey
from pipeline.storage.errors import InputError


class Objective(NamedTuple):
    """What one of a method's networks is to minimise next.

    Attributes
    ----------
    part : str
        Name of the network in `Method.parts`.
    losses : dict
        Scalars; ``loss`` is minimised, the others are logged. Names are unique within a step,
        but for ``loss``.
    """

    part: str
    losses: dict[str, Tensor]


class Method(ABC):
    """One way of turning measurements into images.

    A subclass is one file: it builds ``network`` from the configuration and implements
    `training_step` and `predict`. Adding it to `models.registry.METHODS` makes it trainable,
    reconstructable and part of every table.

    Parameters
    ----------
    network : mapping
        The configuration's ``network``: the U-Net that several methods share, and ``size``.
    settings : mapping
        The configuration's ``methods.<name>``, or those of a variant; the number of channels of
        the inputs is that of its ``conditioning``.

    Attributes
    ----------
    network : nn.Module
        What predicts: the trained weights that are saved and counted.
    frozen : nn.Module or None
        A network of another method that is used but neither trained, saved nor counted.
    samples : bool
        Whether `predict` draws from a distribution, so that ``sampling`` matters.
    """

    network: nn.Module
    frozen: nn.Module | None = None
    samples: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, network: Mapping[str, Any], settings: Mapping[str, Any]): ...

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Networks that are trained, each by an optimiser of its own."""
        return {"network": self.network}

    @abstractmethod
    def training_step(self, batch: Batch, draws: Sequence[torch.Generator]) -> Iterator[Objective]:
        """Yield what to minimise on one batch; each yield is followed by a step of its part.

        Parameters
        ----------
        batch : Batch
            On the network's device.
        draws : sequence of torch.Generator
            One a slice, on the CPU: the only source of random numbers, so that those of a slice do
            not depend on the others of its batch.

        Yields
        ------
        Objective
            The caller back-propagates its loss and updates its part before asking for the next.
        """

    @abstractmethod
    def predict(
        self, inputs: Tensor, keys: Sequence[SliceKey], sampling: Mapping[str, Any], seed: int
    ) -> Tensor:
        """Reconstruct images.

        Parameters
        ----------
        inputs : Tensor
            (N, C, size, size), as in `Batch`.
        keys : sequence of SliceKey
            N keys; random draws for a slice depend on its key and the seed alone.
        sampling : mapping
            The configuration's ``sampling``.
        seed : int
            The configuration's ``seed``.

        Returns
        -------
        Tensor
            (N, K, size, size) in [0, 1] units (not clipped): K = ``samples`` of ``sampling`` if the
            method `samples`, else 1.
        """

    def use_features(self, source: "Method") -> None:
        """Take another, trained method as the source of features; most methods need none."""
        raise TypeError(f"{type(self).__name__} takes no features from {type(source).__name__}")

    def parameter_count(self) -> int:
        """Count the trainable parameters."""
        return trainable_parameters(self.network)


def check_finite(images: Tensor, keys: Sequence[SliceKey], maker: str) -> None:
    """Refuse images with pixels that are not numbers, whoever made them.

    Parameters
    ----------
    images : Tensor
        (N, ...).
    keys : sequence of SliceKey
        N keys.
    maker : str
        What gave the images.

    Raises
    ------
    InputError
        Naming the maker and the slices.
    """
    good = images.isfinite().flatten(1).all(dim=1).tolist()
    if not all(good):
        bad = [str(key) for key, is_good in zip(keys, good, strict=True) if not is_good]
        raise InputError(
            maker,
            f"gave pixels that are not finite on {'; '.join(bad)}",
            "look at the model's training log and at those slices, and train it again, with a "
            "lower learning_rate for instance",
        )


def trainable_parameters(network: nn.Module) -> int:
    """Count the parameters that training changes."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
