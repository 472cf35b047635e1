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
from pipeline.osem import SLICES_AT_A_TIME, OsemSettings
from pipeline.storage import hdf5, kinds
from pipeline.tomography import projectors, system_matrix
from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.scanners import Geometry, scanner_from

FILES = {
    "fetch": ([], ["labels"]),
    "phantom": (["labels"], ["phantoms"]),
    "slices": (["phantoms"], ["slices"]),
    "sinogram": (["slices", "simulation"], ["sinograms"]),
    "osem": (["sinograms", "reconstruction"], ["osem"]),
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
        simulated = Grid(**json.loads(file.attrs["config"])["grid"])
        counted = (file["prompts"][()] > 0).any(axis=0)
        slices = len(file["prompts"])
    osem, fbp = (_settings(paths[rule]) for rule in ("osem", "fbp"))
    grid, own = Grid(**osem["grid"]), OsemSettings(**osem["osem"])
    stacks = slices / SLICES_AT_A_TIME
    simulator = projectors.load("sparse", ring, simulated, None, paths["simulation"])
    forward = _seconds_of_a_pass(simulator, back=False) * stacks
    entries = _entries(paths["simulation"], ring, simulated, np.ones_like(counted))
    few = projectors.load("sparse", ring, grid, None, paths["reconstruction"]).of_lors(counted)
    updates = _seconds_of_a_pass(few, back=True) * own.iterations * stacks
    entries_of_few = _entries(paths["reconstruction"], ring, grid, counted)
    method = FilteredBackProjection(ring, grid, **fbp["fbp"])
    pixels = np.count_nonzero(field_of_view(ring, grid))
    volume = np.random.default_rng(0).random((VOLUME, *counted.shape), dtype=np.float32)
    back = seconds(lambda: method(volume)) * slices / VOLUME

    def moved(entries: int, stacks: float) -> float:
        return entries * (8 * stacks + 4 * slices) / 1e9

    return {
        "sinogram": (forward, moved(entries, stacks)),
        "osem": (updates, 2 * own.iterations * moved(entries_of_few, stacks)),
        "fbp": (back, moved(2 * pixels * len(method.angles), slices / VOLUME)),
    }


def _seconds_of_a_pass(projector: projectors.Projector, back: bool) -> float:
    """Of one stack of slices through all subsets, forth, and back too if asked."""
    images = np.ones((SLICES_AT_A_TIME, projector.grid.size, projector.grid.size), np.float32)
    columns = projector.columns(images)

    def once() -> None:
        for subset in range(projector.subsets):
            lors = projector.forward(columns, subset)
            if back:
                projector.back(lors, subset)

    return seconds(once)


def _entries(matrix: Path, ring: Geometry, grid: Grid, counted: np.ndarray) -> int:
    """Entries of the LORs (view, radial) that are counted."""
    forward, _ = system_matrix.read(matrix, ring, grid, None)
    return sum(
        int(np.diff(part.indptr)[counted[subset :: len(forward)].ravel()].sum())
        for subset, part in enumerate(forward)
    )


def _settings(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return dict(json.loads(file.attrs["config"]))


def copying() -> float:
    """Rate at which one core copies memory, bytes read and bytes written, in GB/s."""
    source = np.ones(2**28, dtype=np.uint8)
    target = np.empty_like(source)
    return 2 * len(source) / 1e9 / seconds(lambda: np.copyto(target, source))


def table(folder: Path, name: str, source: str, subject: str) -> pd.DataFrame:
    """One row a rule, of the files and records that lie in a folder.

    Parameters
    ----------
    name, source, subject : str
        Of the configuration, of the labels, and whose shard has been made.
    """
    data = folder / "data"
    paths = {kind: data / name / kind / f"{subject}.h5" for kind in KINDS}
    paths["labels"] = data / "labels" / source / f"{subject}.h5"
    matrix = data / name / "system_matrix" / "reconstruction.h5"
    simulation = matrix.with_name("simulation.h5")  # on finer pixels, if they are
    paths["reconstruction"] = matrix
    paths["simulation"] = simulation if simulation.exists() else matrix
    arrays = {key: arrays_of(path) for key, path in paths.items()}
    reading = {key: seconds(partial(arrays_of, path)) for key, path in paths.items()}
    writing = {key: seconds(partial(write, kind, arrays[key])) for key, kind in KINDS.items()}
    size = {key: sum(a.nbytes for a in found.values()) / 1e6 for key, found in arrays.items()}
    multiplied = products(paths)
    rows = []
    for rule, (read, written) in FILES.items():
        log = pd.read_csv(folder / "logs" / name / rule / f"{subject}.tsv", sep="\t")
        taken, moved = multiplied.get(rule, (0.0, 0.0))
        parts = {
            "imports": seconds_to_import(ROOT, f"{rule}.py"),
            "reading": sum(reading[key] for key in read),
            "writing": sum(writing[key] for key in written),
            "products": taken,
        }
        job = float(log["cpu_time"].iloc[0])
        rows.append(
            {"rule": rule, "all": job, **parts, "rest": job - sum(parts.values())}
            | {"read MB": sum(size[key] for key in read)}
            | {"written MB": sum(size[key] for key in written)}
            | {"GB/s": moved / taken if taken else np.nan}
        )
    return pd.DataFrame(rows)


def main(
    subject: Annotated[str, typer.Argument(help="Whose shard has been made.")],
    name: Annotated[str, typer.Option(help="Of the configuration.")] = "paper",
    source: Annotated[str, typer.Option(help="Of the labels.")] = "brainweb",
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    found = table(ROOT, name, source, subject)
    found = found.round({"read MB": 0, "written MB": 0, "GB/s": 0}).round(2)
    print(found.to_string(index=False))
    print(f"memory is copied at {copying():.0f} GB/s, read and written")


if __name__ == "__main__":
    typer.run(main)
