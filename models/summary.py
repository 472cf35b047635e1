"""``python -m models.summary [CONFIG]``: trainable parameters of every method."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from models import METHODS
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
    counts = {}
    for name, method in METHODS.items():
        if name not in settings["methods"]:
            raise InputError("methods", f"lacks {name}", "take it from config/config.yaml")
        with torch.device("meta"):
            built = method(settings["network"], settings["methods"][name])
        counts[name] = built.parameter_count()
    return counts


def main(config: Path = PAPER_CONFIG) -> None:
    """Print one line a method: its name and its count."""
    counts = parameter_counts(yaml.safe_load(config.read_text()))
    width = max(map(len, counts))
    for name, count in counts.items():
        print(f"{name:<{width}}  {count}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
