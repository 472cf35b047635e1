"""Weights on disk: final ones as safetensors with metadata, working ones to resume a run from."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from models import registry
from models.dataset import Scales
from models.methods.base import Method
from models.registry import METHODS, build
from models.sections import frozen_of, frozen_setting
from models.settings import Network
from pipeline.jobs.experiment import Model
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file, check_readable
from pipeline.storage.system_errors import unreadable
from pipeline.tomography.physics import Physics

METADATA_KEY = "legopet"
"""One key with all metadata: safetensors does not keep the order of several."""

DIGEST_KEY = "sha256"
"""In the metadata, of all else in them and of the tensors."""

FORMERLY = {"features_sha256": "frozen_sha256"}
"""Names in the metadata of weights from before others than LegoPET used networks frozen."""

WEIGHTS_REMEDY = "delete it and train again: snakemake --cores all -- {}"


@dataclass(frozen=True)
class Metadata:
    """What a weights file says about itself.

    Attributes
    ----------
    model : str
        Name of the model in the configuration.
    method : str
        Name in `models.registry.METHODS`.
    network, settings : dict
        The configuration's ``network``, and the model's settings.
    seed : int
        The model's seed.
    scales : Scales
        Of the training split.
    step, epoch : int
        How long it was trained.
    frozen_sha256 : str or None
        Of the weights of another model that it was trained with.
    frozen_method : str or None
        Of that model; None of weights that did not say it.
    physics : Physics or None
        Of the training's shards; None of weights that were trained before shards said it.
    trained_on : list of str
        ``labels_sha256`` of the training split's shards; none of weights that did not say it.
    """

    model: str
    method: str
    network: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    scales: Scales
    step: int
    epoch: int
    frozen_sha256: str | None
    physics: Physics | None = None
    trained_on: list[str] = field(default_factory=list)
    frozen_method: str | None = None

    def wrong(self) -> str | None:
        """Name a value that no training run writes, if there is one."""
        types: dict[str, Any] = {
            **dict.fromkeys(("model", "method"), str),
            **dict.fromkeys(("network", "settings"), dict),
            **dict.fromkeys(("seed", "step", "epoch"), int),
            **dict.fromkeys(("frozen_sha256", "frozen_method"), str | None),
            "trained_on": list,
        }
        for name, kind in types.items():
            if not isinstance(value := getattr(self, name), kind):
                return f"the {name} {value!r}"
        if self.method not in METHODS:
            return f"the method {self.method!r}, where there are {', '.join(METHODS)}"
        for name, value in self.scales.to_dict().items():
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                return f"the scale {value!r} of {name}"
        return self.physics.wrong() if self.physics else None


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
    _write(path, asdict(metadata), tensors)


def _write(path: Path, metadata: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    text = json.dumps(metadata | {DIGEST_KEY: _digest(metadata, tensors)}, sort_keys=True)
    with atomic_file(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata={METADATA_KEY: text})
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from error


def copy(source: Path, target: Path, settings: Mapping[str, Any]) -> None:
    """Copy weights to a run that came to the same ones with other settings: another length, say.

    Raises
    ------
    InputError
        If the source is damaged, or the target cannot be written.
    """
    _, described, digest = _described(source)
    tensors = _tensors(source, described, digest)
    _write(target, described | {"settings": dict(settings)}, tensors)


def _digest(metadata: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash metadata and tensors: safetensors has no checksums, and most flipped bits look right."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_metadata(path: Path) -> Metadata:
    """Read what a weights file says about itself.

    Raises
    ------
    InputError
        If it is missing, damaged, or no weights file of this project.
    """
    return _described(Path(path))[0]


@contextmanager
def _opened(path: Path, remedy: str) -> Iterator[Any]:
    check_readable(path, "file of weights", remedy)
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, RuntimeError) as error:
        raise unreadable(path, error, f"is damaged ({error})", remedy) from error


def _described(path: Path) -> tuple[Metadata, dict[str, Any], str]:
    """Read the metadata, also as they stand in the file, and the digest."""
    remedy = WEIGHTS_REMEDY.format(path)
    try:
        with _opened(path, remedy) as file:
            text = (file.metadata() or {})[METADATA_KEY]
        found = json.loads(text)
        digest = found.pop(DIGEST_KEY)
        physics = Physics(**found["physics"]) if found.get("physics") else None
        scales = Scales(**found["scales"])
        named = {FORMERLY.get(name, name): value for name, value in found.items()}
        metadata = Metadata(**{**named, "scales": scales, "physics": physics})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(path, f"lacks this project's metadata ({error})", remedy) from error
    if wrong := metadata.wrong():
        raise InputError(path, f"has metadata that no training writes: {wrong}", remedy)
    return metadata, found, digest


def _tensors(path: Path, described: Mapping[str, Any], digest: str) -> dict[str, torch.Tensor]:
    remedy = WEIGHTS_REMEDY.format(path)
    with _opened(path, remedy) as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if digest != _digest(described, held):
        raise InputError(path, "is damaged (its contents are not those that were written)", remedy)
    return held


def load(
    path: Path,
    network: Network,
    weights: str = "raw",
    model: Model | None = None,
) -> tuple[Method, Metadata]:
    """Rebuild a trained method, on the CPU and in evaluation mode.

    Parameters
    ----------
    path : Path
        From `save`.
    network : Network
        Which must be the one it was trained with.
    weights : str
        "raw", or "ema" for their moving average.
    model : Model or None
        The model that they must be of; None for any.

    Raises
    ------
    InputError
        If the file is missing, damaged, of an unknown method, of another model or network, or has
        no moving average when asked for it.
    """
    metadata, described, digest = _described(Path(path))
    _check_asked(path, metadata, network, model)
    remedy = WEIGHTS_REMEDY.format(path)
    try:
        method = build(metadata.method, network, metadata.settings)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        problem = f"has settings that make no {metadata.method} ({error!r})"
        raise InputError(path, problem, remedy) from error
    held = _tensors(path, described, digest)
    averaged = {name for name in held if name.startswith(EMA_PREFIX)}
    if weights == "ema" and not averaged:
        raise InputError(
            path,
            "holds no moving average of the weights (ema)",
            "set sampling.weights to raw, or train with training.ema_decay above 0",
        )
    names = averaged if weights == "ema" else held.keys() - averaged
    tensors = {name.removeprefix(EMA_PREFIX): held[name] for name in sorted(names)}
    expected = method.network.state_dict()
    for name, tensor in tensors.items():
        if name in expected and tensor.dtype != expected[name].dtype:
            problem = f"has '{name}' as {tensor.dtype}, not {expected[name].dtype}"
            raise InputError(path, problem, remedy)
        if not tensor.isfinite().all():
            raise InputError(path, f"has values in '{name}' that are not finite", remedy)
    try:
        method.network.load_state_dict(tensors)
    except RuntimeError as error:
        problem = f"does not hold the weights of {metadata.method} ({str(error).splitlines()[-1]})"
        raise InputError(path, problem, remedy) from error
    method.network.eval()
    return method, metadata


def _check_asked(path: Path, metadata: Metadata, network: Network, model: Model | None) -> None:
    """Refuse weights of another model or network before anything is built by their settings."""
    if model is not None and metadata.model != model.trained:
        problem = f"is of {metadata.model}, not {model.trained}"
        raise InputError(path, problem, "give the model's own weights")
    changed = list(differences(metadata.network, _plain(asdict(network)), "network"))
    if model is not None:
        changed += differences(metadata.method, model.method, "method")
        asked, alone = _plain(model.settings), registry.load(model.method).Settings.training_alone
        for name in sorted({*metadata.settings, *asked} - alone):
            changed += differences(metadata.settings.get(name), asked.get(name), name)
    if changed:
        problem = f"was trained with another network ({'; '.join(changed)})"
        raise InputError(path, problem, "restore the configuration, or train again")


def attach_frozen(method: Method, metadata: Metadata, frozen: Path | None) -> Metadata:
    """Give a method the trained network that it uses frozen, if it uses one.

    Parameters
    ----------
    method, metadata : Method, Metadata
        What uses it; ``metadata.frozen_sha256`` is None before training.
    frozen : Path or None
        Weights of the model that the method's setting names.

    Returns
    -------
    Metadata
        With ``frozen_method``, and ``frozen_sha256`` of that file.

    Raises
    ------
    InputError
        If ``frozen`` is missing, superfluous, of another model or other scales, or not the
        file that the method was trained with.
    """
    wanted = frozen_of(metadata.method, metadata.settings)
    setting = frozen_setting(metadata.method)
    if setting is None or wanted is None or frozen is None:
        if wanted is None and frozen is None:
            return metadata
        where = f"{metadata.model}: {setting.key if setting else 'frozen network'}"
        problem = f"asks for {wanted}, and the weights given are {frozen}"
        raise InputError(where, problem, "give the weights of the model that it names")
    found = read_metadata(frozen)
    if found.model != wanted:
        raise InputError(frozen, f"is of {found.model}, not {wanted}", f"give {wanted}'s")
    if found.method not in setting.methods:
        problem = f"is a {found.method}, not a {' or '.join(setting.methods)}"
        raise InputError(frozen, problem, f"give {wanted}'s weights")
    trained, found = load(frozen, Network(**metadata.network))
    digest = sha256(frozen)
    if found.scales != metadata.scales:
        problem = f"was trained at {found.scales}, not {metadata.scales}"
        raise InputError(frozen, problem, f"train {wanted} again on the same shards")
    if metadata.frozen_sha256 not in (None, digest):
        problem = f"is not the file that this {metadata.model} was trained with"
        raise InputError(frozen, problem, f"train {metadata.model} again, or restore the file")
    method.use_frozen(trained)
    return replace(metadata, frozen_method=found.method, frozen_sha256=digest)


# --- working checkpoints -------------------------------------------------------------------------


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Copy settings as a file has them, with lists for tuples."""
    return json.loads(json.dumps(dict(settings)))


def differences(old: Any, new: Any, name: str) -> Iterator[str]:
    """List where two nested settings differ, as "name: old -> new"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}")
    elif old != new:
        yield f"{name}: {old} -> {new}"
