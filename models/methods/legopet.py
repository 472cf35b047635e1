"""LegoPET: diffusion conditioned on the sinogram and on a frozen PnPNet's features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.methods.base import Method
from models.methods.cdpm import CDPM, CDPMSettings, Condition
from models.networks.unet import UNet


@dataclass(frozen=True)
class LegoPETSettings(CDPMSettings):
    """Of LegoPET, beside cDPM's.

    Attributes
    ----------
    features : str
        Model, PnPNet or a variant of it, whose trained network gives the features b_d and b_m.
    """

    features: str


class LegoPET(CDPM):
    """Conditional diffusion with C = {s, b_d, b_m}: PnPNet's features added to the U-Net's own."""

    Settings = LegoPETSettings
    features_of = "PnPNet"

    def use_features(self, source: Method) -> None:
        """Freeze a trained PnPNet and use its encoder and middle.

        Raises
        ------
        TypeError
            If the method's network has no `Features`.
        """
        if not isinstance(source.network, UNet):
            raise TypeError(f"{type(source).__name__} has no features for LegoPET")
        self.frozen = source.network.eval().requires_grad_(False)

    def condition(self, inputs: Tensor) -> Condition:
        """Run PnPNet once for these slices."""
        if not isinstance(self.frozen, UNet):
            raise TypeError("LegoPET needs use_features before it can train or predict")
        with torch.no_grad():
            return Condition(inputs, self.frozen.features(inputs))
