"""Doses of an experiment, parts of all counts, and the folders of their files."""

from collections.abc import Mapping
from typing import Any


def folder(dose: float) -> str:
    """Name the folder, below that of all counts' files, with those of a dose: "" for all counts."""
    return "" if dose == 1 else f"dose_{float(dose)!r}/"


def doses_of(config: Mapping[str, Any]) -> dict[str, float]:
    """Give the doses of networks' inputs by folder; of the first, figures and sweeps are made."""
    return {folder(dose): float(dose) for dose in config["simulation"]["doses"]}


def simulated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings of the simulation of all counts, from which doses are drawn."""
    return {key: value for key, value in config["simulation"].items() if key != "doses"}


def with_osem_input(config: Mapping[str, Any], folder: str) -> bool:
    """Whether the shards of a dose's folder have the OSEM image of their own prompts.

    Those of lower doses do; with all counts it is the reference, but for its iterations, and is
    there where a model sees it.
    """
    models = (*config["methods"].values(), *config["variants"].values())
    return bool(folder) or any("osem_input" in model.get("conditioning", ()) for model in models)
