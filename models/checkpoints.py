"""Weights on disk: final ones as safetensors with metadata, working ones to resume a run from."""

import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from models import METHODS
from models.dataset import Scales
from models.method import Method
from pipeline import hdf5
from pipeline.errors import InputError

METADATA_KEY = "legopet"
"""One key with all metadata: safetensors does not keep the order of several."""

WEIGHTS_REMEDY = "delete it and train again: snakemake --cores all -- {}"


@dataclass(frozen=True)
class Metadata:
    """What a weights file says about itself.

    Attributes
    ----------
    model : str
        Name of the model in the configuration.
    method : str
        Name in ``models.METHODS``.
    network, settings : dict
        The configuration's ``network``, and the model's settings.
    seed : int
        The model's seed.
    scales : Scales
        Of the training split.
    step, epoch : int
        How long it was trained.
    features_sha256 : str or None
        Of the weights whose features it was trained with.
    """

    model: str
    method: str
    network: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    scales: Scales
    step: int
    epoch: int
    features_sha256: str | None


def build(name: str, network: Mapping[str, Any], settings: Mapping[str, Any]) -> Method:
    """Make a method with fresh weights, its convolutions laid out for speed (channels last).

    Raises
    ------
    InputError
        If there is no method of that name.
    """
    if name not in METHODS:
        raise InputError(f"methods.{name}", "is not a method", f"choose from {sorted(METHODS)}")
    method = METHODS[name](network, settings)
    method.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method


def sha256(path: Path) -> str:
    """Hash a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- final weights -------------------------------------------------------------------------------


EMA_PREFIX = "ema."


def save(path: Path, network: nn.Module, averaged: nn.Module | None, metadata: Metadata) -> None:
    """Write the trained network and, if there is one, its moving average, atomically.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    tensors = dict(network.state_dict())
    if averaged is not None:
        tensors |= {EMA_PREFIX + name: t for name, t in averaged.state_dict().items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with hdf5.atomic(path) as temporary:
        text = json.dumps(asdict(metadata), sort_keys=True)
        save_file(tensors, temporary, metadata={METADATA_KEY: text})


def read_metadata(path: Path) -> Metadata:
    """Read what a weights file says about itself.

    Raises
    ------
    InputError
        If it is missing, damaged, or no weights file of this project.
    """
    path = Path(path)
    remedy = WEIGHTS_REMEDY.format(path)
    if not path.exists():
        raise InputError(path, "does not exist", remedy.removeprefix("delete it and "))
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {})[METADATA_KEY])
        return Metadata(**{**found, "scales": Scales(**found["scales"])})
    except (SafetensorError, OSError) as error:
        raise InputError(path, f"is damaged ({error})", remedy) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(path, "lacks this project's metadata", remedy) from error


def load(path: Path, network: Mapping[str, Any], weights: str = "raw") -> tuple[Method, Metadata]:
    """Rebuild a trained method, on the CPU and in evaluation mode.

    Parameters
    ----------
    path : Path
        From `save`.
    network : mapping
        The configuration's ``network``, which must be the one it was trained with.
    weights : str
        "raw", or "ema" for their moving average.

    Raises
    ------
    InputError
        If the file is missing, damaged, of an unknown method, of another network, or has no moving
        average when asked for it.
    """
    metadata = read_metadata(path)
    asked = json.loads(json.dumps(dict(network)))  # lists for tuples, as in the file
    changed = list(differences(metadata.network, asked, "network"))
    if changed:
        problem = f"was trained with another network ({'; '.join(changed)})"
        raise InputError(path, problem, "restore the configuration, or train again")
    method = build(metadata.method, metadata.network, metadata.settings)
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(EMA_PREFIX)]  # noqa: SIM118
        if weights == "ema" and not names:
            raise InputError(
                path,
                "holds no moving average of the weights (ema)",
                "set sampling.weights to raw, or train with training.ema_decay above 0",
            )
        if weights == "raw":
            names = sorted({*file.keys()} - {*names})
        tensors = {name.removeprefix(EMA_PREFIX): file.get_tensor(name) for name in names}
    try:
        method.network.load_state_dict(tensors)
    except RuntimeError as error:
        problem = f"does not hold the weights of {metadata.method} ({str(error).splitlines()[-1]})"
        raise InputError(path, problem, WEIGHTS_REMEDY.format(path)) from error
    method.network.eval()
    return method, metadata


def attach_features(method: Method, metadata: Metadata, features: Path | None) -> str | None:
    """Give a method the trained network that its setting ``features`` names, if it has one.

    Parameters
    ----------
    method, metadata : Method, Metadata
        What needs the features; ``metadata.features_sha256`` is None before training.
    features : Path or None
        Weights of the named model.

    Returns
    -------
    str or None
        sha256 of ``features``.

    Raises
    ------
    InputError
        If ``features`` is missing, superfluous, of another model or other scales, or not the
        file that the method was trained with.
    """
    where, wanted = f"{metadata.model}: features", metadata.settings.get("features")
    if wanted is None or features is None:
        if wanted is None and features is None:
            return None
        problem = f"asks for {wanted}, and the weights given are {features}"
        raise InputError(where, problem, "give the weights of the model that it names")
    source, found = load(features, metadata.network)
    digest = sha256(features)
    if found.model != wanted:
        raise InputError(features, f"is of {found.model}, not {wanted}", f"give {wanted}'s")
    if found.scales != metadata.scales:
        problem = f"was trained at {found.scales}, not {metadata.scales}"
        raise InputError(features, problem, f"train {wanted} again on the same shards")
    if metadata.features_sha256 not in (None, digest):
        problem = f"is not the file that this {metadata.model} was trained with"
        raise InputError(features, problem, f"train {metadata.model} again, or restore the file")
    method.use_features(source)
    return digest


# --- working checkpoints -------------------------------------------------------------------------


def save_working(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run (tensors, numbers, strings, and dicts and lists of them)."""
    with hdf5.atomic(path) as temporary:
        torch.save(dict(state), temporary)


def load_working(path: Path) -> dict[str, Any]:
    """Read what `save_working` wrote.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        remedy = f"delete {path.parent} to start this run anew"
        raise InputError(path, f"is damaged ({error})", remedy) from error


def differences(old: Any, new: Any, name: str) -> Iterator[str]:
    """List where two nested settings differ, as "name: old -> new"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}")
    elif old != new:
        yield f"{name}: {old} -> {new}"
