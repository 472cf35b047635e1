"""Learned reconstruction: networks, training, sampling, evaluation, figures."""

from models.deeppet import DeepPET
from models.diffusion import CDPM
from models.gan import CGAN, Pix2Pix
from models.legopet import LegoPET
from models.method import Method
from models.pnpnet import PnPNet

METHODS: dict[str, type[Method]] = {
    "PnPNet": PnPNet,
    "cDPM": CDPM,
    "LegoPET": LegoPET,
    "DeepPET": DeepPET,
    "cGAN": CGAN,
    "Pix2Pix": Pix2Pix,
}
"""Every method by its name in the configuration, tables and figures."""
