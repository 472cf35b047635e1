"""``python -m models.summary [CONFIG]``: trainable parameters of every method."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from models import METHODS
from models.method import Method
from models.unet import trainable_parameters
from pipeline.errors import InputError

PAPER_CONFIG = Path(__file__).resolve().parent.parent / "config" / "config.yaml"


def parameter_counts(settings: Mapping[str, Any]) -> dict[str, int]:
    """Count the trainable parameters of every method without allocating them.

    Parameters
    ----------
    settings : mapping
        The configuration: ``network`` and ``methods``.

    Raises
    ------
    InputError
        If the configuration lacks a method.
    """
    return {name: built.parameter_count() for name, built in _built(settings).items()}


def discriminator_counts(settings: Mapping[str, Any]) -> dict[str, int]:
    """Count what serves training alone, named "<method> discriminator"; otherwise as above."""
    return {
        f"{name} {part}": trainable_parameters(module)
        for name, built in _built(settings).items()
        for part, module in built.parts.items()
        if part != "network"
    }


def _built(settings: Mapping[str, Any]) -> dict[str, Method]:
    found = {}
    for name, method in METHODS.items():
        if name not in settings["methods"]:
            raise InputError("methods", f"lacks {name}", "take it from config/config.yaml")
        with torch.device("meta"):
            found[name] = method(settings["network"], settings["methods"][name])
    return found


def main(config: Path = PAPER_CONFIG) -> None:
    """Print one line a method: its name and its count, and that of the GANs' discriminators."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    counts = {**parameter_counts(settings), **discriminator_counts(settings)}
    width = max(map(len, counts))
    for name, count in counts.items():
        print(f"{name:<{width}}  {count}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
