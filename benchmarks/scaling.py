"""Growth: the workflow's jobs for more and more subjects, and its graph for very many.

    python -m benchmarks.scaling [--subjects 1 2 4 8 16] [--cores 1 2] [--graph 20 200 2000]

Jobs: heads from the MNI152 template at the demonstration's size; files and processes are those
of the paper's. "data" makes the shards of n test subjects; "evaluation" reconstructs them with a
PnPNet of one epoch, measures all slices and makes Table 1. Each is one call of Snakemake; what
starts with it (Snakemake itself, planning) is in its time.

Graph: the paper's configuration and a simulated table of subjects. "all to do" is a dry run in an
empty folder; "all done" schedules and records every job as a run does, but finds its outputs there,
empty files (--touch); "nothing to do" is a dry run after that.

Seconds of processor time are those of the call and of all that it started, and so is the memory:
of the largest process, and of all at one time (sampled; what processes share counts in each).
A number that is left out (``--graph`` alone, say) skips that part. Each line is printed as soon as
it is measured.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

ROOT = Path(__file__).parents[1]
BASE = ROOT / "config" / "demo.yaml"
OVERLAY = {
    "name": "scaling",
    "subjects": "subjects.tsv",
    "methods": {"PnPNet": {"epochs": 1}},
    "sampling": {"samples": 1},
    "evaluation": {"models": ["PnPNet"], "uncertainty": ""},
}
TRAINED = {"subject01": "train", "subject02": "validation"}
INTERVAL_S = 0.1
SNAKEMAKE = """
from snakemake.cli import main
from snakemake.executors import touch
touch.Executor.SLEEPING_TIME = 0  # else --touch would wait 0.1 s for each job
main()
"""


class Cost(NamedTuple):
    """Of one call of Snakemake: seconds, memory in MB, and what it printed."""

    wall_s: float
    cpu_s: float
    largest_mb: float
    together_mb: float
    output: str


def call(folder: Path, arguments: Sequence[str]) -> Cost:
    """Run Snakemake in a folder; what it prints is shown if it fails."""
    command = [sys.executable, "-c", SNAKEMAKE, *arguments]
    peak, ended = [0.0], threading.Event()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        watch = threading.Thread(target=_watch, args=(process.pid, peak, ended))
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)  # of it and of all its descendants
        wall_s = time.perf_counter() - start
        ended.set()
        watch.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-3000:]}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Cost(wall_s, cpu_s, usage.ru_maxrss / 1024, peak[0], text)


def _watch(pid: int, peak: list[float], ended: threading.Event) -> None:
    """Keep the largest sum of resident memory (MB) of a process and its descendants."""
    while not ended.wait(INTERVAL_S):
        total = 0
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
        peak[0] = max(peak[0], total / 2**20)


def workplace(folder: Path) -> Path:
    """Lay out a folder in which Snakemake finds this workflow."""
    folder.mkdir()
    for name in ("Snakefile", "workflow", "config", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def write_subjects(folder: Path, splits: Iterable[tuple[str, str]]) -> None:
    """Write subjects.tsv from names and splits, with made-up hashes."""
    lines = [
        f"{name}\t{split}\t{hashlib.sha256(name.encode()).hexdigest()}" for name, split in splits
    ]
    table = "\n".join(["subject\tsplit\tlabels_sha256", *lines]) + "\n"
    (folder / "subjects.tsv").write_text(table, encoding="utf-8")


# --- jobs --------------------------------------------------------------------------------------


def prepare(folder: Path, cores: int) -> None:
    """Train the network that reconstructs."""
    workplace(folder)
    (folder / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY), encoding="utf-8")
    write_subjects(folder, [*TRAINED.items(), ("subject03", "test")])
    run(folder, cores, ["results/scaling/weights/PnPNet.safetensors"])


def run(folder: Path, cores: int, targets: Sequence[str]) -> Cost:
    overlays = ["--configfile", str(BASE), "overlay.yaml"]
    return call(folder, ["--cores", str(cores), *overlays, "--", *targets])


def jobs(folder: Path, subjects: int, cores: int) -> tuple[Cost, Cost]:
    """Make the data of some test subjects, then evaluate on them.

    The prepared folder's training data and weights stay; all else is made anew.
    """
    names = [f"subject{number:02d}" for number in range(3, 3 + subjects)]
    write_subjects(folder, [*TRAINED.items(), *((name, "test") for name in names)])
    for path in (path for path in (folder / "data").rglob("*.h5") if path.stem not in TRAINED):
        if path.parent.name != "system_matrix":
            path.unlink()
    results = folder / "results" / "scaling"
    for name in ("reconstructions", "metrics"):
        shutil.rmtree(results / name, ignore_errors=True)
    for name in ("metrics.csv.gz", "table1.md"):
        (results / name).unlink(missing_ok=True)
    data = run(folder, cores, [f"data/scaling/shards/{name}.h5" for name in names])
    return data, run(folder, cores, ["results/scaling/table1.md"])


def measure_jobs(folder: Path, counts: Sequence[int], cores: Sequence[int]) -> None:
    prepare(folder, max(cores))
    print("| stage | cores | subjects | s | s a subject | CPU s a subject | largest MB | all MB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for number in cores:
        for count in counts:
            for stage, cost in zip(
                ("data", "evaluation"), jobs(folder, count, number), strict=True
            ):
                print(
                    f"| {stage} | {number} | {count} | {cost.wall_s:.1f} "
                    f"| {cost.wall_s / count:.1f} | {cost.cpu_s / count:.1f} "
                    f"| {cost.largest_mb:.0f} | {cost.together_mb:.0f} |",
                    flush=True,
                )


# --- graph -------------------------------------------------------------------------------------


def split_of(number: int) -> str:
    """Split 20 subjects as the paper's: 17, 1 and 2."""
    return {0: "validation", 1: "test", 2: "test"}.get(number % 20, "train")


def graph(folder: Path, subjects: int) -> tuple[int, dict[str, Cost]]:
    """Plan a study and go through its jobs without doing them: their number, and each call."""
    workplace(folder)
    numbers = range(1, 1 + max(20, subjects))
    write_subjects(folder, ((f"subject{number:04d}", split_of(number)) for number in numbers))
    arguments = ["--cores", "1", "--config", "subjects=subjects.tsv"]
    empty = call(folder, [*arguments, "--dry-run", "--quiet", "rules"])
    total = re.search(r"^total +(\d+)$", empty.output, re.MULTILINE)
    if total is None:
        raise SystemExit(f"no number of jobs in:\n{empty.output[-3000:]}")
    make_outputs(folder, call(folder, [*arguments, "--summary"]).output)
    touched = call(folder, [*arguments, "--touch", "--quiet"])
    done = call(folder, [*arguments, "--dry-run"])
    if "Nothing to be done" not in done.output:
        raise SystemExit(f"something is left to do:\n{done.output[-3000:]}")
    return int(total[1]), {"all to do": empty, "all done": touched, "nothing to do": done}


def make_outputs(folder: Path, summary: str) -> None:
    """Make every file and folder of ``snakemake --summary``, empty."""
    for line in summary.splitlines():
        if line.startswith(("data/", "results/")):
            path = folder / line.partition("\t")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if path.suffix else path.mkdir(exist_ok=True)


def measure_graph(folder: Path, counts: Sequence[int]) -> None:
    print("| graph | subjects | jobs | s | CPU s | CPU ms a job | MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for count in counts:
        total, costs = graph(folder / str(count), count)
        for name, cost in costs.items():
            print(
                f"| {name} | {count} | {total} | {cost.wall_s:.1f} | {cost.cpu_s:.1f} "
                f"| {cost.cpu_s / total * 1e3:.1f} | {cost.largest_mb:.0f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, nargs="*", default=[])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--graph", type=int, nargs="*", default=[])
    options = parser.parse_args()
    if not options.subjects and not options.graph:
        options.subjects, options.graph = [1, 2, 4, 8, 16], [20, 200, 2000]
    with tempfile.TemporaryDirectory() as name:
        if options.subjects:
            measure_jobs(Path(name) / "jobs", options.subjects, options.cores)
        if options.graph:
            measure_graph(Path(name), options.graph)


if __name__ == "__main__":
    main()
