"""Rule ``reconstruct``: all slices of one shard by one trained method."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from models import checkpoints
from models.dataset import Batch, ShardSlices, batches, in_order
from models.devices import make_fabric
from pipeline import hdf5
from pipeline.hdf5 import Dataset

RECONSTRUCTION = hdf5.Kind(
    name="reconstruction",
    rule="reconstruct",
    datasets={
        "image": Dataset("float32", ("slice", "y", "x"), "activity", "reconstruction by a method"),
        "rotation": Dataset("uint8", ("slice",), "1", "number of the rotation, from 0"),
        "slice_index": Dataset("int16", ("slice",), "1", "axial slice of the full volume"),
    },
)


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open a reconstruction for reading; see `pipeline.hdf5.opened` for what is checked."""
    with hdf5.opened(path, RECONSTRUCTION) as file:
        yield file


def reconstruct(
    weights: Path,
    shard: Path,
    output: Path,
    settings: Mapping[str, Any],
    features: Path | None,
    threads: int,
) -> None:
    """Reconstruct a shard's slices and write them in activity units, in the shard's order.

    Parameters
    ----------
    weights : Path
        Final weights of any method.
    shard : Path
        One subject.
    output : Path
        A file of kind `RECONSTRUCTION`.
    settings : mapping
        The configuration: ``seed``, ``network``, ``training`` (device, precision), ``sampling``.
    features : Path or None
        Weights of the method whose features the method was trained with.
    threads : int
        CPU cores that may be used.

    Raises
    ------
    InputError
        If a file is missing, damaged, or not of this configuration.
    """
    fabric = make_fabric(settings["training"], threads)
    method, metadata = checkpoints.load(weights, settings["network"])
    digest = checkpoints.attach_features(method, metadata, features)
    method.network = fabric.setup_module(method.network)
    if method.frozen is not None:
        fabric.to_device(method.frozen)

    sampling = settings["sampling"]
    slices = ShardSlices([shard], settings["network"]["size"], metadata.scales)
    images = [
        _predict(fabric, method, batch, sampling, settings["seed"])
        for batch in batches(slices, in_order(range(len(slices)), sampling["batch_size"]), 0, False)
    ]
    arrays: dict[str, np.ndarray | h5py.Dataset] = {
        "image": np.concatenate(images) * np.float32(metadata.scales.activity),
        "rotation": np.array([key.rotation for key in slices.keys], dtype=np.uint8),
        "slice_index": np.array([key.slice_index for key in slices.keys], dtype=np.int16),
    }
    facts: dict[str, Any] = {
        "subject": slices.keys[0].subject,
        "method": metadata.method,
        "weights_sha256": checkpoints.sha256(weights),
        "features_sha256": digest or "",
        "activity_scale": metadata.scales.activity,
        "sampler": sampling["sampler"] if method.samples else "",
        "steps": sampling["steps"] if method.samples else 1,
        "seed": settings["seed"] if method.samples else -1,
        "training_seed": metadata.seed,
        "device": str(fabric.device),
    }
    used = {"network": dict(settings["network"]), "method": metadata.settings}
    if method.samples:
        used["sampling"] = dict(sampling)
    hdf5.write(output, RECONSTRUCTION, arrays, hdf5.provenance(used, **facts))


@torch.no_grad()
def _predict(
    fabric: Any, method: Any, batch: Batch, sampling: Mapping[str, Any], seed: int
) -> np.ndarray:
    """Reconstruct one batch: (N, size, size) in [0, 1] units."""
    with fabric.autocast():
        image = method.predict(fabric.to_device(batch.sinogram), batch.keys, sampling, seed)
    return image.float().cpu().numpy()[:, 0]
