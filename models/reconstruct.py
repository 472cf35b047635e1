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
        "image": Dataset(
            "float32", ("slice", "y", "x"), "activity", "reconstruction; mean of the samples"
        ),
        "std": Dataset(
            "float32",
            ("slice", "y", "x"),
            "activity",
            "standard deviation of the samples, with K - 1; absent if there is one",
            optional=True,
        ),
        "samples": Dataset(
            "float32",
            ("slice", "sample", "y", "x"),
            "activity",
            "samples of the posterior; absent if there is one",
            optional=True,
        ),
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
    sampling = settings["sampling"]
    fabric = make_fabric(settings["training"], 1, threads)
    method, metadata = checkpoints.load(weights, settings["network"], sampling["weights"])
    digest = checkpoints.attach_features(method, metadata, features)
    method.network = fabric.setup_module(method.network)
    if method.frozen is not None:
        fabric.to_device(method.frozen)

    slices = ShardSlices([shard], settings["network"]["size"], metadata.scales)
    samples = [
        _predict(fabric, method, batch, sampling, settings["seed"])
        for batch in batches(slices, in_order(range(len(slices)), sampling["batch_size"]), 0, False)
    ]
    stack = np.concatenate(samples) * np.float32(metadata.scales.activity)  # (slice, sample, y, x)
    arrays: dict[str, np.ndarray | h5py.Dataset] = {
        "image": stack.mean(axis=1),
        "rotation": np.array([key.rotation for key in slices.keys], dtype=np.uint8),
        "slice_index": np.array([key.slice_index for key in slices.keys], dtype=np.int16),
    }
    if stack.shape[1] > 1:
        arrays |= {"std": stack.std(axis=1, ddof=1), "samples": stack}
    facts: dict[str, Any] = {
        "subject": slices.keys[0].subject,
        "method": metadata.method,
        "weights_sha256": checkpoints.sha256(weights),
        "features_sha256": digest or "",
        "activity_scale": metadata.scales.activity,
        "weights": sampling["weights"],
        "samples": stack.shape[1],
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
    """Reconstruct one batch: (N, K, size, size) in [0, 1] units."""
    with fabric.autocast():
        images = method.predict(fabric.to_device(batch.sinogram), batch.keys, sampling, seed)
    return images.float().cpu().numpy()
