"""Methods by their names in the configuration, tables and figures; each is loaded when asked for.

A method is its file, its line here, and its section of the configuration.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.storage.errors import InputError

if TYPE_CHECKING:
    from models.methods.base import Method

METHODS = {
    "PnPNet": "models.methods.pnpnet:PnPNet",
    "cDPM": "models.methods.cdpm:CDPM",
    "LegoPET": "models.methods.legopet:LegoPET",
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


def build(name: str, network: Mapping[str, Any], settings: Mapping[str, Any]) -> "Method":
    """Make a method with fresh weights, its convolutions laid out for speed (channels last).

    Raises
    ------
    InputError
        If there is no method of that name.
    """
    import torch

    method = load(name)(network, settings)
    method.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method
