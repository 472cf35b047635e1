"""The U-Net shared by PnPNet, cDPM, LegoPET and PMDM, of the blocks of `models.networks.blocks`.

It is the denoising U-Net of diffusion models (residual blocks with RMS norm, linear attention in
the high resolutions, full attention in the lowest). Shapes beside the lines: N slices in a batch,
C channels, H x W pixels, `heads` x D attention features.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.networks.blocks import (
    FullAttention,
    LinearAttention,
    ResBlock,
    TimeEmbedding,
    Upsample,
)
from models.settings import Network


class Features(NamedTuple):
    """What PnPNet tells LegoPET about a slice: the paper's ``b_d`` and ``b_m``.

    Attributes
    ----------
    down : tuple of Tensor
        Per stage the skip after attention; at width 64 and 256 x 256 pixels
        (N, 64, 256, 256), (N, 64, 128, 128), (N, 128, 64, 64), (N, 256, 32, 32).
    middle : tuple of Tensor
        Outputs of the two middle residual blocks, each (N, 512, 32, 32).
    """

    down: tuple[Tensor, ...]
    middle: tuple[Tensor, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Features":
        """Apply ``function`` to every tensor."""
        return Features(tuple(map(function, self.down)), tuple(map(function, self.middle)))


class UNet(nn.Module):
    """Image (and conditions) -> image of the same size.

    Parameters
    ----------
    width : int
        Channels C after the first convolution; even.
    multipliers : sequence of int
        Output width of each stage in units of `width`; one resolution a stage.
    in_channels, out_channels : int
        Channels of the input and the output.
    time_conditioned : bool
        Whether every residual block sees the diffusion step t.
    heads, head_dim, memory : int
        Attention heads, features a head D, and learned key/value pairs a head.
    blocks : int
        Residual blocks of each stage, each of which is one skip; the middle has two.
    patch : int
        Pixels a side that become one position of the first convolution, their values being its
        channels (space-to-depth), and back at the end. With 1 the first stage sees every pixel.

    Attributes
    ----------
    checkpointing : bool
        Whether the backward pass computes each stage again instead of keeping its activations:
        about a third more time for a fraction of the memory. Off at first.
    """

    def __init__(
        self,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        in_channels: int = 1,
        out_channels: int = 1,
        time_conditioned: bool = False,
        heads: int = 4,
        head_dim: int = 32,
        memory: int = 4,
        blocks: int = 2,
        patch: int = 1,
    ):
        super().__init__()
        self.checkpointing = False
        self.patch = patch
        time_channels = 4 * width if time_conditioned else None
        attention = heads, head_dim, memory
        widths = [width, *(width * m for m in multipliers)]  # 64, 64, 128, 256, 512
        last = [*[False] * (len(multipliers) - 1), True]
        stages = list(zip(widths[:-1], widths[1:], last, strict=True))
        self.time = TimeEmbedding(width, time_channels) if time_channels else None
        self.stem = nn.Conv2d(in_channels * patch**2, width, 7, padding=3)
        self.down = nn.ModuleList(
            DownStage(low, high, time_channels, attention, blocks, lowest)
            for low, high, lowest in stages
        )
        self.middle = Middle(widths[-1], time_channels, attention)
        self.up = nn.ModuleList(
            UpStage(high, low, time_channels, attention, blocks, lowest=lowest, highest=index == 0)
            for index, (low, high, lowest) in reversed(list(enumerate(stages)))
        )
        self.head_block = ResBlock(2 * width, width, time_channels)
        self.head = nn.Conv2d(width, out_channels * patch**2, 1)

    def forward(
        self, x: Tensor, t: Tensor | None = None, features: Features | None = None
    ) -> Tensor:
        """Compute the image.

        Parameters
        ----------
        x : Tensor
            (N, in_channels, H, W); H and W are multiples of patch 2^(stages - 1).
        t : Tensor, optional
            (N,) diffusion steps; given exactly if the network is time-conditioned.
        features : Features, optional
            Added to this network's own tensors of the same names: each down stage's tensor after
            attention (which is the skip and also goes on down), and both middle blocks' outputs.

        Returns
        -------
        Tensor
            (N, out_channels, H, W).

        Raises
        ------
        ValueError
            If `t` is missing or superfluous, or H or W does not fit the number of stages.
        """
        stem, time, skips, _, x = self._encode(x, t, features)
        for stage in self.up:
            x = self._run(stage, x, skips.pop(), time)
        x = self._run(self.head_block, torch.cat([x, stem], dim=1), time)  # (N, width, H, W)
        return F.pixel_shuffle(self.head(x), self.patch)

    def features(self, x: Tensor) -> Features:
        """Compute `Features` of x, (N, in_channels, H, W), without running the decoder."""
        _, _, _, features, _ = self._encode(x, None, None)
        return features

    def _encode(
        self, x: Tensor, t: Tensor | None, features: Features | None
    ) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, ...]], Features, Tensor]:
        if (self.time is None) != (t is None):
            raise ValueError("t must be given exactly if the network is time-conditioned")
        factor = self.patch * 2 ** (len(self.down) - 1)
        if x.shape[-1] % factor or x.shape[-2] % factor:
            raise ValueError(f"{tuple(x.shape[-2:])} pixels are not multiples of {factor}")
        time = None if self.time is None else self.time(t)  # (N, 4 width)
        x = F.pixel_unshuffle(x, self.patch)  # from here on H and W count patches
        stem = x = self.stem(x)  # (N, width, H, W)
        skips = []
        for index, stage in enumerate(self.down):
            feature = None if features is None else features.down[index]
            of_stage, x = self._run(stage, x, time, feature)
            skips.append(of_stage)
        middle = self._run(self.middle, x, time, None if features is None else features.middle)
        return stem, time, skips, Features(tuple(s[-1] for s in skips), middle), middle[1]

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return block(*inputs)


class DownStage(nn.Module):
    """Res blocks (each a skip), the last with attention; half the resolution at the next width."""

    def __init__(
        self,
        width: int,
        next_width: int,
        time_channels: int | None,
        attention: tuple[int, int, int],
        blocks: int,
        lowest: bool,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(width, width, time_channels) for _ in range(blocks))
        self.attention = (FullAttention if lowest else LinearAttention)(width, *attention)
        # 2x2 space-to-depth and a 1x1 convolution are one 2x2 convolution of stride 2.
        kernel, stride, padding = (3, 1, 1) if lowest else (2, 2, 0)
        self.resample = nn.Conv2d(width, next_width, kernel, stride, padding)

    def forward(
        self, x: Tensor, time: Tensor | None, feature: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Map x, (N, width, H, W), to the skips and (N, next_width, H/2, W/2)."""
        skips = []
        for block in self.blocks:
            x = block(x, time)  # (N, width, H, W)
            skips.append(x)
        x = self.attention(x)  # (N, width, H, W), the paper's b_d
        if feature is not None:
            x = x + feature
        return (*skips[:-1], x), self.resample(x)


class Middle(nn.Module):
    """Res block, full attention, res block at the lowest resolution."""

    def __init__(self, width: int, time_channels: int | None, attention: tuple[int, int, int]):
        super().__init__()
        self.block1 = ResBlock(width, width, time_channels)
        self.attention = FullAttention(width, *attention)
        self.block2 = ResBlock(width, width, time_channels)

    def forward(
        self, x: Tensor, time: Tensor | None, features: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, Tensor]:
        """Map x, (N, width, H, W), to both blocks' outputs, the paper's b_m; the second goes on."""
        first = self.block1(x, time)  # (N, width, H, W)
        if features is not None:
            first = first + features[0]
        second = self.block2(self.attention(first), time)
        if features is not None:
            second = second + features[1]
        return first, second


class UpStage(nn.Module):
    """The mirror of a down stage: takes its skips, doubles the resolution at the lower width."""

    def __init__(
        self,
        width: int,
        lower_width: int,
        time_channels: int | None,
        attention: tuple[int, int, int],
        blocks: int,
        *,
        lowest: bool,
        highest: bool,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(
            ResBlock(width + lower_width, width, time_channels) for _ in range(blocks)
        )
        self.attention = (FullAttention if lowest else LinearAttention)(width, *attention)
        self.resample = (
            nn.Conv2d(width, lower_width, 3, padding=1) if highest else Upsample(width, lower_width)
        )

    def forward(self, x: Tensor, skips: tuple[Tensor, ...], time: Tensor | None) -> Tensor:
        """Map x, (N, width, H, W), to (N, lower_width, 2 H, 2 W); the last skip comes first."""
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(torch.cat([x, skip], dim=1), time)  # (N, width, H, W)
        return self.resample(self.attention(x))


def make_unet(network: Network, *, in_channels: int, time_conditioned: bool) -> UNet:
    """Build the configuration's U-Net with one output channel."""
    return UNet(
        width=network.width,
        multipliers=network.multipliers,
        in_channels=in_channels,
        out_channels=1,
        time_conditioned=time_conditioned,
        heads=network.heads,
        head_dim=network.head_dim,
        blocks=network.blocks,
        patch=network.patch,
    )
