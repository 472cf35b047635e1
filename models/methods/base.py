"""What a method is: networks, a training step and a prediction."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.channels import CHANNELS, IMAGES
from models.dataset import Batch, SliceKey
from models.settings import Network, Sampling
from pipeline.storage.errors import InputError

Correct = Callable[[Tensor, float], Tensor]
"""(images, (N, 1, size, size); part of the sampling steps behind, 0 at the first) -> images.

What an estimate of the images is replaced by at each step of sampling, in the estimate's unit.
"""


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
    frozen: nn.Module | None = None
    samples: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, network: Network, settings: MethodSettings): ...

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Networks that are trained, each by an optimiser of its own."""
        return {"network": self.network}

    def prepared(self, batch: Batch) -> Batch:
        """Give a batch as `training_step` takes it: what networks see, and what they are to give.

        Of ``residual`` ones these are differences, around `middle`, so that networks begin with an
        image and not with nothing.
        """
        seen, image = self.seen(batch.inputs), batch.image
        if self.settings.residual:
            image = image - self.base_image(seen) + self.middle
        return batch._replace(inputs=seen, image=image)

    def reconstruct(
        self,
        inputs: Tensor,
        keys: Sequence[SliceKey],
        sampling: Sampling,
        seed: int,
        correct: Correct | None = None,
    ) -> Tensor:
        """Give whole images of inputs as in `Batch`; other parameters and result as `predict`.

        ``correct`` is of whole images, too, also of ``residual`` networks.
        """
        seen = self.seen(inputs)
        if not self.settings.residual:
            return self.predict(seen, keys, sampling, seed, correct)
        base = self.base_image(seen) - self.middle
        own = None if correct is None else _shifted(correct, base)
        return self.predict(seen, keys, sampling, seed, own) + base

    def seen(self, inputs: Tensor) -> Tensor:
        """Give what networks see of inputs, (N, C, size, size) as in `Batch`: here all of them."""
        return inputs

    def base_image(self, seen: Tensor) -> Tensor:
        """Give the image that ``residual`` networks differ from, of what they see.

        Returns
        -------
        Tensor
            (N, 1, size, size) in [0, 1] units: the first image among the ``conditioning``.
        """
        images = [CHANNELS[name].scale == IMAGES for name in self.settings.conditioning]
        first = images.index(True)
        return seen[:, first : first + 1]

    @abstractmethod
    def training_step(self, batch: Batch, draws: Sequence[torch.Generator]) -> Iterator[Objective]:
        """Yield what to minimise on one batch; each yield is followed by a step of its part.

        Parameters
        ----------
        batch : Batch
            As `prepared` gives it, on the network's device.
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
        self,
        inputs: Tensor,
        keys: Sequence[SliceKey],
        sampling: Sampling,
        seed: int,
        correct: Correct | None = None,
    ) -> Tensor:
        """Give images, or of ``residual`` networks differences; see `reconstruct`.

        Parameters
        ----------
        inputs : Tensor
            (N, C, size, size), of `seen`.
        keys : sequence of SliceKey
            N keys; random draws for a slice depend on its key and the seed alone.
        sampling : Sampling
        seed : int
            The configuration's ``seed``.
        correct : callable or None
            Of methods that sample, in [0, 1] units; see `Correct`.

        Returns
        -------
        Tensor
            (N, K, size, size) in [0, 1] units (not clipped): K = ``samples`` of ``sampling`` if the
            method `samples`, else 1.
        """

    def use_frozen(self, trained: "Method") -> None:
        """Take another, trained method, whose network becomes `frozen`; most methods need none.

        Raises
        ------
        TypeError
            If it is of no use to this one.
        """
        raise TypeError(f"{type(self).__name__} uses no network of {type(trained).__name__}")

    def parameter_count(self) -> int:
        """Count the trainable parameters."""
        return trainable_parameters(self.network)


def _shifted(correct: Correct, by: Tensor) -> Correct:
    """Give the same of images without what they are shifted by."""
    return lambda images, done: correct(images + by, done) - by


ONE_PASS = Sampling("", steps=1, eta=0.0, guidance=0.0, samples=1, antithetic=False)
"""For methods that do not sample: of no effect on them."""


@torch.no_grad()
def regressed(method: Method, inputs: Tensor) -> Tensor:
    """Give the images of a trained method that does not sample, of inputs as in `Batch`.

    Returns
    -------
    Tensor
        (N, 1, size, size) float32 in [0, 1] units (not clipped): whole images, of ``residual``
        networks, too.
    """
    return method.reconstruct(inputs, (), ONE_PASS, 0).float()  # nothing is drawn: no key is needed


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
