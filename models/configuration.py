"""The configuration's schema, with methods and condition channels; and files checked by it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.channels import CHANNELS, IMAGES, TARGETS
from models.registry import METHODS
from pipeline.jobs.config import check
from pipeline.jobs.config_files import read_sections

ROOT = Path(__file__).resolve().parents[1]


def schema() -> dict[str, Any]:
    """Give the JSON schema of the configuration.

    To workflow/schemas/config.schema.yaml come the settings of each method in
    `models.registry.METHODS`: those of every method, in models/methods/base.yaml, and its own, in
    the YAML file beside its Python file, where it ``inherits`` those of another.
    """
    found = _yaml(ROOT / "workflow" / "schemas" / "config.schema.yaml")
    common = _yaml(ROOT / "models" / "methods" / "base.yaml")
    common["conditioning"]["items"]["enum"] = list(CHANNELS)
    images = [name for name, channel in CHANNELS.items() if channel.scale == IMAGES]
    common["residual"]["images"] = images
    found["properties"]["training"]["properties"]["target"]["enum"] = list(TARGETS)
    own: dict[str, Any] = {}
    for path in sorted({_beside(place) for place in METHODS.values()}):
        own |= _yaml(path) if path.exists() else {}
    methods = {name: _section(_inherited(name, own), common) for name in METHODS}
    properties = found["properties"]
    properties["methods"] |= {"required": list(METHODS), "properties": methods}
    variant = properties["variants"]["additionalProperties"]["properties"]
    variant["method"]["enum"] = list(METHODS)
    return found


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


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def read_configuration(overlays: Sequence[Path]) -> dict[str, Any]:
    """Lay configuration files over config/config.yaml, as Snakemake's ``--configfile``, and check.

    Raises
    ------
    InputError
        If a file is missing or no configuration, or they make none that the workflow would take.
    """
    from snakemake.utils import update_config  # type: ignore[import-untyped]

    config: dict[str, Any] = {}
    for path in (ROOT / "config" / "config.yaml", *overlays):
        update_config(config, read_sections(path))
    check(config, schema())
    return config
