"""Sections of the methods in the configuration's schema, from the YAML files beside them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from models.channels import CHANNELS, IMAGES
from models.registry import METHODS
from pipeline.jobs import experiment
from pipeline.jobs.experiment import FrozenSetting

ROOT = Path(__file__).resolve().parents[1]


@cache
def sections() -> Mapping[str, Mapping[str, Any]]:
    """Give the JSON schema of each method in `models.registry.METHODS`.

    It has the settings of every method, in models/methods/base.yaml, and the method's own, in the
    YAML file beside its Python file, where it ``inherits`` those of another.
    """
    common = read_yaml(ROOT / "models" / "methods" / "base.yaml")
    common["conditioning"]["items"]["enum"] = list(CHANNELS)
    images = [name for name, channel in CHANNELS.items() if channel.scale == IMAGES]
    common["residual"]["images"] = images
    own: dict[str, Any] = {}
    for path in sorted({_beside(place) for place in METHODS.values()}):
        own |= read_yaml(path) if path.exists() else {}
    return {name: _section(_inherited(name, own), common) for name in METHODS}


@cache
def frozen_setting(method: str) -> FrozenSetting | None:
    """Find the setting by which a method names a model whose network it uses frozen, if any."""
    return experiment.frozen_setting(sections()[method])


def frozen_of(method: str, settings: Mapping[str, Any]) -> str | None:
    """Name the model whose trained network another model uses frozen; None where it uses none.

    Parameters
    ----------
    method : str
        Of the model that uses it, a name in `models.registry.METHODS`.
    settings : mapping
        The model's.
    """
    found = frozen_setting(method)
    return settings.get(found.key) if found else None


def read_yaml(path: Path) -> Any:
    """Read a file of the schema."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _beside(place: str) -> Path:
    """Name the YAML file beside the module of a method, "package.module:Class"."""
    return ROOT.joinpath(*place.partition(":")[0].split(".")).with_suffix(".yaml")


def _inherited(name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a method says of itself, and what it does not, as the one it inherits from."""
    said = own.get(name, {"description": "Settings of the method."})
    above = _inherited(said["inherits"], own) if "inherits" in said else {"properties": {}}
    properties = above["properties"] | said.get("properties", {})
    return {**above, **said, "properties": properties}


def _section(method: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    properties = {**common, **method["properties"]}
    return {
        **method,
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }
