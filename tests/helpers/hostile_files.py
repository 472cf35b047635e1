"""Spoilt HDF5 files and checkpoints, and the rules that read and write them."""

import json
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

from helpers.hostile import OUTPUT, Payload, in_turn
from helpers.planes import NO_TEXTURE
from helpers.small_models import SIZE, job, make_shard
from helpers.small_weights import CONFIG, SCALES, saved
from models import checkpoints
from models.dataset import ShardSlices
from models.evaluation import metrics_table
from models.reconstruct import Reconstructor
from models.training import resume
from models.training import train as training
from models.training.logger import RunLog
from pipeline import fbp, phantom, preview, shard
from pipeline.storage import hdf5
from pipeline.storage.kinds import (
    FBP,
    LABELS,
    OSEM,
    SHARD,
    SIMULATION_FACTS,
    SINOGRAM,
    SLICES,
    SUBJECT_FACTS,
)
from pipeline.tomography import projectors
from pipeline.tomography.geometry import Grid
from pipeline.tomography.scanners import Ring

SHARD_FILE = Path("data/toy/shards/subject04.h5")
WEIGHTS = Path("results/toy/weights/PnPNet.safetensors")
RUNS = Path("results/toy/runs/PnPNet")
RUN = RUNS / "0123456789abcdef"
WORKING = RUN / "working.pt"
TABLE = "results/toy/metrics.csv.gz"

# --- reading HDF5 ------------------------------------------------------------------------------

RING, GRID = Ring(4, 8, 200, 40, 4), Grid(16, 12)


def read():
    hdf5.read(SHARD_FILE, SHARD)


def slices():
    """Read every slice as training does."""
    found = ShardSlices([SHARD_FILE], SIZE, SCALES, ["sinogram", "fbp"])
    return [found[n] for n in range(len(found))]


def draw():
    preview.contact_sheet(SHARD_FILE, Path("results/sheet.png"))


def make_phantom():
    phantom.phantom(OUTPUT, Path("data/phantom.h5"), "subject04", 1, NO_TEXTURE)


def reconstruct_fbp():
    settings = fbp.FbpSettings(window="ramp", cutoff=1.0)
    fbp.reconstruct(Path("data/sinogram.h5"), Path("data/fbp.h5"), settings, RING, GRID)


def build_shard():
    parts = [Path("data", f"{name}.h5") for name in ("slices", "sinogram", "osem", "fbp")]
    shard.build(*parts, SHARD_FILE, "train")


def load_matrix():
    projectors.load("sparse", RING, GRID, 1, "data/matrix.h5")


# --- spoiling HDF5 -----------------------------------------------------------------------------


def a_shard():
    SHARD_FILE.parent.mkdir(parents=True, exist_ok=True)
    return make_shard(SHARD_FILE)


def spoilt(change, make=a_shard):
    """Make a good file and change it through h5py."""

    def make_and_spoil():
        with h5py.File(make(), "r+") as file:
            change(file)

    return make_and_spoil


def rewritten(change, make=a_shard):
    """Make a good file and change its bytes."""

    def make_and_rewrite():
        path = make()
        path.write_bytes(change(path.read_bytes()))

    return make_and_rewrite


def osem(array=None, **options):
    """Put another dataset in place of a shard's OSEM images."""

    def change(file):
        del file["osem"]
        file.create_dataset("osem", data=array, **options)

    return spoilt(change)


def declared(shape):
    """OSEM images of a shape, none of which are there."""
    return osem(shape=shape, dtype="f4", chunks=(1, *shape[1:]), compression="gzip")


def bomb(file):
    """OSEM images of zeros, five of 128 MiB each unpacked."""
    del file["osem"]
    shape, chunks = (5, 2**12, 2**13), (1, 2**12, 2**13)
    images = file.create_dataset("osem", shape, "f4", chunks=chunks, compression="gzip")
    packed = zlib.compress(bytes(2**27), 9)
    for number in range(5):
        images.id.write_direct_chunk((number, 0, 0), packed)


def put(value):
    def change(file):
        file["osem"][2, 3, 4] = value

    return change


def attribute(name, value=None):
    def change(file):
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return spoilt(change)


def group(file):
    del file["osem"]
    file.create_group("osem")


def linked(link):
    def change(file):
        del file["osem"]
        file["osem"] = link

    return in_turn(lambda: make_shard(Path("../outside/other.h5")), spoilt(change))


OTHER = "../../../../outside/other.h5"
external_link = linked(h5py.ExternalLink(OTHER, "osem"))
soft_link = linked(h5py.SoftLink("/fbp"))
external_values = osem(shape=(5, 16, 16), dtype="f4", external=[("/etc/passwd", 0, 5120)])


@spoilt
def virtual_view(file):
    layout = h5py.VirtualLayout(file["osem"].shape, "f4")
    layout[:] = h5py.VirtualSource(OTHER, "osem", layout.shape)
    del file["osem"]
    file.create_virtual_dataset("osem", layout)


@spoilt
def small_fbp(file):
    del file["fbp"]
    file["fbp"] = np.ones((5, 9, 9), "f4")


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def flip_in_chunk(data):
    with h5py.File(BytesIO(data)) as file:
        chunk = file["osem"].id.get_chunk_info(2)
    return flipped(data, chunk.byte_offset + chunk.size // 2)


def flip_in_header(data):
    return flipped(data, data.index(b"OHDR") + 9)


# --- other kinds of HDF5 files -----------------------------------------------------------------


def labels(highest=11, **changes):
    """Make the labels of a head."""

    def make():
        facts = {"source": "x", "labels_sha256": "-", "voxel_mm": [1.0] * 3} | changes
        facts = {name: fact for name, fact in facts.items() if fact is not None}
        arrays = {"labels": np.full((2, 3, 4), highest, np.uint8)}
        hdf5.write(OUTPUT, LABELS, arrays, hdf5.provenance({}, **facts))

    return make


def write_kind(path, kind, subject="subject04"):
    """Write a file of zeros: three slices of 8 x 8 pixels, sinograms of 6 x 7 bins."""
    lengths = {"slice": 3, "y": 8, "x": 8, "view": 6, "radial": 7}
    arrays = {
        name: np.zeros([lengths[axis] for axis in dataset.axes], dataset.dtype)
        for name, dataset in kind.datasets.items()
    }
    facts = dict.fromkeys(SUBJECT_FACTS + SIMULATION_FACTS, "x")
    facts |= {"subject": subject, "oversampling": 1}
    hdf5.write(path, kind, arrays, hdf5.provenance({}, **facts))


def sinogram():
    write_kind("data/sinogram.h5", SINOGRAM)


def two_subjects():
    for kind in (SLICES, SINOGRAM, OSEM):
        write_kind(f"data/{kind.name}.h5", kind)
    write_kind("data/fbp.h5", FBP, "subject05")


def matrix():
    path = Path("data/matrix.h5")
    projectors.system_matrix.write(path, RING, GRID, 1)
    with h5py.File(path, "r+") as file:
        file["forward_columns"][7] = 10**6


# --- weights -----------------------------------------------------------------------------------

WIDE = {**CONFIG["network"], "width": 16}


def weights(name="PnPNet"):
    def make():
        WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
        saved(WEIGHTS, name)
        return WEIGHTS

    return make


def header(**changes):
    """Make weights whose metadata say something else."""

    def change(data):
        length = struct.unpack("<Q", data[:8])[0]
        found = json.loads(data[8 : 8 + length])
        metadata = json.loads(found["__metadata__"]["legopet"]) | changes
        found["__metadata__"]["legopet"] = json.dumps(metadata)
        text = json.dumps(found).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return rewritten(change, weights())


def other_tensor(change, name="stem.weight"):
    """Make weights with one tensor changed."""

    def make():
        WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
        method, metadata = saved(WEIGHTS)
        state = method.network.state_dict()
        state[name] = change(state[name])
        checkpoints.save(WEIGHTS, SimpleNamespace(state_dict=lambda: state), None, metadata)

    return make


def lowest_bit(data):
    """Change the last value by so little that it stays a likely weight."""
    return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]


def foreign():
    WEIGHTS.parent.mkdir(parents=True)
    save_file({"x": torch.zeros(1)}, WEIGHTS)


def reconstructor(model="PnPNet", settings=CONFIG):
    return lambda: Reconstructor(WEIGHTS, None, job(settings, model), threads=1)


def read_table():
    metrics_table.read_table(Path(TABLE))


# --- working checkpoints -----------------------------------------------------------------------


def torch_file(path, content=None):
    def make():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": Payload()} if content is None else content, path)
        return Path(path)

    return make


def working(change=lambda data: data):
    """Make the state of a run, a thousand numbers, and change the file's bytes."""
    return rewritten(change, torch_file(WORKING, {"weights": torch.arange(1000.0)}))


def flip_value(data):
    return flipped(data, data.index(np.arange(1000, dtype="f4").tobytes()) + 401)


def repacked(data, change, method):
    target = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target.getvalue()


def packed_zeros(data):
    """Make values of 64 MiB out of 64 KiB."""
    return repacked(
        data, lambda n, d: bytes(2**26) if n.endswith("data/0") else d, zipfile.ZIP_DEFLATED
    )


def lying(data):
    """Declare 100 million values where there are a thousand."""
    number = b"J" + struct.pack("<i", 100_000_000)
    return repacked(data, lambda n, d: d.replace(b"M\xe8\x03", number), zipfile.ZIP_STORED)


def load_working():
    resume.load_working(WORKING)


def run_of(state):
    """Make an interrupted run."""
    return in_turn(a_shard, torch_file(WORKING, state))


def train(model, frozen=None):
    """Rule ``train``."""

    def act():
        outputs = [Path("results/toy", name) for name in ("w.safetensors", "kept")]
        log_csv = Path("results/toy/log.csv")
        settings = job(CONFIG, model)
        training.train(settings, [SHARD_FILE], [], *outputs, RUNS, log_csv, frozen, 1)

    return act


# --- writing -----------------------------------------------------------------------------------


def write():
    make_shard(SHARD_FILE)


def write_whole():
    make_shard(SHARD_FILE.absolute())


def write_much():
    make_shard(SHARD_FILE, size=128, slices=9)


def save_much():
    own = CONFIG["methods"]["PnPNet"]
    metadata = checkpoints.Metadata(
        "PnPNet", "PnPNet", CONFIG["network"], own, 7, SCALES, 5, 2, None
    )
    network = SimpleNamespace(state_dict=lambda: {"x": torch.ones(300_000)})
    checkpoints.save(WEIGHTS, network, None, metadata)


def save_much_working():
    resume.save_working(WORKING, {"x": torch.ones(300_000)})


def log_row():
    RunLog(Path("results/log.csv"), 5, 10).row(6, 1, 0.1, {})
