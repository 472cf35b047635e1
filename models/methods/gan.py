"""Conditional adversarial networks from sinogram to image: cGAN and pix2pix.

A generator reconstructs, and a discriminator judges (sinogram, image) patch by patch. Both see
images in [-1, 1]. Sources: Mirza and Osindero, "Conditional generative adversarial nets",
arXiv 1411.1784; Isola et al., "Image-to-image translation with conditional adversarial networks",
CVPR 2017 (pix2pix); Mao et al., "Least squares generative adversarial networks", ICCV 2017.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dataset import Batch, SliceKey, from_signed, to_signed
from models.methods.base import Correct, Method, MethodSettings, Objective
from models.networks.patchgan import PatchDiscriminator
from models.networks.resnet_generator import ResNetGenerator
from models.settings import Network, Sampling


@dataclass(frozen=True)
class GANSettings(MethodSettings):
    """Of an adversarial method: its networks.

    Attributes
    ----------
    width : int
        Channels of the generator at full resolution.
    blocks : int
        Residual blocks of the generator.
    discriminator_width : int
        Channels of the discriminator's first layer.
    """

    training_alone = MethodSettings.training_alone | {"discriminator_width"}

    width: int
    blocks: int
    discriminator_width: int


@dataclass(frozen=True)
class Pix2PixSettings(GANSettings):
    """Of Pix2Pix, beside a GAN's.

    Attributes
    ----------
    l1_weight : float
        Weight of the absolute error beside the adversarial loss.
    """

    training_alone = GANSettings.training_alone | {"l1_weight"}

    l1_weight: float


class GAN(Method):
    """What the adversarial methods share: all but their loss functions.

    The generator is a function of the inputs alone, without a noise input: reconstructions are
    not samples. The discriminator serves training alone, and is no part of what predicts.
    """

    Settings: ClassVar[type[MethodSettings]] = GANSettings
    middle = 0.5  # 0 of [-1, 1]

    def __init__(self, network: Network, settings: GANSettings):
        self.settings = settings
        channels = len(settings.conditioning)
        self.network = ResNetGenerator(settings.width, settings.blocks, channels)
        self.discriminator: nn.Module = PatchDiscriminator(settings.discriminator_width, channels)
        # Where several devices train, `discriminator` is wrapped to share its gradients. The
        # generator's step has none to share, and must not go through that wrapper.
        self._unshared = self.discriminator

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Generator and discriminator, each trained by an optimiser of its own."""
        return {"network": self.network, "discriminator": self.discriminator}

    @abstractmethod
    def adversarial_loss(self, logits: Tensor, real: bool) -> Tensor:
        """Say how far float32 logits, (N, 1, h, w), are from the verdict ``real``: a scalar."""

    def generator_losses(self, logits: Tensor, fake: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Compute the generator's losses; those that discriminators do not judge are added here.

        Parameters
        ----------
        logits : Tensor
            (N, 1, h, w) float32, of the fake images.
        fake, image : Tensor
            (N, 1, H, W) float32 in [-1, 1]: the generator's and the true images.

        Returns
        -------
        dict
            ``loss`` and its terms; here ``adversarial``, how far the fakes are from passing as real
            (the non-saturating loss of Goodfellow et al. 2014).
        """
        adversarial = self.adversarial_loss(logits, real=True)
        return {"loss": adversarial, "adversarial": adversarial}

    def training_step(self, batch: Batch, draws: Sequence[torch.Generator]) -> Iterator[Objective]:
        """Yield the discriminator's loss on real and fake images, then the generator's.

        The fakes of both are the same, and the discriminator that judges the generator is the one
        that the caller has just updated.

        Yields
        ------
        Objective
            Of ``discriminator``: ``loss`` = ``discriminator``, half the sum of the losses on real
            and on fake images. Of ``network``: see `generator_losses`.
        """
        inputs, image = batch.inputs, to_signed(batch.image)
        fake = self.network(inputs)
        logits = self.discriminator(inputs, image)
        on_real = self.adversarial_loss(logits.float(), real=True)
        logits = self.discriminator(inputs, fake.detach())
        on_fake = self.adversarial_loss(logits.float(), real=False)
        loss = (on_real + on_fake) / 2
        yield Objective("discriminator", {"loss": loss, "discriminator": loss})
        with held_fixed(self._unshared):
            logits = self._unshared(inputs, fake).float()
            yield Objective("network", self.generator_losses(logits, fake.float(), image))

    def predict(
        self,
        inputs: Tensor,
        keys: Sequence[SliceKey],
        sampling: Sampling,
        seed: int,
        correct: Correct | None = None,
    ) -> Tensor:
        """Reconstruct in one pass; nothing is drawn, so the other arguments do not matter."""
        return from_signed(self.network(inputs))


class CGAN(GAN):
    """Conditional GAN (Mirza and Osindero 2014): binary cross-entropy, adversarial loss alone."""

    def adversarial_loss(self, logits: Tensor, real: bool) -> Tensor:
        """Binary cross-entropy, in nats, averaged over slices and patches."""
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


class Pix2Pix(GAN):
    """Least-squares adversarial loss + l1_weight x L1 (Isola et al. 2017, Mao et al. 2017)."""

    Settings = Pix2PixSettings
    settings: Pix2PixSettings

    def adversarial_loss(self, logits: Tensor, real: bool) -> Tensor:
        """Squared distance to 1 (real) or 0, averaged over slices and patches."""
        return (logits - float(real)).square().mean()

    def generator_losses(self, logits: Tensor, fake: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Add l1_weight x ``l1``, the mean absolute error between images in [-1, 1]."""
        adversarial, l1 = self.adversarial_loss(logits, real=True), F.l1_loss(fake, image)
        loss = adversarial + self.settings.l1_weight * l1
        return {"loss": loss, "adversarial": adversarial, "l1": l1}


@contextmanager
def held_fixed(module: nn.Module) -> Iterator[None]:
    """Keep gradients from reaching a module's parameters; its mode is left as it is."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
