"""Slices that images are measured on."""

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from models.dataset import subject_of
from models.evaluation.catalogue import CLASSES
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.tomography.physics import dose_of


@dataclass(frozen=True)
class Slices:
    """N slices of a shard: what names them, (N,), and images, (N, y, x) in activity units.

    The dose is the part of all counts that their prompts are, of which FBP was made. Labels
    (N, y, x) are all 0, no tissue, where the shard has none; head, bool, as of `head_of`.
    """

    subject: str
    dose: float
    rotation: np.ndarray
    rotation_deg: np.ndarray
    slice_index: np.ndarray
    osem: np.ndarray
    fbp: np.ndarray
    activity: np.ndarray
    labels: np.ndarray
    head: np.ndarray

    @classmethod
    def read(cls, shard: h5py.File, rows: np.ndarray) -> "Slices":
        """Read rows, in ascending order, of an open shard.

        Raises
        ------
        InputError
            If a dataset is damaged or not finite.
        """
        names = ("rotation", "rotation_deg", "slice_index", "osem", "fbp", "activity")
        found = {name: hdf5.finite(shard[name], rows) for name in names}
        head = head_of(shard, rows)
        labels = hdf5.finite(shard["labels"], rows) if "labels" in shard else np.zeros_like(head)
        return cls(subject_of(shard), dose_of(shard), **found, labels=labels, head=head)

    def inside(self, region: str) -> np.ndarray | None:
        """(N, y, x) bool: pixels of a region of the catalogue; None for all."""
        if region == "head":
            return self.head
        classes = CLASSES[region]
        return None if classes is None else np.isin(self.labels, classes)


def head_of(shard: h5py.File, rows: Any) -> np.ndarray:
    """Tell the head from what is around it.

    Parameters
    ----------
    shard : file
        Open.
    rows : int, slice or array
        Of its slices.

    Returns
    -------
    array ([N,] y, x), bool
        Where labels are above 0; of images without labels where the truth is above the value that
        the shard has as ``head_above``.

    Raises
    ------
    InputError
        If the shard has neither, or is damaged.
    """
    if "labels" in shard:
        return hdf5.finite(shard["labels"], rows) > 0
    if "head_above" not in shard.attrs:
        problem = "lacks the dataset 'labels', and does not say what else is the head"
        remedy = f"delete it and run rule 'shard' again: snakemake --cores all -- {shard.filename}"
        raise InputError(shard.filename, problem, remedy)
    return hdf5.finite(shard["activity"], rows) > shard.attrs["head_above"]
