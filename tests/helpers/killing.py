"""Runs Snakemake and kills it, with all its jobs, at chosen moments."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from helpers.workflow import ROOT

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
COMMAND = [sys.executable, "-m", "snakemake", "--configfile", str(ROOT / "tests" / "tiny.yaml")]
FIELD = re.compile(r" {4}(log|jobid): (.+)")
FINISHED = re.compile(r"Finished jobid: (\d+)")
STEP = re.compile(r"step (\d+) of (\d+)")


@dataclass(frozen=True)
class Job:
    """One job that ran: its rule, log file (which no two jobs share), outputs and seconds."""

    rule: str
    log: str
    outputs: tuple[str, ...]
    seconds: float

    @property
    def name(self) -> str:
        return name_of(self.log)


def name_of(log: str) -> str:
    """Name a job by its log file: "train/cDPM" of logs/tiny/train/cDPM.log."""
    return str(Path(*Path(log).parts[2:]).with_suffix(""))


@dataclass(frozen=True)
class Kill:
    """A signal to the process group after a fraction of a job's usual time, or of its steps."""

    target: Job
    fraction: float
    number: signal.Signals


def jobs_of(folder: Path) -> list[Job]:
    """List the jobs of a finished run with their seconds, as Snakemake recorded them."""
    found: dict[str, Job] = {}
    for path in (folder / ".snakemake" / "metadata").iterdir():  # one an output, named after it
        entry = json.loads(path.read_text())
        output = base64.b64decode(path.name, altchars=b"-_").decode()
        (log,) = entry["log"]
        outputs = (*(found[log].outputs if log in found else ()), output)
        found[log] = Job(entry["rule"], log, outputs, entry["endtime"] - entry["starttime"])
    return [found[log] for log in sorted(found)]


def plan(jobs: list[Job], kills: int, seed: int) -> list[Kill]:
    """Draw targets: one job of each rule first, trainings next, then any; each job once."""
    draws = np.random.default_rng(seed)
    shuffled = [jobs[i] for i in draws.permutation(len(jobs))]
    firsts = {job.rule: job for job in reversed(shuffled)}
    if kills < len(firsts):  # a short run: training has the most to lose
        order = [firsts.pop("train"), *(j for j in shuffled if j in firsts.values())]
    else:
        chosen = list(firsts.values())
        rest = [job for job in shuffled if job not in chosen]
        order = [*chosen, *sorted(rest, key=lambda job: job.rule != "train")]
    return [
        Kill(job, float(draws.uniform(0.02, 0.9)), SIGNALS[int(draws.integers(2))])
        for job in order[:kills]
    ]


def steps(log: Path) -> tuple[int, int]:
    """Read the last step that a training has reported, and how many it will take; 0 at first."""
    found = STEP.findall(log.read_text(encoding="utf-8")) if log.exists() else []
    return max(((int(step), int(total)) for step, total in found), default=(0, 1))


class Run:
    """One call of Snakemake in a process group of its own."""

    def __init__(self, folder: Path, *arguments: str):
        self.folder = folder
        self.process = subprocess.Popen(
            [*COMMAND, "--cores", "2", "--rerun-incomplete", *arguments],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"MPLBACKEND": "Agg"},
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.running: dict[str, tuple[str, float]] = {}
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def kill_at(self, kills: list[Kill]) -> tuple[Kill, list[str]] | None:
        """Carry out the first of ``kills`` whose moment comes.

        Returns
        -------
        tuple or None
            The kill, and the log files of the jobs that were running; None if the run ended before.
        """
        while True:
            with self.changed:
                due = next(self._due(kills), None)
                if not self.reader.is_alive():
                    return None
                if due is None:
                    self.changed.wait(0.01)
                    continue
                running = [log for log, _ in self.running.values()]
                os.killpg(self.process.pid, due.number)
            self.wait()
            return due, running

    def wait(self, seconds: float = 600) -> int:
        """Wait for the end of Snakemake and of all that it started; give its exit code."""
        code = self.process.wait(seconds)
        self.reader.join(seconds)
        left = [p for p in psutil.process_iter() if self._is_ours(p)]
        _, alive = psutil.wait_procs(left, 10)
        assert not alive, f"still running: {alive}"
        return code

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            zombie = process.status() == psutil.STATUS_ZOMBIE
            return not zombie and os.getsid(process.pid) == self.process.pid
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False

    def _due(self, kills: list[Kill]) -> Iterator[Kill]:
        for log, started in self.running.values():
            for kill in kills:
                if kill.target.log == log:
                    done, whole = time.monotonic() - started, kill.target.seconds
                    if kill.target.rule == "train":  # most of whose time goes into imports
                        done, whole = steps(self.folder / log)
                    if done >= kill.fraction * whole:
                        yield kill

    def _read(self) -> None:
        log = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            with self.changed:
                if found := FIELD.match(line):  # of a job that starts; its log comes first
                    if found[1] == "log":
                        log = found[2].split(" (")[0].strip()
                    else:
                        self.running[found[2].strip()] = log, time.monotonic()
                elif found := FINISHED.match(line):
                    self.running.pop(found[1], None)
                self.changed.notify_all()
