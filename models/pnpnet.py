"""PnPNet: one U-Net from sinogram to image, and the source of LegoPET's features."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.dataset import Batch, SliceKey
from models.losses import regression_loss
from models.method import Method, Objective, make_unet


class PnPNet(Method):
    """Regression, image = U-Net(inputs), trained with MSE + dwt_weight x DWT loss."""

    def __init__(self, network: Mapping[str, Any], settings: Mapping[str, Any]):
        self.settings = settings
        channels = len(settings["conditioning"])
        self.network = make_unet(network, in_channels=channels, time_conditioned=False)

    def training_step(self, batch: Batch, draws: Sequence[torch.Generator]) -> Iterator[Objective]:
        """Yield ``loss`` = ``mse`` + dwt_weight x ``dwt``; see `models.losses`."""
        losses = regression_loss(
            self.network(batch.inputs),
            batch.image,
            self.settings["dwt_weight"],
            self.settings["wavelet"],
            self.settings["levels"],
        )
        yield Objective("network", losses)

    def predict(
        self, inputs: Tensor, keys: Sequence[SliceKey], sampling: Mapping[str, Any], seed: int
    ) -> Tensor:
        """Reconstruct in one pass; nothing is drawn, so the other arguments do not matter."""
        return self.network(inputs)
