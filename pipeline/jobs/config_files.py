"""Configuration files, laid over each other and checked as in the workflow, for other commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.jobs.config import check
from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.storage.system_errors import unreadable

ROOT = Path(__file__).resolve().parents[2]


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
        update_config(config, _sections(path))
    check(config, ROOT / "workflow" / "schemas" / "config.schema.yaml")
    return config


def _sections(path: Path) -> dict[str, Any]:
    check_readable(path, "configuration", "correct its path")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        problem = f"is no configuration ({error})"
        raise unreadable(path, error, problem, "correct it") from error
    if not isinstance(found, dict):
        problem = f"is no configuration, but {'empty' if found is None else type(found).__name__}"
        raise InputError(path, problem, "give sections with keys, as config/demo.yaml does")
    return found
