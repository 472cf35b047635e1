"""``python -m models.summary [CONFIG ...]``: trainable parameters of every method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from models.configuration import read_configuration
from models.methods.base import Method, trainable_parameters
from models.registry import METHODS, build
from models.settings import Network
from pipeline.storage.errors import InputError


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
    for name in METHODS:
        if name not in settings["methods"]:
            raise InputError("methods", f"lacks {name}", "take it from config/config.yaml")
        with torch.device("meta"):
            found[name] = build(name, Network(**settings["network"]), settings["methods"][name])
    return found


def main(
    config: Annotated[
        list[Path] | None, typer.Argument(help="Laid over config/config.yaml, the paper's.")
    ] = None,
) -> None:
    """Print one line a method: its name and its count, and that of the GANs' discriminators."""
    try:
        settings = read_configuration(config or [])
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    counts = {**parameter_counts(settings), **discriminator_counts(settings)}
    width = max(map(len, counts))
    for name, count in counts.items():
        typer.echo(f"{name:<{width}}  {count}")


if __name__ == "__main__":
    typer.run(main)
