"""PnPNet: one U-Net from sinogram to image, and the source of LegoPET's features."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ptwt
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dataset import Batch, SliceKey
from models.methods.base import Correct, Method, MethodSettings, Objective
from models.networks.unet import make_unet
from models.settings import Network, Sampling


@dataclass(frozen=True)
class PnPNetSettings(MethodSettings):
    """Of PnPNet: its loss.

    Attributes
    ----------
    dwt_weight : float
        Weight of the wavelet loss beside the mean squared error.
    wavelet : str
        Name of a discrete wavelet of PyWavelets.
    levels : int
        Levels of the wavelet transform.
    """

    training_alone = MethodSettings.training_alone | {"dwt_weight", "wavelet", "levels"}

    dwt_weight: float
    wavelet: str
    levels: int


class PnPNet(Method):
    """Regression, image = U-Net(inputs), trained with MSE + dwt_weight x DWT loss."""

    Settings = PnPNetSettings
    settings: PnPNetSettings

    def __init__(self, network: Network, settings: PnPNetSettings):
        self.settings = settings
        channels = len(settings.conditioning)
        self.network = make_unet(network, in_channels=channels, time_conditioned=False)

    def training_step(self, batch: Batch, draws: Sequence[torch.Generator]) -> Iterator[Objective]:
        """Yield ``loss`` = ``mse`` + dwt_weight x ``dwt``; see `regression_loss`."""
        losses = regression_loss(
            self.network(batch.inputs),
            batch.image,
            self.settings.dwt_weight,
            self.settings.wavelet,
            self.settings.levels,
        )
        yield Objective("network", losses)

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


def dwt_loss(prediction: Tensor, target: Tensor, wavelet: str, levels: int) -> Tensor:
    """Squared error of the detail sub-bands of a 2-D discrete wavelet transform.

    L_DWT = 1/(N H W) sum over levels j, bands b in {horizontal, vertical, diagonal} and positions
    of (W_jb prediction - W_jb target)^2. Divided by the number of pixels, it is the part of the
    mean squared error that lies in edges and texture (exactly so for an orthogonal wavelet without
    border effects, by Parseval's theorem): a constant offset costs nothing.

    Parameters
    ----------
    prediction, target : Tensor
        (N, 1, H, W), normalised units.
    wavelet : str
        Name of a discrete wavelet of PyWavelets, e.g. "haar".
    levels : int
        Levels of the transform, >= 1.

    Returns
    -------
    Tensor
        Scalar.
    """
    # The transform is linear: one of the difference instead of two.
    difference = (prediction - target).float().squeeze(1)
    _, *details = ptwt.wavedec2(difference, wavelet, mode="reflect", level=levels)
    energy = torch.stack([band.square().sum() for level in details for band in level]).sum()
    return energy / difference.numel()


def regression_loss(
    prediction: Tensor, target: Tensor, dwt_weight: float, wavelet: str, levels: int
) -> dict[str, Tensor]:
    """PnPNet's loss: L = MSE + dwt_weight x L_DWT (see `dwt_loss`).

    Returns
    -------
    dict
        ``loss`` (the sum, to be minimised) and its terms ``mse`` and ``dwt``.
    """
    mse = F.mse_loss(prediction.float(), target)
    dwt = dwt_loss(prediction, target, wavelet, levels)
    return {"loss": mse + dwt_weight * dwt, "mse": mse, "dwt": dwt}
