"""The 12 tissue classes of a label volume, its hash, and its file, whatever source it is from."""

import hashlib
import logging
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

CLASSES = (
    "background", "CSF", "GM", "WM", "fat", "muscle", "muscle/skin", "skull", "vessels",
    "around fat", "dura", "marrow",
)  # fmt: skip
"""Names of the classes; a label is an index into this tuple."""

GREY_MATTER, WHITE_MATTER = CLASSES.index("GM"), CLASSES.index("WM")
"""Classes that make up the brain."""


def labels_sha256(labels: np.ndarray) -> str:
    """Return the SHA-256 of a uint8 label array: of its values in C order, nothing else."""
    if labels.dtype != np.uint8:
        raise ValueError(f"labels are {labels.dtype}, not uint8")
    return hashlib.sha256(np.ascontiguousarray(labels).data).hexdigest()


def write_labels(
    output: str | Path,
    labels: np.ndarray,
    voxel_mm: tuple[float, float, float],
    *,
    source: str,
    origin: str,
    subject: str,
    **settings: int,
) -> None:
    """Write a `LABELS` file, for any source of phantoms.

    Parameters
    ----------
    output, labels, voxel_mm
        HDF5 file; classes, (z, y, x) uint8 in RAS+ orientation; voxel size along z, y, x.
    source, origin, subject : str
        Data set by its name in `pipeline.sources.registry`, the address or file it came from, and
        the subject.
    **settings
        What else determines the labels, e.g. a seed.
    """
    from pipeline.storage import hdf5, kinds

    sha256 = labels_sha256(labels)
    determined_by = {"source": source, "subject": subject, **settings}
    attributes = hdf5.provenance(
        determined_by,
        **determined_by,
        origin=origin,
        labels_sha256=sha256,
        voxel_mm=np.array(voxel_mm, np.float64),
        orientation="RAS",
    )
    hdf5.write(output, kinds.LABELS, {"labels": labels}, attributes)
    log.info("%s: %s of %s from %s, SHA-256 of labels %s", output, subject, source, origin, sha256)
