"""Files with sections of the configuration: overlays, and scanners by their names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.storage.system_errors import unreadable
from pipeline.tomography.scanners import GEOMETRIES

SCANNERS = Path(__file__).resolve().parents[2] / "config" / "scanners"


def read_sections(path: Path) -> dict[str, Any]:
    """Read a YAML file with keys.

    Raises
    ------
    InputError
        If it is missing, or no such file.
    """
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


def take_scanner(config: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Put a scanner's section in place of its name, and give the schema with the rules for it.

    Parameters
    ----------
    config : dict
        The merged configuration, of which ``scanner`` may be a name in config/scanners, or a path.
    schema : mapping
        With the rules of each geometry in ``$defs``.

    Raises
    ------
    InputError
        If there is no such file.
    """
    if isinstance(config.get("scanner"), str):
        config["scanner"] = read_sections(_file_of(config["scanner"]))
    scanner = config.get("scanner")
    kind = scanner.get("geometry") if isinstance(scanner, dict) else None
    rule = dict(schema["properties"]["scanner"])
    if kind in GEOMETRIES:
        rule = schema["$defs"][kind]
    elif isinstance(scanner, dict):
        described = schema["$defs"]["ring"]["properties"]["geometry"]["description"]
        rule |= {"required": ["geometry"]}
        rule |= {"properties": {"geometry": {"description": described, "enum": [*GEOMETRIES]}}}
    return {**schema, "properties": {**schema["properties"], "scanner": rule}}


def _file_of(name: str) -> Path:
    known = sorted(path.stem for path in SCANNERS.glob("*.yaml"))
    path = SCANNERS / f"{name}.yaml" if name in known else Path(name)
    if not path.is_file():
        remedy = f"choose from {', '.join(known)}, or give the path of such a file"
        raise InputError("scanner", f"is {name!r}, which is no file", remedy)
    return path
