"""DeepPET: a convolutional encoder-decoder without skips, straight from sinogram to image.

After Haggstrom et al., "DeepPET: a deep encoder-decoder network for directly solving the PET image
reconstruction inverse problem", Medical Image Analysis 54, 2019.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.dataset import Batch, SliceKey
from models.methods.base import Correct, Method, MethodSettings, Objective
from models.networks.deeppet import DeepPETNetwork
from models.settings import Network, Sampling


@dataclass(frozen=True)
class DeepPETSettings(MethodSettings):
    """Of DeepPET: its network.

    Attributes
    ----------
    width : int
        Channels of the first stage.
    convolutions : sequence of int
        Of each encoder stage; every stage but the first halves the resolution.
    """

    width: int
    convolutions: Sequence[int]


class DeepPET(Method):
    """Regression, image = network(inputs), trained with the mean squared error."""

    Settings = DeepPETSettings

    def __init__(self, network: Network, settings: DeepPETSettings):
        self.settings = settings
        self.network = DeepPETNetwork(
            settings.width, settings.convolutions, len(settings.conditioning)
        )

    def training_step(self, batch: Batch, draws: Sequence[torch.Generator]) -> Iterator[Objective]:
        """Yield the network's ``loss``, the MSE in normalised units squared."""
        prediction = self.network(batch.inputs)
        yield Objective("network", {"loss": F.mse_loss(prediction.float(), batch.image)})

    def predict(
        self,
        inputs: Tensor,
        keys: Sequence[SliceKey],
        sampling: Sampling,
        seed: int,
        correct: Correct | None = None,
    ) -> Tensor:
        """Reconstruct in one pass; nothing is drawn, so the other arguments do not matter."""
        return self.network(inputs)
