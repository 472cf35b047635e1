"""What decides how a run may go on: its identity, and requests to stop."""

import hashlib
import json
import logging
import pickle
import re
import signal
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning_fabric import Fabric

from models.channels import CHANNELS, TARGETS
from models.checkpoints import Metadata
from models.registry import METHODS
from models.settings import Training
from pipeline.jobs.experiment import TRAINING_DECIDES
from pipeline.jobs.used_code import code_hash
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.files import Sink, atomic_file, check_readable
from pipeline.storage.kinds import SHARD
from pipeline.storage.system_errors import unreadable

log = logging.getLogger(__name__)


def identity(
    metadata: Metadata,
    training: Training,
    train_shards: Sequence[Path],
    validation_shards: Sequence[Path],
) -> str:
    """Describe all that decides a run's weights and log, as JSON.

    The code does, too: without it, a finished run would stand in for one by corrected code. The
    physics does not, nor the volumes' names: all that they decide is in the shards.
    """
    channels = [CHANNELS[name] for name in metadata.settings["conditioning"]]
    seen = [name for channel in channels for name in (channel.dataset, channel.per) if name]
    seen.append(TARGETS[training.target].dataset)
    found = {
        **asdict(metadata),
        **{key: asdict(training)[key] for key in TRAINING_DECIDES},
        "shards": [_contents(path, seen) for path in train_shards],
        "validation_shards": [_contents(path, seen) for path in validation_shards],
        "channels": channels,
        "code": code_of(metadata),
    }
    for name in ("physics", "trained_on"):
        del found[name]
    if not validation_shards:
        found |= {key: None for key in TRAINING_DECIDES if key.startswith("validat")}
    return json.dumps(found, sort_keys=True)


def _contents(path: Path, seen: Sequence[str]) -> list[Any]:
    """Name a shard and the hash of all that training sees of it."""
    digest = hashlib.sha256()
    with hdf5.opened(path, SHARD) as file:
        for name in ("rotation", "slice_index"):
            digest.update(hdf5.finite(file[name]).data)
        for name in seen:
            digest.update(f"{name} {file[name].shape}".encode())
            for row in range(len(file[name])):
                digest.update(hdf5.finite(file[name], row).data)
        return [path.name, str(file.attrs.get("subject")), digest.hexdigest()]


def code_of(metadata: Metadata) -> str:
    """Hash the code that decides a model's weights, its method's and no other's among it."""
    methods = filter(None, [metadata.method, metadata.frozen_method])
    return code_hash("train.py", *(METHODS[name] for name in methods))


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda n, _: received.append(n))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave(number: int, step: int, fabric: Fabric) -> NoReturn:
    """End this process as signal ``number`` asked, the working checkpoint being written."""
    # Whoever started several processes kills them all when the first one ends.
    fabric.barrier()
    log.warning("signal %d: stopped at step %d; run again to resume", number, step)
    raise SystemExit(128 + number)


def save_working(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run (tensors, numbers, strings, and dicts and lists of them).

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    with atomic_file(path) as temporary, Sink(temporary) as sink:
        torch.save(dict(state), sink)


def load_working(path: Path) -> dict[str, Any]:
    """Read what `save_working` wrote; nothing that a file names is ever run.

    Raises
    ------
    InputError
        If the file is damaged, or holds anything but tensors and plain values.
    """
    with restoring(path):
        _check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        return state


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Say that a working checkpoint is damaged if what is done with it fails."""
    remedy = f"delete {path.parent} to start this run anew"
    check_readable(path, "checkpoint", remedy)
    try:
        yield
    except pickle.UnpicklingError as error:
        # PyTorch's own text advises to load the file in a way that would run it.
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = named[1] if named else "objects of other kinds"
        problem = f"holds {what} beside tensors and plain values, and was not loaded"
        raise InputError(path, problem, remedy) from error
    except InputError:
        raise
    except Exception as error:  # torch and zipfile let through all that their parsers raise
        problem = f"is damaged ({type(error).__name__}: {error})"
        raise unreadable(path, error, problem, remedy) from error


def _check_archive(path: Path) -> None:
    """Refuse damaged and packed entries: torch checks no checksums, and unpacks without limit."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries are packed, or overlap")
        if (name := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {name} is wrong")
