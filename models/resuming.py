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
from pipeline import shards
from pipeline.code import imported

log = logging.getLogger(__name__)


def identity(metadata: Metadata, training: Mapping[str, Any], train_shards: Sequence[Path]) -> str:
    """Describe all that decides the weights after k steps, as JSON.

    At a constant learning rate epochs do not: a finished run can be trained on. Nor does how often
    it reports or keeps weights. The code does: without it, a finished run would stand in for one by
    corrected code.
    """
    data = []
    for path in train_shards:
        with shards.opened(path) as file:
            data.append([path.name, str(file.attrs.get("config_hash")), len(file["slice_index"])])
    found = {
        **asdict(metadata),
        **{key: training[key] for key in ("precision", "gradient_clip", "ema_decay")},
        "shards": data,
        "code": code_hash(),
    }
    constant = metadata.settings["schedule"] == "constant"
    irrelevant = {"keep_every_epochs", *(["epochs"] if constant else [])}
    own = {k: v for k, v in metadata.settings.items() if k not in irrelevant}
    return json.dumps(found | {"settings": own}, sort_keys=True)


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
