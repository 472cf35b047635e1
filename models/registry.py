"""Methods by their names in the configuration, tables and figures; each is loaded when asked for.

A method is its file, with a YAML file of its own settings beside it, its line here, and its section
of the configuration.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.storage.errors import InputError

if TYPE_CHECKING:
    from models.methods.base import Method
    from models.settings import Network

METHODS = {
    "PnPNet": "models.methods.pnpnet:PnPNet",
    "cDPM": "models.methods.cdpm:CDPM",
    "LegoPET": "models.methods.legopet:LegoPET",
    "PMDM": "models.methods.pmdm:PMDM",
    "DeepPET": "models.methods.deeppet:DeepPET",
    "cGAN": "models.methods.gan:CGAN",
    "Pix2Pix": "models.methods.gan:Pix2Pix",
}
"""Module and class of every method, in the order of tables."""


def load(name: str) -> "type[Method]":
    """Import the class of a method.

    Raises
    ------
    InputError
        If there is no method of that name.
    """
    if name not in METHODS:
        raise InputError(f"methods.{name}", "is not a method", f"choose from {sorted(METHODS)}")
    module, _, kind = METHODS[name].partition(":")
    found: type[Method] = getattr(import_module(module), kind)
    return found


def build(name: str, network: "Network", settings: Mapping[str, Any]) -> "Method":
    """Make a method with fresh weights, its convolutions laid out for speed (channels last).

    ``residual`` networks begin by giving zeros, so that the first image is what they see.

    Parameters
    ----------
    name : str
    network : Network
    settings : mapping
        The configuration's ``methods.<name>``, or those of a variant, or what weights were
        trained with.

    Raises
    ------
    InputError
        If there is no method of that name.
    TypeError
        If it has other settings, or samples without ``timesteps``.
    """
    import torch

    from models.networks.initialise import begin_at_zero

    kind = load(name)
    if kind.samples != ("timesteps" in settings):
        raise TypeError(f"{name}: methods that sample have the setting timesteps, others do not")
    own = kind.Settings(**settings)
    method = kind(network, own)
    method.settings = own
    if own.residual:  # the first image is the one that they see, which is nearly right
        begin_at_zero(method.network)
    method.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method
