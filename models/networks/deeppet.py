"""DeepPET's convolutional encoder and decoder, without skips.

Haggstrom et al., Medical Image Analysis 54, 2019. Shapes beside the lines: N slices in a batch,
H x W pixels.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class DeepPETNetwork(nn.Module):
    """Sinogram -> image of the same size.

    Stage s of the encoder has 2^s width channels and 1 / 2^s of the resolution, which the first
    convolution of the stage halves. The decoder goes through the stages between the last and the
    first in reverse, doubles the resolution before each, and once more before its last convolution.

    Parameters
    ----------
    width : int
        Channels of the first stage.
    convolutions : sequence of int
        Convolutions of each stage; the decoder's stages have as many as the encoder's.
    in_channels : int
        Channels of the input.
    """

    def __init__(
        self,
        width: int = 32,
        convolutions: Sequence[int] = (2, 2, 3, 3, 3),
        in_channels: int = 1,
    ):
        super().__init__()
        self.factor = 2 ** (len(convolutions) - 1)  # of resolution, first stage to last
        widths = [width << stage for stage in range(len(convolutions))]  # 32, 64, 128, 256, 512
        encoder, decoder = nn.Sequential(), nn.Sequential()
        channels = in_channels
        for stage, count in enumerate(convolutions):
            kernel = {0: 7, 1: 5}.get(stage, 3)
            stride = 2 if stage else 1
            encoder.append(_stage(channels, widths[stage], count, kernel, stride))
            channels = widths[stage]
        for stage in reversed(range(len(convolutions) - 1)):
            decoder.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            if stage:
                decoder.append(_stage(channels, widths[stage], convolutions[stage]))
                channels = widths[stage]
        self.encoder, self.decoder = encoder, decoder
        self.head = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the image.

        Parameters
        ----------
        x : Tensor
            (N, in_channels, H, W); H and W are multiples of 2^(stages - 1).

        Returns
        -------
        Tensor
            (N, 1, H, W).

        Raises
        ------
        ValueError
            If H or W is not such a multiple.
        """
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(f"{tuple(x.shape[-2:])} pixels are not multiples of {self.factor}")
        x = self.encoder(x)  # (N, 512, H/16, W/16)
        return self.head(self.decoder(x))  # (N, 64, H, W) -> (N, 1, H, W)


def _stage(
    in_channels: int, out_channels: int, count: int, kernel: int = 3, stride: int = 1
) -> nn.Sequential:
    """``count`` times convolution, batch norm, ReLU; the first has the stride."""
    layers = nn.Sequential()
    for index in range(count):
        first = index == 0
        # The biases do nothing before a norm; they are kept for the published layers and count.
        layers.append(
            nn.Conv2d(
                in_channels if first else out_channels,
                out_channels,
                kernel,
                stride=stride if first else 1,
                padding=kernel // 2,
            )
        )
        layers.extend([nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)])
    return layers
