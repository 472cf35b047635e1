"""Run all checks and measurements, the checks first: ``python -m benchmarks.gpu``.

Ends with 1 if anything failed.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.gpu import fast, meaning, reference, right, tomography
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.runs import Runs
from benchmarks.gpu.table import Table
from benchmarks.steps import noise_shard
from models.registry import METHODS

ROOT = Path(__file__).parents[2]
SLICES = 64
"""Of the shard that is trained on and read: as many as the largest batches take."""


def check(table: Table, scene: tomography.Scene, folder: Path) -> None:
    """Fill in what is right."""
    machine = table.machine
    paths = [noise_shard(made(folder / "small"), right.size_of(machine))]
    for name in METHODS:
        table.add("right", name, partial(right.one_step, machine, paths, name))
    for name in METHODS:
        what = f"{name}: images alone and in a batch"
        table.add("right", what, partial(right.independence, machine, paths, name))
    table.add("right", "sparse projector", partial(tomography.sparse_agrees, scene))
    what = "parallelproj against the sparse projector"
    table.add("right", what, partial(tomography.parallelproj_agrees, scene))
    what = "projector: auto takes parallelproj"
    table.add("right", what, partial(tomography.auto_takes_parallelproj, scene))
    runs = Runs(machine, made(folder / "runs"))
    table.add("right", "training killed and resumed", runs.resumed)
    table.add("right", "training on two devices", runs.on_two_devices)


def measure(table: Table, scene: tomography.Scene, folder: Path) -> fast.Speeds:
    """Fill in what is fast; methods in all combinations take what time the rest leaves."""
    machine, size = table.machine, table.machine.config["network"]["size"]
    speeds = fast.Speeds(machine, [noise_shard(made(folder / "full"), size, SLICES)])
    for name in ("sparse", "parallelproj"):
        what = f"{name}: projection and OSEM"
        table.add("fast", what, partial(tomography.times, machine, scene, name))
    table.add("fast", "fused operations", partial(fast.operations, machine))
    table.add("fast", "the reference's U-Net", partial(reference.rows, machine))
    speeds.measure(table)
    table.add("fast", "reading shards", speeds.reading)
    return speeds


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "gpu")
    parser.add_argument("--budget", type=float, default=540.0, help="s; then no measurement begins")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    overlay = options.output / "gpu.yaml"
    overlay.unlink(missing_ok=True)  # of an earlier run, should this one not come to one
    table = Table(Machine.here(options.budget))
    scene = tomography.Scene(table.machine)
    with tempfile.TemporaryDirectory() as folder:
        check(table, scene, Path(folder))
        table.write(options.output, {"measurements": []})  # should the rest be killed
        speeds = measure(table, scene, Path(folder))
    hours = partial(meaning.rows, table.machine, speeds.found, overlay)
    table.add("what it means", "hours", hours)
    written = table.write(options.output, {"measurements": [asdict(each) for each in speeds.found]})
    print(f"\n{len(table.failed)} failed; written: {', '.join(map(str, written))}")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
