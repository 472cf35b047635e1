"""What a method is: networks, a training step and a prediction."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.channels import CHANNELS, IMAGES
from models.dataset import Batch, SliceKey
from models.settings import Network, Sampling
from pipeline.storage.errors import InputError


@dataclass(frozen=True)
class MethodSettings:
    """Settings that every method has, in the configuration's ``methods.<name>``.

    A method with more inherits from it, in its own file.

    Attributes
    ----------
    conditioning : sequence of str
        What networks see of the measurement: names of `models.channels.CHANNELS`.
    epochs : int
        Times that every training slice is seen.
    keep_every_epochs : int
        Epochs between two kept checkpoints; 0 keeps the last alone.
    batch_size : int
        Slices of a training step.
    optimiser : str
        "adam" or "adamw".
    learning_rate : float
        The largest of its schedule.
    schedule : str
        After the warm-up "constant", or "cosine" for a fall to 0.
    warmup_steps : int
        Over which the learning rate grows linearly.
    betas : sequence of float
        Adam's decay rates of the first and second moment.
    weight_decay : float
    residual : bool
        Whether networks give the difference to the first image among the ``conditioning``.
    training_alone : frozenset of str
        Fields that do not decide, with the weights, what a method predicts.
    """

    training_alone: ClassVar[frozenset[str]] = frozenset(
        ("epochs", "keep_every_epochs", "batch_size", "optimiser", "learning_rate", "schedule")
    ) | {"warmup_steps", "betas", "weight_decay"}

    conditioning: Sequence[str]
    epochs: int
    keep_every_epochs: int
    batch_size: int
    optimiser: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    betas: Sequence[float]
    weight_decay: float
    residual: bool = field(default=False, kw_only=True)  # weights from before it have none


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
    network : Network
    settings : MethodSettings
        Of the class `Settings`, from the configuration's ``methods.<name>`` or a variant; the
        number of channels of the inputs is that of its ``conditioning``.

    Attributes
    ----------
    Settings : type
        `MethodSettings`, or what inherits from it: fields as in the method's schema.
    settings : MethodSettings
    middle : float
        What networks that give zeros mean, in [0, 1] units.
    network : nn.Module
        What predicts: the trained weights that are saved and counted.
    features_of : str or None
        Method whose trained network the setting ``features`` names, if there is one.
    frozen : nn.Module or None
        A network of another method that is used but neither trained, saved nor counted.
    samples : bool
        Whether `predict` draws from a distribution, so that ``sampling`` matters. Such methods, and
        no others, have the setting ``timesteps``, by which the workflow knows them.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    settings: MethodSettings
    middle: ClassVar[float] = 0.0
    network: nn.Module
    features_of: ClassVar[str | None] = None
    frozen: nn.Module | None = None
    samples: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, network: Network, settings: MethodSettings): ...

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Networks that are trained, each by an optimiser of its own."""
        return {"network": self.network}

    def relative(self, batch: Batch) -> Batch:
        """Give a batch whose images are what networks are to give.

        Of ``residual`` ones these are differences, around `middle`, so that networks begin with an
        image and not with nothing.
        """
        if not self.settings.residual:
            return batch
        return batch._replace(image=batch.image - self._seen(batch.inputs) + self.middle)

    def reconstruct(
        self, inputs: Tensor, keys: Sequence[SliceKey], sampling: Sampling, seed: int
    ) -> Tensor:
        """Give whole images, of what `predict` gives; parameters and result as there."""
        found = self.predict(inputs, keys, sampling, seed)
        return found + self._seen(inputs) - self.middle if self.settings.residual else found

    def _seen(self, inputs: Tensor) -> Tensor:
        """(N, 1, size, size): the first image among the inputs, in [0, 1] units."""
        images = [CHANNELS[name].scale == IMAGES for name in self.settings.conditioning]
        first = images.index(True)
        return inputs[:, first : first + 1]

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
        self, inputs: Tensor, keys: Sequence[SliceKey], sampling: Sampling, seed: int
    ) -> Tensor:
        """Give images, or of ``residual`` networks differences; see `reconstruct`.

        Parameters
        ----------
        inputs : Tensor
            (N, C, size, size), as in `Batch`.
        keys : sequence of SliceKey
            N keys; random draws for a slice depend on its key and the seed alone.
        sampling : Sampling
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
