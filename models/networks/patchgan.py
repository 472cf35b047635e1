"""PatchGAN: judges pairs of inputs and image patch by patch.

Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017. Shapes
beside the lines: N slices in a batch, H x W pixels.
"""

import torch
from torch import Tensor, nn

from models.networks.initialise import initialise


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


def _patch(in_channels: int, out_channels: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, out_channels, 4, stride=stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.2, inplace=True)
