"""Reconstructions as rule ``reconstruct`` writes them, of images that are known."""

import h5py
import numpy as np

from pipeline.storage import hdf5
from pipeline.storage.kinds import RECONSTRUCTION

SCALE = 150.0
"""Largest training activity."""


def make_reconstruction(
    path, shard, model, *, samples=1, scale=SCALE, seed=0, error=0.0, spread=6.0, **attributes
):
    """Write what a model might have made of a shard: its activity with noise.

    Standard deviations in activity units: ``error`` of the samples' centre, ``spread`` around it.
    """
    with h5py.File(shard) as file:
        activity, subject = file["activity"][()], file.attrs["subject"]
        identity = {name: file[name][()] for name in ("rotation", "slice_index")}
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, spread, (len(activity), samples, *activity.shape[1:]))
    centre = activity + error * rng.normal(0, 1, activity.shape)
    draws = (centre[:, None] + noise).astype(np.float32)
    arrays = {"image": draws.mean(axis=1), **identity}
    sampling = {"sampler": "", "steps": 1, "eta": np.nan, "guidance": np.nan, "seed": -1}
    if samples > 1:
        arrays |= {"samples": draws, "std": draws.std(axis=1, ddof=1)}
        sampling = {"sampler": "ddim", "steps": 4, "eta": 0.5, "guidance": 0.25, "seed": 20260101}
    facts = {
        "subject": subject,
        "model": model,
        "method": model.partition("-")[0],
        "conditioning": "sinogram",
        "condition_dropout": np.nan,
        "weights_sha256": "0123456789abcdef" * 4,
        "epoch": 12,
        "parameters": 1000,
        "activity_scale": scale,
        "weights": "raw",
        "samples": samples,
        "training_seed": 7,
        "device": "cpu",
        **sampling,
    }
    hdf5.write(path, RECONSTRUCTION, arrays, hdf5.provenance({}, **{**facts, **attributes}))
    return path
