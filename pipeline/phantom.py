"""Rule ``phantom``: volumes of activity and attenuation, made of labels or of an own image."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import brainweb
import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.images.orientation import is_straight, to_lps
from pipeline.jobs.seeds import keyed_rng
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import IMAGE, LABELS, PHANTOM, PHANTOM_OF_IMAGE

log = logging.getLogger(__name__)

HEAD_FRACTION, HEAD_PERCENTILE = 0.25, 99.9
"""An own image shows the head where it is above this fraction of this percentile of its values.

The thousandth part of the voxels is some of the brain, whatever the field of view, and no single
voxel's noise. A quarter of what FDG has in grey matter holds the brain and most of what lies
around it, and leaves out noise in the air.
"""


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
    if filled := filled_planes(classes):
        log.warning(
            "%s: planes of one tissue from border to border are emptied: %s", labels, filled
        )
        classes[filled] = 0
    activity = class_values(brainweb.FDG)[classes]
    if texture.fraction > 0:
        rng = keyed_rng(seed, "texture", subject)
        activity = add_texture(activity, texture.fraction, texture.sigma_voxels, rng)
    hdf5.write(
        output,
        PHANTOM,
        {
            "activity": activity,
            "attenuation": class_values(brainweb.Mu)[classes],
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


def filled_planes(labels: np.ndarray) -> list[int]:
    """Find axial planes of labels (z, y, x) that are one tissue from border to border.

    No head is: it is a fault of the volume. The lowest plane of BrainWeb's subject53 is all vessel,
    which attenuates far beyond the head and, at some sizes, beyond the field of view.
    """
    first = labels[:, 0, 0]
    filled = (first > 0) & (labels == first[:, None, None]).all(axis=(1, 2))
    planes: list[int] = np.flatnonzero(filled).tolist()
    return planes


def of_image(image: Path, output: Path, subject: str) -> None:
    """Rule ``phantom`` of an own image: the same file, in patient orientation (LPS).

    The activity is the image, in its own unit. Attenuation is 0 where there is no map of it; labels
    are absent where there are none. Volumes along the patient's axes are turned without a change
    of any value, others interpolated: see `pipeline.images.orientation.to_lps`.

    Parameters
    ----------
    image
        File of rule ``fetch``.

    Raises
    ------
    InputError
        If the file is damaged, or the image would need too many voxels.
    """
    arrays: dict[str, np.ndarray] = {}
    with hdf5.opened(image, IMAGE) as file:
        affine_mm = np.asarray(file.attrs["affine_mm"])
        for name in (name for name in IMAGE.datasets if name in file):
            order = 0 if name == "labels" else 1
            arrays[name], voxel_mm = to_lps(hdf5.finite(file[name]), affine_mm, order, str(image))
        facts = {name: file.attrs[name] for name in ("source", "labels_sha256", "activity_unit")}
    activity = arrays["activity"]
    arrays.setdefault("attenuation", np.zeros_like(activity))
    head_above = HEAD_FRACTION * float(np.percentile(activity, HEAD_PERCENTILE))
    hdf5.write(
        output,
        PHANTOM_OF_IMAGE,
        arrays,
        hdf5.provenance(
            {"head_fraction": HEAD_FRACTION, "head_percentile": HEAD_PERCENTILE},
            subject=subject,
            voxel_mm=voxel_mm,
            orientation="LPS",
            interpolation="none" if is_straight(affine_mm) else "linear",
            head_above=head_above,
            **facts,
        ),
    )
