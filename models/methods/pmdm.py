"""PMDM: diffusion conditioned on a posterior mean, which a frozen regression network gives.

After Sun and Mawlawi, "Posterior-Mean Denoising Diffusion Model for Realistic PET Image
Reconstruction", arXiv 2503.08546, whose code is not released: a regression network trained with the
squared error tends to the mean r_0 of the posterior, E(x | s), and diffusion conditioned on r_0, in
place of the sinogram s, samples images with the detail that a mean lacks. Their regression network
is DeepPET.
"""

from dataclasses import dataclass

from torch import Tensor

from models.methods.base import Method, regressed
from models.methods.cdpm import CDPM, CDPMSettings
from models.networks.unet import make_unet
from models.settings import Network


@dataclass(frozen=True)
class PMDMSettings(CDPMSettings):
    """Of PMDM, beside cDPM's.

    ``conditioning`` is what the network of the posterior mean sees; ``residual``, whether the
    difference to the posterior mean is diffused.

    Attributes
    ----------
    posterior_mean : str
        Model, PnPNet or DeepPET or a variant of these, whose trained network gives r_0.
    """

    posterior_mean: str


class PMDM(CDPM):
    """Conditional diffusion with C = {r_0}: the U-Net sees [x_t, r_0] and t, and no measurement."""

    Settings = PMDMSettings
    settings: PMDMSettings

    def __init__(self, network: Network, settings: PMDMSettings):
        self.settings = settings
        self.network = make_unet(network, in_channels=2, time_conditioned=True)
        self._regression: Method | None = None

    def use_frozen(self, trained: Method) -> None:
        """Freeze a trained regression network, whose images are the posterior mean.

        Raises
        ------
        TypeError
            If the method samples: one of its images is no mean.
        """
        if trained.samples:
            raise TypeError(f"{type(trained).__name__} samples, and gives no mean for PMDM")
        self._regression = trained
        self.frozen = trained.network.eval().requires_grad_(False)

    def seen(self, inputs: Tensor) -> Tensor:
        """Compute r_0, (N, 1, size, size) float32 in [0, 1] units (not clipped)."""
        if self._regression is None:
            raise TypeError("PMDM needs use_frozen before it can train or predict")
        return regressed(self._regression, inputs)

    def base_image(self, seen: Tensor) -> Tensor:
        """Give r_0 itself, whatever the ``conditioning``: the condition's dropout leaves it."""
        return seen
