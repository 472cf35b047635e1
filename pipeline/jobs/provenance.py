"""What a folder of results came from: ``python -m pipeline.jobs.provenance FILE`` verifies it."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import yaml

from pipeline.jobs.used_code import ROOT, code_hash
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError, escape_printing
from pipeline.storage.files import atomic_file, check_readable
from pipeline.storage.system_errors import unreadable
from pipeline.storage.versions import versions

MADE_WITH = ("seed", "training_seed", "projector", "osem_projector", "device")
"""Attributes of HDF5 files that say what was really used, whatever the configuration left open."""

NO_PATHS = {"brainweb_dir": "", "images_dir": "", "scans": {}}
"""In place of what names the user's folders and files, which are nobody else's business."""

OF_TRAINING = ("seed", "device", "devices", "code")
"""The same, of the YAML file beside the weights."""


@dataclass(frozen=True)
class Sources:
    """What a record is made of; paths are relative to the current folder.

    Attributes
    ----------
    inputs : sequence of path
        What the workflow began with: the table of subjects, label files.
    stages : sequence of path
        HDF5 files between these and the shards, of which the attributes are recorded alone.
    files : sequence of path
        Shards, weights and results; of a folder, all files in it.
    settings : sequence of path
        Those of them that say what a model was trained with.
    logs : path
        Folder of the jobs' benchmark tables.
    """

    inputs: Sequence[Path]
    stages: Sequence[Path]
    files: Sequence[Path]
    settings: Sequence[Path]
    logs: Path


def write(output: Path, resolved: Path, config: Mapping[str, Any], sources: Sources) -> None:
    """Rule ``provenance``: record what the results were made with, and what they are.

    Parameters
    ----------
    output : Path
        JSON; docs/data-formats.md lists its entries.
    resolved : Path
        YAML: the configuration with all overlays applied.
    config : mapping
        The configuration, recorded with `NO_PATHS`.
    sources : Sources
        What else goes into the record.

    Raises
    ------
    InputError
        If a file cannot be read or written.
    """
    with atomic_file(resolved) as temporary:
        plain = json.loads(json.dumps(config)) | NO_PATHS
        temporary.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    files = sorted({resolved, *(file for path in sources.files for file in _files_of(path))})
    # Nobody needs these once there are shards, and may have deleted them for their space.
    inputs, stages = (
        sorted(path for path in paths if path.exists())
        for paths in (sources.inputs, sources.stages)
    )
    seconds = _seconds(sources.logs)
    record = {
        "name": config["name"],
        "source": config["source"],
        "seed": config["seed"],
        "command": f"snakemake --cores all --configfile {resolved}",
        "git": commit(),
        "code": _code(),
        "versions": versions(),
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "made_with": _made_with(_attributes([*stages, *files])),
        "trained_with": {path.stem: _trained_with(path) for path in sorted(sources.settings)},
        "labels": {found["subject"]: found["labels_sha256"] for found in _attributes(inputs)},
        "seconds": {"sum": round(sum(seconds.values()), 1), **seconds},
        "folder": os.path.relpath(Path.cwd(), output.absolute().parent),
        "inputs": {str(path): _sha256(path) for path in inputs},
        "files": {str(path): _sha256(path) for path in files},
    }
    with atomic_file(output) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


# --- what is recorded ----------------------------------------------------------------------------


def _files_of(path: Path) -> Iterator[Path]:
    """Give a file itself, and of a folder all files but hidden ones, which are Snakemake's."""
    if not path.is_dir():
        yield path
    for file in path.rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            yield file


def commit() -> dict[str, Any]:
    """Say at which commit the code is, and whether it was changed since.

    Returns
    -------
    dict
        ``commit`` and ``changed``; or ``unknown``, the reason why they are not known.
    """
    try:
        return {"commit": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--porcelain"))}
    except OSError as error:
        return {"unknown": f"git cannot be run ({error.strerror})"}
    except subprocess.CalledProcessError as error:
        return {"unknown": f"git says: {error.stderr.strip()}"}


def _git(*arguments: str) -> str:
    """Ask git about the project's folder itself.

    Named in full, neither a repository around the folder, which is another project's, nor that of
    a hook's environment is taken for it, and it may belong to another user, whose code runs anyway.
    """
    repository = ("--git-dir", ROOT / ".git", "--work-tree", ROOT)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", ROOT, *repository, "--no-optional-locks", *arguments],
        env=inherited | {"LC_ALL": "C"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
    ).stdout.strip()


def _code() -> dict[str, str]:
    """Hash of each rule's script and of all that it imports from here."""
    scripts = sorted((ROOT / "workflow" / "scripts").glob("*.py"))
    return {script.stem: code_hash(script.name) for script in scripts}


def _attributes(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Read the attributes of those paths that are HDF5 files, as plain values."""
    for path in paths:
        if path.suffix != ".h5":
            continue
        try:
            with h5py.File(path, "r") as file:
                yield {
                    name: getattr(v, "tolist", lambda v=v: v)() for name, v in file.attrs.items()
                }
        except hdf5.HDF5_ERRORS as error:
            remedy = f"delete it and make it again: snakemake --cores all -- {path}"
            raise unreadable(path, error, f"is damaged ({error})", remedy) from error


def _made_with(files: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """List the values that each attribute of `MADE_WITH` has in the files of a kind."""
    found: dict[str, dict[str, list[Any]]] = {}
    for attributes in files:
        values = found.setdefault(attributes["kind"], {})
        for name in MADE_WITH:
            if name in attributes and attributes[name] not in values.setdefault(name, []):
                values[name].append(attributes[name])
    return found


def _trained_with(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: found[name] for name in OF_TRAINING}


def _seconds(logs: Path) -> dict[str, float]:
    """Wall-clock seconds of each job by its benchmark table's name."""
    found = {}
    for path in sorted(logs.rglob("*.tsv")):
        header, row, *_ = path.read_text(encoding="utf-8").splitlines()
        name = path.relative_to(logs).with_suffix("").as_posix()
        found[name] = float(dict(zip(header.split("\t"), row.split("\t"), strict=True))["s"])
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- and compared --------------------------------------------------------------------------------


def differences(path: Path) -> list[str]:
    """List the inputs and files of a record of `write` that are missing or have changed since.

    Raises
    ------
    InputError
        If the record is missing or damaged.
    """
    folder, record = _read(path)
    states = (
        (name, _state(folder / name, expected))
        for name, expected in (record["inputs"] | record["files"]).items()
    )
    return [f"{name}: {state}" for name, state in states if state]


def _state(path: Path, expected: str) -> str | None:
    try:
        if not path.exists():
            return "missing"
        return "changed" if not path.is_file() or _sha256(path) != expected else None
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def notes(path: Path) -> list[str]:
    """List what a record of `write` does not speak for: other code, files that it does not know.

    Raises
    ------
    InputError
        If the record is missing or damaged.
    """
    folder, record = _read(path)
    now = _code()
    other = [name for name, expected in record["code"].items() if now.get(name) != expected]
    found = [f"the code here is not the recorded one: {', '.join(other)}"] if other else []
    known = {Path(os.path.abspath(folder / name)) for name in record["files"]}  # noqa: PTH100
    unknown = _unknown(path.absolute().parent, {*known, path.absolute()})
    return found + [f"not in the record: {os.path.relpath(name, folder)}" for name in unknown]


def _unknown(folder: Path, known: set[Path]) -> Iterator[Path]:
    """Name files that are not known, and folders of which no file is."""
    for path in sorted(folder.iterdir()):
        if path in known or path.name.startswith("."):
            continue
        if path.is_dir() and any(path in file.parents for file in known):
            yield from _unknown(path, known)
        elif not path.is_dir() or any(_files_of(path)):
            yield path


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read a record, and find the folder that its paths start from."""
    remedy = "run rule 'provenance' again"
    check_readable(path, "record", remedy)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for name in ("inputs", "files", "code"):
            record[name].items()
        # By names alone: 'results' may be a link to another disk.
        folder = Path(os.path.normpath(path.absolute().parent / record["folder"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable(path, error, f"is no record ({error!r})", remedy) from error
    return folder, record


def main(arguments: Sequence[str]) -> int:
    """Print what has changed, then what the record does not speak for; 0 if nothing has changed."""
    if len(arguments) != 1:
        print("usage: python -m pipeline.jobs.provenance results/NAME/provenance.json")
        return 2
    escape_printing()
    path = Path(arguments[0])
    try:
        changed, others = differences(path), notes(path)
    except InputError as error:
        print(error)
        return 2
    for line in [*changed, *(f"note: {note}" for note in others)]:
        # Names may come from elsewhere.
        print(line if line.isprintable() else line.encode("unicode_escape").decode())
    print(f"{len(changed)} files are not as recorded" if changed else "all files are as recorded")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
