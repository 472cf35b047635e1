"""The generator of the adversarial networks: residual blocks at a quarter of the resolution.

Johnson et al., "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016;
Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV
2017. Shapes beside the lines: N slices in a batch, H x W pixels.
"""

from torch import Tensor, nn

from models.networks.initialise import initialise


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
