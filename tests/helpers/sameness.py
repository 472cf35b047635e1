"""Compares the files of two runs of the workflow: all that a run with the same settings repeats."""

import gzip
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

TIMED = re.compile(r"slices_per_second|seconds")
"""Columns of training logs that hold times."""


def finals(folder: Path) -> set[str]:
    """Name all files under ``data`` and ``results`` but those that training resumes from."""
    return {
        str(path.relative_to(folder))
        for top in ("data", "results")
        for path in (folder / top).rglob("*")
        if path.is_file() and "runs" not in path.relative_to(folder).parts
    }


def differences(folder: Path, reference: Path) -> list[str]:
    """List the files of ``folder`` that are not whole and equal to those of ``reference``."""
    found = []
    for name in sorted(finals(folder)):
        if Path(name).name.endswith(".tmp"):
            continue  # never a final name
        if not (reference / name).exists():
            found.append(f"{name}: unknown")
        elif problem := _difference(folder / name, reference / name):
            found.append(f"{name}: {problem}")
    return found


def _difference(path: Path, other: Path) -> str | None:
    if path.read_bytes() == other.read_bytes():
        return None
    try:
        match path.suffix:
            case ".h5":
                return _hdf5(path, other)
            case ".csv" | ".gz":
                return None if _table(path).equals(_table(other)) else "other values"
            case ".json":
                return _record(path, other)
    except (OSError, ValueError, KeyError, EOFError) as error:
        return f"incomplete ({error})"
    if path.name in ("samplers.png", "consistency.png"):  # they draw seconds; trailers tell
        return None if path.read_bytes().endswith(b"IEND\xaeB`\x82") else "incomplete"
    return "other bytes"


def _hdf5(path: Path, other: Path) -> str | None:
    with h5py.File(path) as first, h5py.File(other) as second:
        if set(first) != set(second):
            return "other datasets"
        for name in first:
            if not np.array_equal(first[name][()], second[name][()]):
                return f"other values in {name}"
        if dict(first.attrs).keys() != dict(second.attrs).keys():
            return "other attributes"
        changed = [n for n, v in first.attrs.items() if np.any(v != second.attrs[n])]
    return f"other attributes {changed}" if changed else None


def _table(path: Path) -> pd.DataFrame:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as file:
        table = pd.read_csv(file, keep_default_na=False, na_values=[""])
    if "metric" in table:
        table = table[table["metric"] != "reconstruction_seconds"].reset_index(drop=True)
    return table.drop(columns=[name for name in table if TIMED.fullmatch(name)])


def _record(path: Path, other: Path) -> str | None:
    """Compare provenance but for seconds and the files that hold some."""
    first, second = (
        json.loads(path.read_text(encoding="utf-8")),
        json.loads(other.read_text(encoding="utf-8")),
    )
    for record in (first, second):
        del record["seconds"]
        record["files"] = sorted(record["files"])
    return None if first == second else "other contents"
