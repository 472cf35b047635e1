"""What a method is: a network, a training step and a prediction."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.dataset import Batch, SliceKey
from models.unet import UNet, trainable_parameters


class Method(ABC):
    """One way of turning sinograms into images.

    A subclass is one file: it builds ``network`` from the configuration and implements
    `training_step` and `predict`. Adding it to ``models.METHODS`` makes it trainable,
    reconstructable and part of every table.

    Parameters
    ----------
    network : mapping
        The configuration's ``network``.
    settings : mapping
        The configuration's ``methods.<name>``.

    Attributes
    ----------
    network : nn.Module
        All that is trained and saved.
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

    @abstractmethod
    def training_step(self, batch: Batch, draw: torch.Generator) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Parameters
        ----------
        batch : Batch
            On the network's device.
        draw : torch.Generator
            On the CPU; the only source of random numbers.

        Returns
        -------
        dict
            Scalars; ``loss`` is minimised, the others are logged.
        """

    @abstractmethod
    def predict(
        self, sinogram: Tensor, keys: Sequence[SliceKey], sampling: Mapping[str, Any], seed: int
    ) -> Tensor:
        """Reconstruct images.

        Parameters
        ----------
        sinogram : Tensor
            (N, 1, size, size), normalised.
        keys : sequence of SliceKey
            N keys; random draws for a slice depend on its key and the seed alone.
        sampling : mapping
            The configuration's ``sampling``.
        seed : int
            The configuration's ``seed``.

        Returns
        -------
        Tensor
            (N, 1, size, size) in [0, 1] units (not clipped).
        """

    def use_features(self, source: "Method") -> None:
        """Take another, trained method as the source of features; most methods need none."""
        raise TypeError(f"{type(self).__name__} takes no features from {type(source).__name__}")

    def parameter_count(self) -> int:
        """Count the trainable parameters."""
        return trainable_parameters(self.network)


def make_unet(network: Mapping[str, Any], *, in_channels: int, time_conditioned: bool) -> UNet:
    """Build the configuration's U-Net with one output channel."""
    return UNet(
        width=network["width"],
        multipliers=network["multipliers"],
        in_channels=in_channels,
        out_channels=1,
        time_conditioned=time_conditioned,
        heads=network["heads"],
        head_dim=network["head_dim"],
    )
