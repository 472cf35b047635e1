"""What the tests of hostile inputs share: a process that acts as a rule does, and bad inputs."""

import functools
import gzip
import hashlib
import importlib
import multiprocessing
import os
import pickle
import resource
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.configurations import ROOT, SCHEMA, changed
from helpers.server import Server, answer
from helpers.volumes import CODES, LABELS, PACKED, minc, some_labels
from models.configuration import read_configuration
from pipeline.jobs import config
from pipeline.jobs.job import job
from pipeline.sources import brainweb

MEMORY = 512 * 2**20
"""Bytes that a job may take beyond what its process has at the start."""

SECONDS = 60
"""A job that hangs is killed."""

SPAWN = multiprocessing.get_context("spawn")
NOBODY, CANNOT_DROP = 65534, 77
LOG = "../../job.log"
OUTPUT = Path("data/labels/brainweb/subject04.h5")

KNOWN = {
    name: brainweb.labels_sha256(labels)
    for name, labels in (("subject04", LABELS), ("subject05", some_labels(5)))
}


@dataclass(frozen=True)
class Case:
    """A hostile or broken input.

    Attributes
    ----------
    name : str
    make : callable
        Lays the input into the current folder.
    act : callable
        Does what a rule does; whatever else it changes ends with its process.
    wanted : sequence of str
        What the message must hold: file or key, value, remedy.
    log : str
        The job's log file.
    disk : str
        Size of the file system that the job runs on; "" for any.
    """

    name: str
    make: Callable[[], object]
    act: Callable[[], object]
    wanted: tuple[str, ...]
    log: str = LOG
    disk: str = ""


def section(name, act, cases):
    """Cases that do the same: ``{name: (make, *wanted)}``."""
    return [
        Case(f"{name}: {key}", make, act, tuple(wanted)) for key, (make, *wanted) in cases.items()
    ]


# --- a job -----------------------------------------------------------------------------------


@contextmanager
def workplace(disk):
    """Give an empty folder to work in, with something outside that is none of a job's business."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        work, outside = Path(base, "place/work"), Path(base, "place/outside")
        for folder in (work, outside):
            folder.mkdir(parents=True)
        (outside / "secret").write_text("a secret\n")
        if disk:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", str(work)]
            try:
                subprocess.run(mount, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"a small file system cannot be mounted: {error}")
        try:
            (work / OUTPUT.parent).mkdir(parents=True)
            yield work
        finally:
            if disk:
                subprocess.run(["umount", "--lazy", str(work)], check=True)


def run_as_job(case, work, output):
    """Do ``case.act`` in a process of its own, in the frame of a rule; return its exit code."""
    child = os.fork()
    if not child:
        code = 70
        try:
            os.chdir(work)
            sys.stdout = sys.stderr = output.open("w", buffering=1)
            signal.alarm(SECONDS)
            pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
            limit = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            with job(SimpleNamespace(log=[case.log], threads=1, rule="hostile")):
                case.act()
            code = 0
        except SystemExit as exit_:
            code = exit_.code
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve(requests, module):
    """Do cases of a module as jobs, as long as requests come."""
    cases = {case.name: case for case in importlib.import_module(module).CASES}
    with suppress(EOFError):
        while True:
            name, work, output = requests.recv()
            requests.send(run_as_job(cases[name], work, output))


@contextmanager
def starter(module):
    """Give what does a module's case, by its name, as a job, forked from a process for this alone.

    Forked from the process of the tests, it could use what they have freed there beyond `MEMORY`.
    """
    here, there = SPAWN.Pipe()
    server = SPAWN.Process(target=serve, args=(there, module))
    server.start()
    there.close()

    def start(name, work, output):
        here.send((name, work, output))
        return here.recv()

    with here:
        yield start
    server.join()


def contents(folder):
    """List what lies below a folder: kind, permissions, and of files identity, time and hash."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        facts = path.lstat()
        found[str(path.relative_to(folder))] = [oct(facts.st_mode)]
        if path.is_symlink():
            found[str(path.relative_to(folder))].append(str(path.readlink()))
        elif stat.S_ISREG(facts.st_mode):
            readable = os.access(path, os.R_OK)
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if readable else None
            found[str(path.relative_to(folder))] += [facts.st_ino, facts.st_mtime_ns, digest]
    return found


def as_nobody(act):
    """Do it without root's rights."""

    def dropped():
        if os.geteuid() == 0:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            except OSError:
                sys.exit(CANNOT_DROP)
        act()

    return dropped


def limited(act):
    """Do it where no file may grow above 64 KiB."""

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        act()

    return small


# --- what is laid into the folder ------------------------------------------------------------


def nothing():
    pass


def laid(path, content):
    """Write bytes, given or to be made."""

    def make():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content() if callable(content) else content)

    return make


def folder(path):
    return lambda: Path(path).mkdir(parents=True, exist_ok=True)


def pipe(path):
    return in_turn(folder(Path(path).parent), lambda: os.mkfifo(path))


def link(path, to="../outside/secret"):
    """Make a symbolic link to what ``to``, seen from the current folder, is."""

    def make():
        folder(Path(path).parent)()
        Path(path).symlink_to(os.path.relpath(to, Path(path).parent))

    return make


def two_links():
    link("data/toy", "data/second")()
    link("data/second", "../outside")()


def linked_labels():
    OUTPUT.parent.rmdir()
    link(OUTPUT.parent, "../outside")()


def locked(path, make, mode=0):
    """Make something, and take permissions away."""
    return in_turn(make, lambda: Path(path).chmod(mode))


def in_read_only(path, make):
    """Make something, and let nothing be added to the folder that ``path`` lies in."""
    return in_turn(folder(Path(path).parent), locked(Path(path).parent, make, 0o555))


def in_turn(*steps):
    def all_of_them():
        for step in steps:
            step()

    return all_of_them


def fill():
    """Leave no room on a small disk."""
    with suppress(OSError):
        Path("filler").write_bytes(bytes(2**20))


class Payload:
    """Unpickled, it leaves a file outside."""

    def __reduce__(self):
        return os.system, ("touch ../outside/executed",)


def pickled():
    return pickle.dumps({"weights": Payload()}, protocol=2)


# --- phantoms ----------------------------------------------------------------------------------

earlier = laid(OUTPUT, b"labels of an earlier run")

ESCAPES = b"<html><title>\x1b[2J\x1b]0;owned\x07 gone</title>"


def volume(content, name="subject04_crisp_v.mnc.gz"):
    return in_turn(earlier, laid(f"volumes/{name}", content))


def fetch():
    """Rule ``fetch``, from the folder ``volumes``."""
    brainweb.SHAPE = LABELS.shape
    brainweb.fetch_labels(OUTPUT, "subject04", KNOWN, "volumes")


def fetch_full_size():
    brainweb.fetch_labels(OUTPUT, "subject04", KNOWN, "volumes")


@functools.cache
def bomb():
    """A gigabyte of zeros, as many gzip members one after the other."""
    return gzip.compress(bytes(2**25), 9) * 32


def twice():
    return gzip.compress(bomb())


def huge_minc():
    """MINC1 whose header declares 2 147 483 647 slices."""
    good = minc(LABELS)
    at = good.index(b"zspace") + 8
    return good[:at] + struct.pack(">i", 2**31 - 1) + good[at + 4 :]


def swapped():
    return gzip.compress(CODES[LABELS].astype(">u2").tobytes())


def downloading(*answers, **changes):
    """Rule ``fetch``, from a server here, with changes to `pipeline.sources.brainweb`."""

    def act():
        server = Server()
        os.environ["NO_PROXY"] = "127.0.0.1"
        brainweb.SHAPE, brainweb.RETRY_WAITS_S = LABELS.shape, (0.0, 0.0)
        brainweb.SERVER, server.answers = server.url, list(answers)
        for name, value in changes.items():
            setattr(brainweb, name, value)
        brainweb.fetch_labels(OUTPUT, "subject04", KNOWN)

    return act


def download_much():
    labels = some_labels().repeat(40, 0).repeat(40, 1).repeat(40, 2)
    downloading(answer(minc(labels)), SHAPE=labels.shape)()


download = downloading(answer(PACKED))


def body(make, encoding="identity"):
    def send(handler, stopped):
        handler.send_response(200)
        handler.send_header("Content-Encoding", encoding)
        handler.end_headers()
        handler.wfile.write(make())

    return send


def redirect(target):
    def send(handler, stopped):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    return send


# --- configuration -----------------------------------------------------------------------------

TWICE = b"subject\tsplit\tlabels_sha256\nsubject04\ttrain\t-\nsubject04\ttest\t-\n"
YAML_CODE = b"seed: !!python/object/apply:os.system ['touch ../outside/executed']\n"


def checked(**values):
    """Check the paper's configuration with changes, as the Snakefile does."""

    def act():
        table = values.get("subjects", str(ROOT / "data" / "subjects.tsv"))
        config.check(changed(**values | {"subjects": table}), SCHEMA)

    return act


def variant(name, method="LegoPET"):
    return {f"variants__{name}": {"method": method}}


def table(content):
    """A table of subjects, and the check of a configuration that names it."""
    return laid("t.tsv", content), checked(subjects="t.tsv")


def overlay(content):
    """A configuration file, and its reading outside of Snakemake."""
    return laid("t.yaml", content), lambda: read_configuration([Path("t.yaml")])
