"""Where the time of a subject's data goes: starting, reading, writing, multiplying, each alone.

    snakemake --cores 1 --forceall -- data/paper/shards/subject04.h5
    python -m benchmarks.data_half subject04

Of each rule the processor seconds that its job took, as Snakemake recorded them, and what parts of
it take here, on one core: the imports of its script, its files as they are read and written, the
products with its matrices, of FBP with its filter. The products' rate is of an entry's weight and
column, 8 bytes, for each stack of slices, and 4 bytes for each slice's value, beside the rate at
which memory is copied.
"""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import pandas as pd
import torch
import typer

from benchmarks.starts import ROOT, seconds_to_import
from pipeline.fbp import FilteredBackProjection
from pipeline.osem import SLICES_AT_A_TIME
from pipeline.storage import hdf5, kinds
from pipeline.tomography import projectors, system_matrix
from pipeline.tomography.geometry import Grid
from pipeline.tomography.scanners import scanner_from

FILES = {
    "fetch": ([], ["labels"]),
    "phantom": (["labels"], ["phantoms"]),
    "slices": (["phantoms"], ["slices"]),
    "sinogram": (["slices", "system_matrix"], ["sinograms"]),
    "osem": (["sinograms", "system_matrix"], ["osem"]),
    "fbp": (["sinograms"], ["fbp"]),
    "shard": (["slices", "sinograms", "osem", "fbp"], []),
}
"""What each rule reads, and what it packs and writes; a shard's chunks are copied as they are."""

KINDS = {
    "labels": kinds.LABELS,
    "phantoms": kinds.PHANTOM,
    "slices": kinds.SLICES,
    "sinograms": kinds.SINOGRAM,
    "osem": kinds.OSEM,
    "fbp": kinds.FBP,
}

TURNS = 3

VOLUME = 55
"""Slices that FBP takes at once: those of a rotation."""


def seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of some work, the least of some turns."""
    found = []
    for _ in range(TURNS):
        before = time.process_time()
        work()
        found.append(time.process_time() - before)
    return min(found)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Read all datasets of a file."""
    with h5py.File(path) as file:
        return {name: dataset[()] for name, dataset in file.items()}


def write(kind: hdf5.Kind, arrays: dict[str, np.ndarray]) -> None:
    """Write a file, and drop it."""
    with tempfile.TemporaryDirectory() as folder:
        hdf5.write(Path(folder) / "file.h5", kind, arrays, {})


def products(paths: dict[str, Path]) -> dict[str, tuple[float, float]]:
    """Seconds of the products of rules, and the gigabytes that these move."""
    with h5py.File(paths["sinograms"]) as file:
        ring = scanner_from(json.loads(file.attrs["geometry"]))
        grid = Grid(**json.loads(file.attrs["config"])["grid"])
        counted = (file["prompts"][()] > 0).any(axis=0)
        slices = len(file["prompts"])
    osem = _settings(paths["osem"], "osem")
    iterations, subsets = osem["iterations"], osem["subsets"]
    projector = projectors.load("sparse", ring, grid, subsets, paths["system_matrix"])
    few = projector.of_lors(counted)
    matrices, _ = system_matrix.read(paths["system_matrix"], ring, grid, subsets)
    lengths = np.concatenate([np.diff(matrix.indptr) for matrix in matrices])
    marked = np.concatenate([counted[subset::subsets].ravel() for subset in range(subsets)])
    entries, entries_of_few = int(lengths.sum()), int(lengths[marked].sum())
    columns = torch.rand(matrices[0].shape[1], SLICES_AT_A_TIME)
    stacks = slices / SLICES_AT_A_TIME

    def both(of: projectors.Projector, back: bool) -> None:
        for subset in range(subsets):
            lors = of.forward(columns, subset)
            if back:
                of.back(lors, subset)

    method = FilteredBackProjection(ring, grid, **_settings(paths["fbp"], "fbp"))
    of_fbp = 2 * len(columns) * len(method.angles)
    sinograms = np.random.default_rng(0).random((VOLUME, *counted.shape), dtype=np.float32)

    def moved(entries: int, passes: int, stacks: float) -> float:
        return passes * entries * (8 * stacks + 4 * slices) / 1e9

    return {
        "sinogram": (
            seconds(lambda: both(projector, back=False)) * stacks,
            moved(entries, 1, stacks),
        ),
        "osem": (
            seconds(lambda: both(few, back=True)) * iterations * stacks,
            moved(entries_of_few, 2 * iterations, stacks),
        ),
        "fbp": (
            seconds(lambda: method(sinograms)) * slices / VOLUME,
            moved(of_fbp, 1, slices / VOLUME),
        ),
    }


def _settings(path: Path, key: str) -> dict[str, Any]:
    with h5py.File(path) as file:
        return dict(json.loads(file.attrs["config"])[key])


def copying() -> float:
    """Rate at which one core copies memory, bytes read and bytes written, in GB/s."""
    source = np.ones(2**28, dtype=np.uint8)
    target = np.empty_like(source)
    return 2 * len(source) / 1e9 / seconds(lambda: np.copyto(target, source))


def main(
    subject: Annotated[str, typer.Argument(help="Whose shard has been made.")],
    name: Annotated[str, typer.Option(help="Of the configuration.")] = "paper",
    source: Annotated[str, typer.Option(help="Of the labels.")] = "brainweb",
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    data = ROOT / "data"
    paths = {folder: data / name / folder / f"{subject}.h5" for folder in KINDS}
    paths["labels"] = data / "labels" / source / f"{subject}.h5"
    paths["system_matrix"] = data / name / "system_matrix" / "reconstruction.h5"
    arrays = {folder: arrays_of(path) for folder, path in paths.items()}
    reading = {folder: seconds(partial(arrays_of, path)) for folder, path in paths.items()}
    writing = {
        folder: seconds(partial(write, kind, arrays[folder])) for folder, kind in KINDS.items()
    }
    size = {f: sum(a.nbytes for a in found.values()) / 1e6 for f, found in arrays.items()}
    multiplied = products(paths)
    rows = []
    for rule, (read, written) in FILES.items():
        log = ROOT / "logs" / name / rule / f"{subject}.tsv"
        taken, moved = multiplied.get(rule, (0.0, 0.0))
        row = {
            "rule": rule,
            "all": float(pd.read_csv(log, sep="\t")["cpu_time"].iloc[0]),
            "imports": seconds_to_import(ROOT, f"{rule}.py"),
            "reading": sum(reading[folder] for folder in read),
            "writing": sum(writing[folder] for folder in written),
            "products": taken,
        }
        row["rest"] = 2 * row["all"] - sum(value for key, value in row.items() if key != "rule")
        row |= {
            "read MB": sum(size[folder] for folder in read),
            "written MB": sum(size[folder] for folder in written),
            "GB/s": moved / taken if taken else np.nan,
        }
        rows.append(row)
    table = pd.DataFrame(rows).round({"read MB": 0, "written MB": 0, "GB/s": 0}).round(2)
    print(table.to_string(index=False))
    print(f"memory is copied at {copying():.0f} GB/s, read and written")


if __name__ == "__main__":
    typer.run(main)
