"""Rule ``phantom``: from a label volume to volumes of activity and attenuation."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import brainweb
import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.jobs.seeds import keyed_rng
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import LABELS, PHANTOM


@dataclass(frozen=True)
class Texture:
    """The configuration's ``texture``: how activity varies within a tissue.

    Attributes
    ----------
    fraction : float
        Amplitude relative to the activity, before smoothing; 0 for none.
    sigma_voxels : float
        Standard deviation of the smoothing, in voxels of the phantom.
    """

    fraction: float
    sigma_voxels: float


def class_values(values: Any) -> np.ndarray:
    """Value of each of BrainWeb's 12 classes in a table of the package ``brainweb``.

    Parameters
    ----------
    values
        ``brainweb.FDG`` (activity) or ``brainweb.Mu`` (attenuation, 1/cm).

    Returns
    -------
    array (12,), float32
    """
    # The package's own look-up works on the raw 16-bit codes, 16 times the class.
    codes = np.arange(len(brainweb.Act.all_labels)) << 4
    table = np.zeros(len(codes), dtype=np.float32)
    for attribute in values.attrs:
        table[brainweb.Act.indices(codes, attribute)] = getattr(values, attribute)
    return table


def add_texture(
    activity: np.ndarray, fraction: float, sigma_voxels: float, rng: np.random.Generator
) -> np.ndarray:
    """Multiply by 1 + fraction (2 r - 1), r smoothed uniform noise, as ``brainweb.noise``.

    Parameters
    ----------
    activity : array (z, y, x), float32
    fraction : float
        Amplitude relative to the activity, before smoothing.
    sigma_voxels : float
        Standard deviation of the Gaussian that smooths r.
    rng
        From `pipeline.jobs.seeds.keyed_rng`.
    """
    noise = rng.random(activity.shape, dtype=np.float32)
    noise = gaussian_filter(noise, sigma_voxels, mode="constant")
    return activity * (1 + np.float32(fraction) * (2 * noise - 1))


def phantom(labels: Path, output: Path, subject: str, seed: int, texture: Texture) -> None:
    """Rule ``phantom``: write activity, attenuation and labels in patient orientation (LPS).

    Parameters
    ----------
    labels
        File of rule ``fetch``, stored as RAS (x to the right, y to anterior).
    texture : Texture

    Raises
    ------
    InputError
        If the file is damaged, or holds anything but classes.
    """
    arrays, attributes = hdf5.read(labels, LABELS)
    if (highest := int(arrays["labels"].max())) >= len(brainweb.Act.all_labels):
        remedy = f"delete it and run rule 'fetch' again: snakemake --cores all -- {labels}"
        raise InputError(labels, f"has labels up to {highest}, where 11 is the last", remedy)
    classes = np.ascontiguousarray(arrays["labels"][:, ::-1, ::-1])
    activity = class_values(brainweb.FDG).take(classes)
    if texture.fraction > 0:
        rng = keyed_rng(seed, "texture", subject)
        activity = add_texture(activity, texture.fraction, texture.sigma_voxels, rng)
    hdf5.write(
        output,
        PHANTOM,
        {
            "activity": activity,
            "attenuation": class_values(brainweb.Mu).take(classes),
            "labels": classes,
        },
        hdf5.provenance(
            {"texture": asdict(texture)},
            seed=seed,
            subject=subject,
            source=attributes["source"],
            labels_sha256=attributes["labels_sha256"],
            voxel_mm=attributes["voxel_mm"],
            orientation="LPS",
        ),
    )
