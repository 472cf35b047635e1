"""Small shards and settings that the tests of the models share."""

import json
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.registry import load
from models.settings import FinalSampling, Network, Settings
from pipeline.jobs.experiment import models_of
from pipeline.shard import SHARD
from pipeline.storage import hdf5

SIZE = 16
GAN_SIZE = 24  # the least that a discriminator takes

torch.set_num_threads(1)  # tiny networks only lose time by sharing the work

OPTIMISATION: dict[str, Any] = {
    "conditioning": ["sinogram"],
    "epochs": 2,
    "keep_every_epochs": 0,
    "batch_size": 2,
    "optimiser": "adam",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_steps": 0,
    "betas": [0.9, 0.999],
    "weight_decay": 0.0,
}

DIFFUSION: dict[str, Any] = {
    **OPTIMISATION,
    "timesteps": 1000,
    "noise_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction": "epsilon",
    "condition_dropout": 0.2,
}

GAN: dict[str, Any] = {**OPTIMISATION, "width": 4, "blocks": 1, "discriminator_width": 4}

SETTINGS: dict[str, Any] = {
    "seed": 7,
    "network": {
        "size": SIZE,
        "patch": 1,
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 2,
        "heads": 2,
        "head_dim": 4,
    },
    "training": {
        "device": "cpu",
        "devices": 1,
        "threads": 1,
        "precision": "32-true",
        "target": "osem",
        "gradient_clip": 0.0,
        "ema_decay": 0.0,
        "compile": False,
        "activation_checkpointing": False,
        "workers": 0,
        "accept_code": "",
        "log_every_steps": 2,
        "checkpoint_every_steps": 1,
        "validate_every_steps": 3,
        "validation_slices": 2,
        "validation_sampling": {
            "sampler": "ddim",
            "steps": 2,
            "eta": 0.0,
            "guidance": 0.0,
            "samples": 1,
            "antithetic": False,
        },
    },
    "methods": {
        "PnPNet": {**OPTIMISATION, "dwt_weight": 0.1, "wavelet": "haar", "levels": 2},
        "cDPM": DIFFUSION,
        "LegoPET": {**DIFFUSION, "features": "PnPNet", "regression_image": False},
        "PMDM": {**DIFFUSION, "posterior_mean": "PnPNet"},
        "DeepPET": {**OPTIMISATION, "width": 4, "convolutions": [1, 1, 2]},
        "cGAN": GAN,
        "Pix2Pix": {**GAN, "l1_weight": 100.0},
    },
    "variants": {},
    "simulation": {"doses": [1.0]},
    "sampling": {
        "sampler": "ddim",
        "steps": 4,
        "eta": 0.5,
        "guidance": 0.5,
        "antithetic": False,
        "samples": 1,
        "consistency": {"steps": 0, "strength": 1.0, "start": 0.0},
        "weights": "raw",
        "batch_size": 2,
    },
}


def settings(**changes: Any) -> dict[str, Any]:
    """Copy `SETTINGS` with changes such as ``training__workers=1``."""
    result = deepcopy(SETTINGS)
    for name, value in changes.items():
        *path, last = name.split("__")
        place = result
        for key in path:
            place = place[key]
        place[last] = value
    return result


NETWORK = Network(**SETTINGS["network"])
SAMPLING = FinalSampling.of(SETTINGS["sampling"])


def job(config: Mapping[str, Any], model: str) -> Settings:
    """Give the settings of a model's training, reconstruction or sweep, as the workflow does."""
    return Settings.of(asdict(models_of(config)[model]), config)


def own_settings(method: str, **changes: Any) -> Any:
    """Give a method's own settings, with changes."""
    return load(method).Settings(**{**SETTINGS["methods"][method], **changes})


PHYSICS: dict[str, Any] = {
    "geometry": json.dumps({"geometry": "parallel", "angles": 12, "bins": 15, "bin_mm": 4.0}),
    "pixel_mm": 4.0,
    "slice_mm": 2.0,
    "attenuation": False,
    "psf_fwhm_mm": 0.0,
    "background_fraction": 0.0,
    "counts_per_slice": 9000.0,
    "counts_per_activity": 0.5,
}
"""What shards say of how they were made, beside ``pixels``."""


def make_shard(
    path: Path,
    *,
    subject: str = "subject04",
    slices: int = 5,
    size: int = SIZE,
    views: int = 12,
    radial: int = 15,
    brightness: float = 1.0,
    seed: int = 0,
    rotations: int = 1,
    scale: float = 1.0,
    physics: Mapping[str, Any] | None = PHYSICS,
    fbp: Mapping[str, Any] | None = None,
    osem_input: Mapping[str, Any] | None = None,
) -> Path:
    """Write a shard of random discs with two tissues, so many slices in all.

    What it says of its ``physics`` need not be true; None for nothing, as shards once did.
    ``fbp`` are the settings of its FBP images, ``osem_input`` of its OSEM images; None for none.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y, x)[None] * rng.uniform(1, 1.3, (slices, 1, 1))
    labels = np.select([radius < size / 6, radius < size / 3], [3, 2], 0).astype(np.uint8)
    activity = np.select([labels == 2, labels == 3], [128.0, 32.0]).astype(np.float32) * brightness
    noise = rng.normal(0, 4, activity.shape)
    arrays = {
        "sinogram": rng.poisson(50 * brightness, (slices, views, radial)).astype(np.uint32),
        "osem": np.maximum(activity + noise, 0).astype(np.float32),
        "osem_input": np.maximum(activity + 2 * noise, 0).astype(np.float32),
        "fbp": (activity + 3 * noise).astype(np.float32),
        "activity": activity.astype(np.float32),
        "labels": labels,
        "rotation": np.repeat(np.arange(rotations, dtype=np.uint8), slices // rotations),
        "rotation_deg": np.zeros(slices, dtype=np.float32),
        "slice_index": np.tile(np.arange(10, 10 + slices // rotations, dtype=np.int16), rotations),
        "scale": np.full(slices, scale, dtype=np.float32),
    }
    facts = {} if physics is None else {"pixels": size, **physics}
    made_from: dict[str, Any] = {"seed": seed}
    if fbp is not None:
        made_from["fbp_config"] = json.dumps({"fbp": fbp, "grid": {"size": size}})
    if osem_input is not None:
        made_from["osem_input_config"] = json.dumps({"osem": osem_input})
    hdf5.write(path, SHARD, arrays, hdf5.provenance(made_from, subject=subject, **facts))
    return path


@contextmanager
def few_files(count: int) -> Iterator[None]:
    """Allow this process so many more open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(path.name) for path in Path("/dev/fd").iterdir()}
    free = [number for number in range(len(taken) + count) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count - 1] + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
