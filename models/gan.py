"""Conditional adversarial networks from sinogram to image: cGAN and pix2pix.

A generator reconstructs, and a discriminator judges (sinogram, image) patch by patch. Both see
images in [-1, 1]. Sources: Mirza and Osindero, "Conditional generative adversarial nets",
arXiv 1411.1784; Isola et al., "Image-to-image translation with conditional adversarial networks",
CVPR 2017 (pix2pix, PatchGAN, initialisation); Mao et al., "Least squares generative adversarial
networks", ICCV 2017; Johnson et al., "Perceptual losses for real-time style transfer and
super-resolution", ECCV 2016, and Zhu et al., "Unpaired image-to-image translation using
cycle-consistent adversarial networks", ICCV 2017 (generator). Shapes beside the lines: N slices in
a batch, H x W pixels.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dataset import Batch, SliceKey, from_signed, to_signed
from models.method import Method, Objective

# --- networks ----------------------------------------------------------------------------------


class ResNetGenerator(nn.Module):
    """Sinogram -> image in [-1, 1] of the same size.

    Two halvings of the resolution, residual blocks, two doublings (Johnson et al. 2016, in the
    form of Zhu et al. 2017), with batch norm.

    Parameters
    ----------
    width : int
        Channels at full resolution.
    blocks : int
        Residual blocks, at 4 width channels and a quarter of the resolution.
    in_channels : int
        Channels of the input.
    """

    def __init__(self, width: int = 64, blocks: int = 9, in_channels: int = 1):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, padding=3, padding_mode="reflect", bias=False),
            *_norm_relu(width),
        )
        self.down = nn.Sequential(_halve(width, 2 * width), _halve(2 * width, 4 * width))
        self.middle = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(blocks)))
        self.up = nn.Sequential(_double(4 * width, 2 * width), _double(2 * width, width))
        self.head = nn.Conv2d(width, 1, 7, padding=3, padding_mode="reflect")
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the image.

        Parameters
        ----------
        x : Tensor
            (N, in_channels, H, W); H and W are multiples of 4, at least 8.

        Returns
        -------
        Tensor
            (N, 1, H, W) in [-1, 1].

        Raises
        ------
        ValueError
            If H or W is not such a multiple.
        """
        # The quarter resolution is padded by reflection, which takes two pixels.
        if x.shape[-1] % 4 or x.shape[-2] % 4 or min(x.shape[-2:]) < 8:
            raise ValueError(f"{tuple(x.shape[-2:])} pixels are not multiples of 4, at least 8")
        x = self.down(self.stem(x))  # (N, width, H, W) -> (N, 4 width, H/4, W/4)
        x = self.up(self.middle(x))  # (N, width, H, W)
        return self.head(x).tanh()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, a ReLU between them, beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        conv1, conv2 = (
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)
            for _ in range(2)
        )
        self.layers = nn.Sequential(conv1, *_norm_relu(channels), conv2, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape; no activation after the sum."""
        return x + self.layers(x)


class PatchDiscriminator(nn.Module):
    """(Inputs, image) -> a logit for each patch of 70 x 70 pixels (PatchGAN, Isola et al. 2017).

    Parameters
    ----------
    width : int
        Channels after the first convolution.
    in_channels : int
        Channels of the inputs.
    """

    def __init__(self, width: int = 64, in_channels: int = 1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels + 1, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            *_patch(width, 2 * width, stride=2),
            *_patch(2 * width, 4 * width, stride=2),
            *_patch(4 * width, 8 * width, stride=1),
            nn.Conv2d(8 * width, 1, 4, padding=1),
        )
        self.apply(initialise)

    def forward(self, inputs: Tensor, image: Tensor) -> Tensor:
        """Judge images.

        Parameters
        ----------
        inputs : Tensor
            (N, in_channels, H, W), normalised; H and W are at least 24.
        image : Tensor
            (N, 1, H, W) in [-1, 1].

        Returns
        -------
        Tensor
            (N, 1, H/8 - 2, W/8 - 2), H/8 and W/8 rounded down.

        Raises
        ------
        ValueError
            If the images are too small for a single patch, or differ in number or size.
        """
        if (len(inputs), *inputs.shape[-2:]) != (len(image), *image.shape[-2:]):
            raise ValueError(f"{tuple(inputs.shape)} and {tuple(image.shape)} differ")
        if min(image.shape[-2:]) < 24:
            raise ValueError(f"{tuple(image.shape[-2:])} pixels: the discriminator needs 24 a side")
        return self.layers(torch.cat([inputs, image], dim=1))


def initialise(module: nn.Module) -> None:
    """Draw one module's weights as Isola et al. (2017): N(0, 0.02), of batch norms N(1, 0.02).

    Biases are zero. Draws come from PyTorch's global generator.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
        nn.init.normal_(module.weight, mean, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# No convolution before a norm has a bias: the norm would take it away again.


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


def _halve(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, *_norm_relu(out_channels))


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.ConvTranspose2d(
        in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False
    )
    return nn.Sequential(conv, *_norm_relu(out_channels))


def _patch(in_channels: int, out_channels: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, out_channels, 4, stride=stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.2, inplace=True)


# --- methods -----------------------------------------------------------------------------------


class GAN(Method):
    """What the adversarial methods share: all but their loss functions.

    The generator is a function of the inputs alone, without a noise input: reconstructions are
    not samples. The discriminator serves training alone, and is no part of what predicts.
    """

    def __init__(self, network: Mapping[str, Any], settings: Mapping[str, Any]):
        self.settings = settings
        channels = len(settings["conditioning"])
        self.network = ResNetGenerator(settings["width"], settings["blocks"], channels)
        self.discriminator: nn.Module = PatchDiscriminator(
            settings["discriminator_width"], channels
        )
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
        self, inputs: Tensor, keys: Sequence[SliceKey], sampling: Mapping[str, Any], seed: int
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

    def adversarial_loss(self, logits: Tensor, real: bool) -> Tensor:
        """Squared distance to 1 (real) or 0, averaged over slices and patches."""
        return (logits - float(real)).square().mean()

    def generator_losses(self, logits: Tensor, fake: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Add l1_weight x ``l1``, the mean absolute error between images in [-1, 1]."""
        adversarial, l1 = self.adversarial_loss(logits, real=True), F.l1_loss(fake, image)
        loss = adversarial + self.settings["l1_weight"] * l1
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
