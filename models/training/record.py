"""What a training run used, as YAML beside its weights."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from models.checkpoints import Metadata
from models.settings import Training
from models.training.resume import code_of
from pipeline.storage.files import atomic_file
from pipeline.storage.versions import versions


def write(path: Path, metadata: Metadata, training: Training, facts: Mapping[str, Any]) -> None:
    """Write the resolved settings, further facts, the code's hash and the packages' versions.

    Parameters
    ----------
    metadata : Metadata
        At the start of the run; how long it was trained is left out.
    training : Training
    facts : mapping
        Numbers, and whatever else has a meaning as text.
    """
    found = {
        **asdict(metadata),
        "training": asdict(training),
        **facts,
        "code": code_of(metadata),
        "versions": versions(),
    }
    for changing in ("step", "epoch"):
        del found[changing]
    with atomic_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(_plain(found), sort_keys=False), encoding="utf-8")


def _plain(value: Any) -> Any:
    """Turn mappings and sequences into dicts and lists, and what YAML does not know into text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float | str | None) else str(value)
