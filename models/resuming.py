"""What decides how a run may go on: its identity, and requests to stop."""

import hashlib
import json
import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from lightning_fabric import Fabric

from models.checkpoints import Metadata
from pipeline import hdf5, shards
from pipeline.code import imported

log = logging.getLogger(__name__)

VALIDATION = ("validate_every_steps", "validation_slices", "validation_sampling")
DECIDING = ("precision", "gradient_clip", "ema_decay", *VALIDATION)
"""Keys of the configuration's ``training`` that decide what a run's weights and log hold."""


def identity(
    metadata: Metadata,
    training: Mapping[str, Any],
    train_shards: Sequence[Path],
    validation_shards: Sequence[Path],
) -> str:
    """Describe all that decides a run's weights and log, as JSON.

    The code does, too: without it, a finished run would stand in for one by corrected code.
    """
    conditioning = metadata.settings["conditioning"]
    found = {
        **asdict(metadata),
        **{key: training[key] for key in DECIDING},
        "shards": [_contents(path, conditioning) for path in train_shards],
        "validation_shards": [_contents(path, conditioning) for path in validation_shards],
        "code": code_hash(),
    }
    if not validation_shards:
        found |= dict.fromkeys(VALIDATION)
    return json.dumps(found, sort_keys=True)


def _contents(path: Path, conditioning: Sequence[str]) -> list[Any]:
    """Name a shard and the hash of all that training sees of it."""
    digest = hashlib.sha256()
    with shards.opened(path) as file:
        for name in ("rotation", "slice_index"):
            digest.update(hdf5.finite(file[name]).data)
        for name in (*conditioning, "osem"):
            digest.update(f"{name} {file[name].shape}".encode())
            for row in range(len(file[name])):
                digest.update(hdf5.finite(file[name], row).data)
        return [path.name, str(file.attrs.get("subject")), digest.hexdigest()]


def code_hash() -> str:
    """Hash the modules of this package that training uses."""
    training = Path(__file__).resolve().with_name("training.py")
    files = sorted(path for path in imported(training) if path.parent == training.parent)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


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
