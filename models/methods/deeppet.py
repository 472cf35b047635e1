"""DeepPET: a convolutional encoder-decoder without skips, straight from sinogram to image.

After Haggstrom et al., "DeepPET: a deep encoder-decoder network for directly solving the PET image
reconstruction inverse problem", Medical Image Analysis 54, 2019.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.dataset import Batch, SliceKey
from models.methods.base import Method, Objective
from models.networks.deeppet import DeepPETNetwork


class DeepPET(Method):
    """Regression, image = network(inputs), trained with the mean squared error."""

    def __init__(self, network: Mapping[str, Any], settings: Mapping[str, Any]):
        self.settings = settings
        self.network = DeepPETNetwork(
            settings["width"], settings["convolutions"], len(settings["conditioning"])
        )

    def training_step(self, batch: Batch, draws: Sequence[torch.Generator]) -> Iterator[Objective]:
        """Yield the network's ``loss``, the MSE in normalised units squared."""
        prediction = self.network(batch.inputs)
        yield Objective("network", {"loss": F.mse_loss(prediction.float(), batch.image)})

    def predict(
        self, inputs: Tensor, keys: Sequence[SliceKey], sampling: Mapping[str, Any], seed: int
    ) -> Tensor:
        """Reconstruct in one pass; nothing is drawn, so the other arguments do not matter."""
        return self.network(inputs)
