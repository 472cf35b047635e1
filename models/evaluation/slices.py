"""Slices that images are measured on."""

from dataclasses import dataclass

import h5py
import numpy as np

from models.dataset import subject_of
from models.evaluation.catalogue import CLASSES
from pipeline.storage import hdf5


@dataclass(frozen=True)
class Slices:
    """N slices of a shard: what names them, (N,), and images, (N, y, x) in activity units."""

    subject: str
    rotation: np.ndarray
    rotation_deg: np.ndarray
    slice_index: np.ndarray
    osem: np.ndarray
    fbp: np.ndarray
    activity: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls, shard: h5py.File, rows: np.ndarray) -> "Slices":
        """Read rows, in ascending order, of an open shard.

        Raises
        ------
        InputError
            If a dataset is damaged or not finite.
        """
        names = ("rotation", "rotation_deg", "slice_index", "osem", "fbp", "activity", "labels")
        return cls(subject_of(shard), *(hdf5.finite(shard[name], rows) for name in names))

    def inside(self, region: str) -> np.ndarray | None:
        """(N, y, x) bool: pixels of a region of the catalogue; None for all."""
        classes = CLASSES[region]
        return None if classes is None else np.isin(self.labels, classes)
