"""From shards to normalised batches and back: the one place where units change."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.channels import CHANNELS, TARGETS, Channel
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SHARD
from pipeline.tomography.physics import dose_of
from pipeline.tomography.spacing import evenly_spaced


class SliceKey(NamedTuple):
    """Names one slice: every random draw that belongs to it is keyed by this."""

    subject: str
    rotation: int
    slice_index: int
    draw: int = 0
    """Which measurement of the slice, where there are several."""

    def __str__(self) -> str:
        draw = f", draw {self.draw}" if self.draw else ""
        return f"{self.subject}, rotation {self.rotation}, slice {self.slice_index}{draw}"

    @property
    def words(self) -> tuple[str | int, ...]:
        """What keys random draws; of the first measurement the slice alone."""
        return tuple(self) if self.draw else tuple(self[:3])


class Batch(NamedTuple):
    """N slices, normalised, float32.

    Attributes
    ----------
    inputs : Tensor
        (N, C, size, size): what networks see of the measurement, a channel for each name of the
        method's ``conditioning``.
    image : Tensor
        (N, 1, size, size): the target, as of the paper the OSEM reference.
    keys : list of SliceKey
    """

    inputs: Tensor
    image: Tensor
    keys: list[SliceKey]


# --- units -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scales:
    """Fixed divisors that bring sinograms and images to [0, 1].

    They come from the training shards alone, travel with the weights, and are the only ones ever
    applied; a brighter slice of another split goes above 1 and is not clipped.

    Attributes
    ----------
    sinogram : float
        Largest bin of the training prompts, in counts.
    activity : float
        Largest pixel of the training OSEM references, in activity units.
    line_integral : float or None
        Largest bin of the training prompts over ``scale``, in activity mm; None of weights from
        before it was recorded.
    """

    sinogram: float
    activity: float
    line_integral: float | None = None

    @classmethod
    def from_shards(cls, paths: Sequence[Path]) -> "Scales":
        """Find the maxima over shards, reading one slice at a time.

        Raises
        ------
        InputError
            If a shard is unreadable, holds non-finite values, or all maxima are zero.
        """
        maxima = {"sinogram": 0.0, "osem": 0.0}
        line_integral = 0.0
        for path in paths:
            with hdf5.opened(path, SHARD) as file:
                for name in maxima:
                    largest = [
                        float(hdf5.finite(file[name], n).max()) for n in range(len(file[name]))
                    ]
                    maxima[name] = max(maxima[name], *largest)
                    if name == "sinogram":
                        scale = hdf5.finite(file["scale"])
                        line_integral = max(line_integral, *(largest / scale).tolist())
        for name, value in maxima.items():
            if value <= 0:
                where = ", ".join(map(str, paths)) or "training shards"
                raise InputError(where, f"'{name}' is zero everywhere", "make the shards again")
        return cls(maxima["sinogram"], maxima["osem"], line_integral)

    def to_dict(self) -> dict[str, float]:
        """Give plain numbers, those that there are, for metadata."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def to_signed(image: Tensor) -> Tensor:
    """[0, 1] (regression) -> [-1, 1] (diffusion)."""
    return 2 * image - 1


def from_signed(image: Tensor) -> Tensor:
    """[-1, 1] (diffusion) -> [0, 1] (regression)."""
    return (image + 1) / 2


def pad(array: np.ndarray, size: int) -> np.ndarray:
    """Zero-pad the last two axes to ``size``, centred.

    Of n views or radial bins the first goes to index (size - n) // 2, so that 252 views become
    rows 2..253 of 256 and 255 radial bins columns 0..254.

    Raises
    ------
    ValueError
        If an axis is longer than ``size``.
    """
    if array.shape[-2:] == (size, size):
        return array
    if max(array.shape[-2:]) > size:
        raise ValueError(f"{array.shape[-2:]} does not fit into {size} x {size}")
    padded = np.zeros((*array.shape[:-2], size, size), dtype=array.dtype)
    padded[(..., *_window(array.shape[-2:], size))] = array
    return padded


def scaled(array: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Pad the last two axes to ``size``, as `pad` does, and divide, in float32."""
    divided: np.ndarray = pad(array.astype(np.float32), size) / np.float32(scale)
    return divided


def crop(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Undo `pad`: take the central ``shape`` of the last two axes."""
    return array[(..., *_window(shape, array.shape[-1]))]


def _window(shape: Sequence[int], size: int) -> tuple[slice, slice]:
    views, radial = (slice((size - n) // 2, (size - n) // 2 + n) for n in shape)
    return views, radial


# --- slices ------------------------------------------------------------------------------------

OPEN_FILES = 128
"""Shards that a reading process keeps open; systems commonly allow a process 1024 files."""


def subject_of(file: h5py.File) -> str:
    """Name the subject of an open shard: its attribute, or else the file's name."""
    return str(file.attrs.get("subject", Path(file.filename).stem))


class ShardSlices(Dataset[dict[str, Any]]):
    """Slices of several shards, read from disk one at a time when asked for.

    Item ``i`` is a dict of ``inputs``, (C, size, size), and ``image``, (1, size, size), as in
    `Batch`, and ``key``, a `SliceKey`. Sinograms and images are in [0, 1] by ``scales``; an FBP
    image, on the same scale as the reference, has negative values too.

    Attributes
    ----------
    doses : int
        How many doses there are: the slices of the first come first, then the same of the next.

    Parameters
    ----------
    paths : sequence of path
        Shards; their slices follow one another. Those of one dose stand together, and each dose
        has those of the same subjects.
    size : int
        Pixels a side that the network works on.
    scales : Scales
        Of the training split.
    conditioning : sequence of str
        The method's: names of `models.channels.CHANNELS`.
    target : str
        What ``image`` is, a name of `models.channels.TARGETS`.

    Raises
    ------
    InputError
        If an image is not size x size or a sinogram is larger, a channel is absent, or doses are
        not of the same slices; when reading, also for a slice that is damaged or not finite.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int,
        scales: Scales,
        conditioning: Sequence[str],
        target: str = "osem",
    ):
        self.paths, self.size, self.scales = [Path(p) for p in paths], size, scales
        self.channels, self.target = [CHANNELS[name] for name in conditioning], TARGETS[target]
        doses = []
        self.positions: list[tuple[int, int]] = []  # (number of the shard, row in it)
        self.keys: list[SliceKey] = []
        self._open_files: dict[int, h5py.File] = {}
        self._owner = os.getpid()
        for number, path in enumerate(self.paths):
            with hdf5.opened(path, SHARD) as file:
                _check_shape(file, size, [channel.dataset for channel in self.channels])
                doses.append(dose_of(file))
                names = [n for n in SliceKey._fields[1:] if n in file]
                rows = zip(*(hdf5.finite(file[name]).tolist() for name in names), strict=True)
                for row, numbers in enumerate(rows):
                    self.positions.append((number, row))
                    self.keys.append(SliceKey(subject_of(file), *numbers))
        self.doses = len(set(doses))
        per_dose = len(self) // max(self.doses, 1)
        if self.keys != self.keys[:per_dose] * self.doses:
            problem = f"do not hold the same slices at each of {self.doses} doses"
            remedy = "make all doses of the same subjects"
            raise InputError(", ".join(map(str, self.paths)), problem, remedy)

    def __len__(self) -> int:
        return len(self.positions)

    def evenly_spaced(self, count: int) -> list[int]:
        """Indices of ``count`` slices, or all, the first and the last among them.

        A single one is the middle one of the anatomy: the middle of the list may be the border
        of two rotations, which is an end of the brain.
        """
        order = np.arange(len(self))
        if count == 1:
            order = np.argsort([key.slice_index for key in self.keys], kind="stable")
        chosen: list[int] = order[evenly_spaced(0, len(self) - 1, min(count, len(self)))].tolist()
        return chosen

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = self.positions[index]
        file = self._file(number)
        try:
            inputs = np.stack([self._scaled(file, row, channel) for channel in self.channels])
            image = self._scaled(file, row, self.target)
        except InputError as error:
            problem = f"{self.keys[index]}: {error.problem}"
            raise InputError(error.where, problem, error.remedy) from None
        return {
            "inputs": torch.from_numpy(inputs),
            "image": torch.from_numpy(image)[None],
            "key": self.keys[index],
        }

    def _scaled(self, file: h5py.File, row: int, channel: Channel) -> np.ndarray:
        array, scale = hdf5.finite(file[channel.dataset], row), getattr(self.scales, channel.scale)
        return scaled(array, self.size, scale * of_slice(file, row, channel))

    def __getitems__(self, indices: Sequence[int]) -> "list[dict[str, Any]] | InputError":
        # A worker process cannot raise an InputError (PyTorch rebuilds exceptions from their text
        # alone), so it is handed over as data; `batches` raises it.
        try:
            return [self[index] for index in indices]
        except InputError as error:
            return error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_files": {}}

    def _file(self, number: int) -> h5py.File:
        # HDF5 handles must not cross a fork: each process opens its own.
        if self._owner != os.getpid():
            self._open_files, self._owner = {}, os.getpid()
        file = self._open_files.pop(number, None)
        if file is None:
            if len(self._open_files) == OPEN_FILES:
                self._open_files.pop(next(iter(self._open_files))).close()
            file = hdf5.unchecked(self.paths[number], SHARD)
        self._open_files[number] = file  # the last used is the last
        return file


def of_slice(file: h5py.File, row: int, channel: Channel) -> float:
    """Give what a slice's channel is divided by before the scale that all have in common."""
    return float(hdf5.finite(file[channel.per], row)) if channel.per else 1.0


def _check_shape(file: h5py.File, size: int, seen: Sequence[str]) -> None:
    image, sinogram = file["osem"].shape[1:], file["sinogram"].shape[1:]
    if image != (size, size) or ("sinogram" in seen and max(sinogram) > size):
        raise InputError(
            file.filename,
            f"images of {image} and sinograms of {sinogram} (view, radial) do not fit a network "
            f"of {size} x {size}",
            "set network.size to the size of the images, at least that of the sinograms",
        )
    for name in ("fbp", "activity", "labels", "osem_input"):
        if name in file:  # the last two need not be
            hdf5.check_shape(file[name], image)
    for name in seen:
        if name not in file:
            remedy = (
                f"delete it, and call snakemake with a configuration that has a model with {name}"
            )
            raise InputError(file.filename, f"lacks the dataset '{name}'", remedy)


# --- batches -----------------------------------------------------------------------------------
