"""Folders with this workflow and calls of Snakemake that the tests of the DAG share."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from helpers.paths import ROOT

NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")
"""Runs a command where there is no network, not even the machine's own."""

PROBE = """
import os, socket, sys
port, *command = sys.argv[1:]
try:
    socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
except OSError:
    os.execv(command[0], command)
sys.exit("the network can be reached")
"""
"""Becomes a command if a server of this machine cannot be reached, and fails otherwise."""

SUBJECTS = {"subject01": "train", "subject02": "validation", "subject03": "test"}


def workplace(folder: Path) -> Path:
    """Lay out a folder in which Snakemake finds this workflow and three subjects."""
    (folder / "data").mkdir(parents=True)
    for name in ("Snakefile", "workflow", "config", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data" / "subjects.tsv").symlink_to(ROOT / "data" / "subjects.tsv")
    rows = [f"{subject}\t{split}\t-" for subject, split in SUBJECTS.items()]
    table = "\n".join(["subject\tsplit\tlabels_sha256", *rows]) + "\n"
    (folder / "data" / "subjects.tiny.tsv").write_text(table)
    return folder


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Make a folder, or copy that which another process of the same tests has made.

    Each process has a folder of its own, for two calls of Snakemake cannot share one.
    """
    own = factory.mktemp(name) / "run"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        make(own)
        return own
    made = factory.getbasetemp().parent / name
    with FileLock(f"{made}.lock"):
        if not made.exists():
            begun = made.with_name(f"{name}.begun")
            shutil.rmtree(begun, ignore_errors=True)  # of a process whose attempt failed
            make(begun)
            begun.rename(made)
    shutil.copytree(made, own, symlinks=True)
    return own


PROJECT = ("Snakefile", "workflow", "config", "profiles", "pipeline", "models")
"""All that the workflow runs."""


def copy_project(folder: Path) -> None:
    """Put the project's own files into a folder, where they may be changed."""
    folder.mkdir(exist_ok=True)
    for name in PROJECT:
        if (ROOT / name).is_dir():
            skip = shutil.ignore_patterns("__pycache__", ".snakemake")
            shutil.copytree(ROOT / name, folder / name, ignore=skip, dirs_exist_ok=True)
        else:
            shutil.copy2(ROOT / name, folder / name)


def snakemake(
    folder: Path, *arguments: str, tiny: bool = True, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake"]
    if tiny:
        command += ["--configfile", str(ROOT / "tests" / "tiny.yaml")]
    command += arguments
    return probed(command, folder) if offline else run(command, folder)


def probed(
    command: list[str], folder: Path, namespace: tuple[str, ...] = NAMESPACE
) -> subprocess.CompletedProcess[str]:
    """Run a command without network, having seen that there is none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        return run([*namespace, sys.executable, "-c", PROBE, port, *command], folder)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"MPLBACKEND": "Agg"},
        check=False,
    )


def cannot_be_offline() -> str:
    """Say why this machine lets nobody do without the network; "" if it does."""
    try:
        result = run([*NAMESPACE, "true"], ROOT)
    except OSError as error:
        return f"no network namespace can be made: {error}"
    return f"no network namespace can be made: {result.stdout}" if result.returncode else ""
