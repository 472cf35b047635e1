"""The configuration's schema, with methods and condition channels; and files checked by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.channels import TARGETS
from models.registry import METHODS
from models.sections import ROOT, read_yaml, sections
from pipeline.jobs.config import check
from pipeline.jobs.config_files import read_sections


def schema() -> dict[str, Any]:
    """Give the JSON schema of the configuration.

    To workflow/schemas/config.schema.yaml come the methods' `models.sections.sections`.
    """
    found = read_yaml(ROOT / "workflow" / "schemas" / "config.schema.yaml")
    found["properties"]["training"]["properties"]["target"]["enum"] = list(TARGETS)
    properties = found["properties"]
    properties["methods"] |= {"required": list(METHODS), "properties": sections()}
    variant = properties["variants"]["additionalProperties"]["properties"]
    variant["method"]["enum"] = list(METHODS)
    return found


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
