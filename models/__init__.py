"""Learned reconstruction: networks, training, sampling, evaluation, figures."""

from models.legopet import LegoPET
from models.method import Method
from models.pnpnet import PnPNet

METHODS: dict[str, type[Method]] = {"PnPNet": PnPNet, "LegoPET": LegoPET}
"""Every method by its name in the configuration, tables and figures."""
