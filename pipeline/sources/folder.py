"""Rule ``fetch`` for own images: one NIfTI file or DICOM series a subject, from a folder.

Of ``subject01`` the folder holds the image, ``subject01.nii.gz``, ``subject01.nii`` or a folder
``subject01`` of DICOM slices, and, if there are any, its attenuation map ``subject01_mu`` in 1/cm
and its classes ``subject01_labels`` (BrainWeb's, 0 to 11), which have the image's voxels.

A scanner's image is activity with the noise and the resolution of that scanner's reconstruction.
Nothing scales it: the activity's unit is the image's.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.sources.base import IMAGES, Facts
from pipeline.sources.labels import CLASSES
from pipeline.sources.subjects import read_subjects
from pipeline.storage.errors import InputError

if TYPE_CHECKING:
    from pipeline.images.volume import Volume

log = logging.getLogger(__name__)

REFUSE, CLIP = "refuse", "clip"

PLAUSIBLE_PER_CM = (0.05, 1.0)
"""Largest value that an attenuation map may have: water has 0.096, bone up to 0.2, metal more."""

SAME_MM = 0.01
"""By which the corners of two volumes of the same voxels may lie apart."""


def fetch(output: Path, subject: str, config: Mapping[str, Any]) -> None:
    """Read, check and write a subject's image, as `IMAGE` of `pipeline.storage.kinds`.

    Parameters
    ----------
    output : path
        HDF5 file, in an existing folder.
    subject : str
        As in ``subject04``.
    config : mapping
        Of which ``negative`` decides: ``refuse``, or ``clip``, which puts 0 in the place of
        negative values and of NaN.

    Raises
    ------
    InputError
        If there is no image of the subject, or it, its attenuation map or its classes cannot be
        used: see `pipeline.images`.
    """
    from pipeline.storage import hdf5, kinds

    folder = _folder(config["images_dir"])
    path, image = _image(folder, subject)
    sha256 = hashlib.sha256(np.ascontiguousarray(image.values).data).hexdigest()
    _verify(sha256, read_subjects(config["subjects"])[subject].labels_sha256, path, subject)
    arrays = {"activity": cleaned(image.values, config["negative"], path)}
    if not arrays["activity"].any():
        raise InputError(path, "holds nothing but zeros", "replace it")
    if found := _beside(folder, f"{subject}_mu", image):
        arrays["attenuation"] = attenuation(*found, config["negative"])
    if found := _beside(folder, f"{subject}_labels", image):
        arrays["labels"] = classes(*found)
    determined_by = {"source": "folder", "subject": subject, "negative": config["negative"]}
    attributes = hdf5.provenance(
        determined_by,
        **determined_by,
        origin=path.name,
        labels_sha256=sha256,
        affine_mm=image.affine_mm,
        activity_unit=image.unit,
    )
    hdf5.write(output, kinds.IMAGE, arrays, attributes)
    log.info("%s: %s from %s, SHA-256 of the image %s", output, subject, path, sha256)


def _folder(images_dir: str) -> Path:
    if not images_dir:
        remedy = "name the folder of your images: --config images_dir=DIR"
        raise InputError("images_dir", "is empty", remedy)
    folder = Path(images_dir).expanduser()
    if not folder.is_dir():
        raise InputError(folder, "is not a folder", "correct images_dir")
    return folder


def _image(folder: Path, subject: str) -> "tuple[Path, Volume]":
    from pipeline.images import readers

    if found := readers.read(folder, subject):
        return found
    raise _lacking(folder, subject)


def _lacking(folder: Path, subject: str) -> InputError:
    from pipeline.images import readers

    problem = f"lacks {subject}; looked for {readers.names(subject)}"
    remedy = "put the image there, or correct images_dir"
    if near := readers.in_other_case(folder, subject):
        problem = f"{problem}, and found {near}"
        remedy = f"rename {near} to {near.lower()}, all in lower case, or correct images_dir"
    return InputError(folder, problem, remedy)


def check_there(subjects: Iterable[str], config: Mapping[str, Any]) -> None:
    """Refuse a folder that is missing, or lacks the image of a subject."""
    from pipeline.images import readers

    for subject in subjects:
        folder = _folder(config["images_dir"])
        if not readers.there(folder, subject):
            raise _lacking(folder, subject)


def _verify(found: str, expected: str | None, path: Path, subject: str) -> None:
    if expected is None:
        log.warning("%s: image of %s not verified, its hash is not known", path, subject)
    elif found != expected:
        problem = f"holds an image with SHA-256 {found}; {subject} has {expected}"
        remedy = "replace it, or correct labels_sha256 in the table of subjects"
        raise InputError(path, problem, remedy)


def _beside(folder: Path, name: str, image: "Volume") -> "tuple[Path, Volume] | None":
    """Read what belongs to an image, if it is there; it must have the image's voxels."""
    from pipeline.images import readers

    found = readers.read(folder, name)
    if found is None:
        return None
    path, volume = found
    remedy = "resample it to the image's voxels"
    if volume.values.shape != image.values.shape:
        shapes = f"{volume.values.shape} voxels, and the image {image.values.shape}"
        raise InputError(path, f"has (z, y, x) = {shapes}", remedy)
    apart_mm = _apart_mm(volume, image)
    if not apart_mm <= SAME_MM:
        problem = f"lies elsewhere: its corners are up to {apart_mm:.3g} mm from the image's"
        raise InputError(path, problem, remedy)
    return found


def _apart_mm(one: "Volume", other: "Volume") -> float:
    """Largest distance of the corners of two volumes of one shape."""
    last = np.array(one.values.shape[::-1]) - 1
    corners = np.array([[*(last * corner), 1] for corner in np.ndindex(2, 2, 2)])
    moved_mm = corners @ (one.affine_mm - other.affine_mm).T
    return float(np.linalg.norm(moved_mm, axis=1).max())


def cleaned(values: np.ndarray, negative: str, path: Path) -> np.ndarray:
    """Values (z, y, x) without negative ones and NaN, which are refused or set to 0.

    Raises
    ------
    InputError
        If there are some and ``negative`` is `REFUSE`; if a value is infinite, always.
    """
    if np.isinf(values).any():
        count = np.count_nonzero(np.isinf(values))
        raise InputError(path, f"has {count} infinite values", "replace it")
    counts = {"negative values": np.count_nonzero(values < 0)}
    counts["NaN"] = np.count_nonzero(np.isnan(values))
    if not any(counts.values()):
        return values
    shares = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    problem = f"has {shares} in {values.size} voxels, down to {np.nanmin(values, initial=0):.4g}"
    if negative == REFUSE:
        raise InputError(path, problem, "mend it, or set negative: clip, which makes them 0")
    log.warning("%s: %s; set to 0", path, problem)
    return np.where(values > 0, values, np.float32(0))


def attenuation(path: Path, volume: "Volume", negative: str) -> np.ndarray:
    """Attenuation (z, y, x) in 1/cm; InputError as `cleaned`, or if it can be no such map."""
    values = cleaned(volume.values, negative, path)
    low, high = PLAUSIBLE_PER_CM
    if not low <= (highest := float(values.max())) <= high:
        raise InputError(
            path,
            f"has values up to {highest:.4g}, where an attenuation map in 1/cm has 0.1 to 0.2",
            "give it in 1/cm, at 511 keV: of one in 1/mm ten times its values",
        )
    return values


def classes(path: Path, volume: "Volume") -> np.ndarray:
    """Classes (z, y, x), uint8; InputError if they are none of BrainWeb's."""
    labels = np.nan_to_num(volume.values, nan=-1, posinf=-1, neginf=-1)
    wrong = (labels < 0) | (labels >= len(CLASSES)) | (labels != np.rint(labels))
    if wrong.any():
        problem = f"holds {volume.values[wrong][0]:g}, where classes are whole numbers up to 11"
        remedy = "give BrainWeb's classes: grey matter 2, white matter 3, background 0"
        raise InputError(path, problem, remedy)
    return labels.astype(np.uint8)


FACTS = Facts(
    shape=(256, 512, 512),  # as many voxels as `pipeline.images.volume` takes, unknown beforehand
    bytes_per_voxel=28,  # values of a file, up to 8, and image, attenuation, labels, masks of them
    decided_by=("negative",),
    gives=IMAGES,
    check_there=check_there,
)
