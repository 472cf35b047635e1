"""Good files that cannot be read now: the message blames what is at fault, and deletes nothing."""

import fcntl
import os
import resource
from pathlib import Path

from helpers import hostile as jobs
from helpers import hostile_files as files
from helpers import hostile_images as images
from helpers.hostile import Case, laid, volume
from helpers.volumes import PACKED
from models import checkpoints
from models.evaluation import factors
from models.report import curves
from pipeline.jobs import provenance

SHARD, PHANTOM = str(files.SHARD_FILE), "volumes/subject04_crisp_v.mnc.gz"
FACTORS = "results/toy/calibration/LegoPET.json"
CURVES, RECORD = "results/toy/training/PnPNet.csv", "results/toy/provenance.json"


def read_curves():
    curves.training_curves({"PnPNet": Path(CURVES)})


def describe():
    checkpoints.read_metadata(files.WEIGHTS)


def read_factors():
    factors.read_factors(Path(FACTORS), {})


def verify():
    provenance.differences(Path(RECORD))


READERS = (
    ("HDF5", SHARD, files.a_shard, files.read),
    ("a slice", SHARD, files.a_shard, files.slices),
    ("a preview", SHARD, files.a_shard, files.draw),
    ("weights", str(files.WEIGHTS), files.weights(), describe),
    ("a phantom", PHANTOM, volume(PACKED), jobs.fetch),
    ("an image", str(images.NIFTI), images.image(), images.fetch),
    ("metrics", files.TABLE, laid(files.TABLE, b""), files.read_table),
    ("factors", FACTORS, laid(FACTORS, b"{}"), read_factors),
    ("curves", CURVES, laid(CURVES, b"step\n"), read_curves),
    ("subjects", "t.tsv", *jobs.table(b"")),
    ("an overlay", "t.yaml", *jobs.overlay(b"seed: 1\n")),
    ("a record", RECORD, laid(RECORD, b"{}"), verify),
)
"""Name, file, what makes it, what reads it."""


def failing(path):
    """Let it be one of the few files of Linux that opens and fails when it is read."""
    return jobs.link(path, "/proc/self/mem")


def exhausted(act):
    """Do it when no further file may be opened."""

    def without_files():
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))
        act()

    return without_files


def locked(act):
    """Do it while another has locked the shard, as HDF5 does for writing."""

    def beside():
        with files.SHARD_FILE.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            act()

    return beside


LOCKED = (SHARD, "another program has it open", "-> wait until that program ends")
TOO_MANY = ("Too many open files", "-> raise the limit (ulimit -n)")
FAILS = ("its disk fails", "-> see what the system's log says about that disk")

BUSY = [
    *(
        Case(f"no files left for {n}", m, exhausted(a), (p, *TOO_MANY))
        for n, p, m, a in READERS
        if p not in ("t.tsv", "t.yaml")  # other files are read before these
    ),
    *(Case(f"disk fails for {n}", failing(p), a, (p, *FAILS)) for n, p, _, a in READERS),
    *(Case(f"locked for {n}", m, locked(a), LOCKED) for n, p, m, a in READERS if p == SHARD),
    Case(
        "no files left for a checkpoint",
        files.working(),
        exhausted(files.load_working),
        (str(files.WORKING), *TOO_MANY),
    ),
    Case(
        "no files left for writing",
        jobs.folder(files.RUN),
        exhausted(files.save_much_working),
        (str(files.WORKING), *TOO_MANY),
    ),
]
