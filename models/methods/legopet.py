"""LegoPET: diffusion conditioned on the sinogram and on a frozen PnPNet's features."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.methods.base import Method, regressed
from models.methods.cdpm import CDPM, CDPMSettings, Condition
from models.networks.unet import UNet, make_unet
from models.settings import Network

NEEDS_FROZEN = "LegoPET needs use_frozen before it can train or predict"


@dataclass(frozen=True)
class LegoPETSettings(CDPMSettings):
    """Of LegoPET, beside cDPM's.

    Attributes
    ----------
    features : str
        Model, PnPNet or a variant of it, whose trained network gives the features b_d and b_m.
    regression_image : bool
        Whether the U-Net also sees the image that this network gives, before the ``conditioning``;
        that image is then what ``residual`` differences are to.
    """

    features: str
    regression_image: bool = field(default=False, kw_only=True)  # weights from before it have none


class LegoPET(CDPM):
    """Conditional diffusion with C = {s, b_d, b_m}: PnPNet's features added to the U-Net's own."""

    Settings = LegoPETSettings
    settings: LegoPETSettings

    def __init__(self, network: Network, settings: LegoPETSettings):
        self.settings = settings
        channels = 1 + len(settings.conditioning) + settings.regression_image
        self.network = make_unet(network, in_channels=channels, time_conditioned=True)
        self._regression: Method | None = None

    def use_frozen(self, trained: Method) -> None:
        """Freeze a trained PnPNet and use its encoder and middle.

        Raises
        ------
        TypeError
            If the method's network has no `Features`.
        """
        if not isinstance(trained.network, UNet):
            raise TypeError(f"{type(trained).__name__} has no features for LegoPET")
        self._regression = trained
        self.frozen = trained.network.eval().requires_grad_(False)

    def seen(self, inputs: Tensor) -> Tensor:
        """Put PnPNet's image before the inputs, with ``regression_image``."""
        if not self.settings.regression_image:
            return inputs
        if self._regression is None:
            raise TypeError(NEEDS_FROZEN)
        return torch.cat([regressed(self._regression, inputs), inputs], dim=1)

    def base_image(self, seen: Tensor) -> Tensor:
        """Give PnPNet's image, with ``regression_image``: the first that the network sees."""
        return seen[:, :1] if self.settings.regression_image else super().base_image(seen)

    def condition(self, inputs: Tensor) -> Condition:
        """Run PnPNet once for these slices, on what it sees of them."""
        if not isinstance(self.frozen, UNet):
            raise TypeError(NEEDS_FROZEN)
        own = inputs[:, 1:] if self.settings.regression_image else inputs
        with torch.no_grad():
            return Condition(inputs, self.frozen.features(own))
