"""What a folder of results came from: ``python -m pipeline.provenance FILE`` verifies it."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from pipeline import hdf5
from pipeline.code import ROOT, code_hash
from pipeline.errors import InputError

PACKAGES = (
    "torch",
    "lightning-fabric",
    "diffusers",
    "ptwt",
    "PyWavelets",
    "torchmetrics",
    "numpy",
    "scipy",
    "h5py",
    "nibabel",
    "snakemake",
    "parallelproj",
)
"""Whose versions matter for the numbers; "absent" where one is not installed."""


def write(
    output: Path, resolved: Path, config: Mapping[str, Any], files: Sequence[Path], logs: Path
) -> None:
    """Rule ``provenance``: record what the results were made with, and what they are.

    Parameters
    ----------
    output : Path
        JSON: ``code`` (hash of each script and of all that it imports from here), ``versions``,
        ``machine``, ``seconds`` (of each job that was timed, and their sum) and ``files`` (sha256).
    resolved : Path
        YAML: the configuration with all overlays applied.
    config : mapping
        The configuration. The folder of downloaded volumes, which is the user's own, is left out.
    files : sequence of path
        Data, weights and results, relative to the current folder.
    logs : Path
        Folder of the jobs' benchmark tables.
    """
    seconds = _seconds(logs)
    record = {
        "name": config["name"],
        "source": config["source"],
        "seed": config["seed"],
        "code": {
            script.stem: code_hash(script.name)
            for script in sorted((ROOT / "workflow" / "scripts").glob("*.py"))
        },
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "seconds": {"sum": round(sum(seconds.values()), 1), **seconds},
        "files": {str(path): _sha256(path) for path in sorted(files)},
    }
    with hdf5.atomic(output) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    with hdf5.atomic(resolved) as temporary:
        plain = {**json.loads(json.dumps(config)), "brainweb_dir": ""}
        temporary.write_text(yaml.safe_dump(plain, sort_keys=False))


def differences(path: Path) -> list[str]:
    """List the files of a record of `write` that are missing or have changed since.

    Raises
    ------
    InputError
        If the record is missing or damaged.
    """
    try:
        files = json.loads(path.read_text())["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(path, f"is no record ({error})", "run rule 'provenance' again") from error
    found = []
    for name, expected in files:
        if not Path(name).is_file():
            found.append(f"{name}: missing")
        elif _sha256(Path(name)) != expected:
            found.append(f"{name}: changed")
    return found


def _seconds(logs: Path) -> dict[str, float]:
    """Wall-clock seconds of each job by its benchmark table's name."""
    found = {}
    for path in sorted(logs.rglob("*.tsv")):
        header, row, *_ = path.read_text().splitlines()
        name = path.relative_to(logs).with_suffix("").as_posix()
        found[name] = float(dict(zip(header.split("\t"), row.split("\t"), strict=True))["s"])
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str]) -> int:
    """Print what has changed; 0 if nothing."""
    if len(arguments) != 1:
        print("usage: python -m pipeline.provenance results/NAME/provenance.json")
        return 2
    try:
        changed = differences(Path(arguments[0]))
    except InputError as error:
        print(error)
        return 2
    print("\n".join(changed) or "all files are as recorded")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
