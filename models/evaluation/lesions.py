"""Rule ``lesion_metrics``: how images show lesions, and what they show where there is none.

A line a lesion and image, in long format: `COLUMNS`. Tables and figures make ratios of means over
these lines, never means of ratios.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from models.dataset import Scales, subject_of
from models.evaluation.evaluate import matching
from models.evaluation.lesion_measures import (
    area_under_curve,
    false_structure,
    noise_variance,
    observed,
    threshold_of,
)
from pipeline.baselines import OSEM_FILTER
from pipeline.lesions import margin_mm
from pipeline.sources.labels import CLASSES, GREY_MATTER, WHITE_MATTER
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file
from pipeline.storage.kinds import LESION_SLICES, RECONSTRUCTION, SHARD
from pipeline.tomography.geometry import Grid
from pipeline.tomography.physics import dose_of

COLUMNS = (
    "subject",
    "rotation",
    "slice_index",
    "number",  # of the lesion, in its slice
    "tissue",  # at its centre
    "kind",  # hot or cold
    "diameter_mm",
    "dose",
    "model",
    "samples",  # of which the image is the mean
    "setting",  # full width (mm) of OSEM's filter, or MAP's beta; empty of what was chosen
    "difference",  # activity: mean in the disc with the lesion less without, of cold ones negated
    "true_difference",  # the same of the truth
    "variance",  # activity^2: of a pixel over draws, without lesions, mean over the disc
    "level",  # activity: mean of the truth without lesions in the disc
    "auc",
    "false_structure",  # of the slice: part of the brain's pixels above the threshold
    "threshold",  # activity
)
"""Columns of the table; empty where they do not apply."""


@dataclass(frozen=True)
class Shown:
    """A lesion of a slice: its facts for the table, and the pixels that are looked at."""

    facts: Mapping[str, Any]
    disc: np.ndarray
    ring: np.ndarray

    @property
    def sign(self) -> float:
        """1 of hot lesions, -1 of cold ones."""
        return 1.0 if self.facts["kind"] == "hot" else -1.0


@dataclass(frozen=True)
class LesionSlice:
    """A slice with lesions, and its copies.

    Attributes
    ----------
    rows : array (draw, twin) of int
        Of the shard.
    truth : array (twin, y, x)
        Activity without and with the lesions.
    brain : array (y, x) of bool
        Grey and white matter.
    lesions : sequence of Shown
    """

    rows: np.ndarray
    truth: np.ndarray
    brain: np.ndarray
    lesions: Sequence[Shown]


def lesion_slices(shard: h5py.File, slices: h5py.File) -> Iterator[LesionSlice]:
    """Read the slices of a subject's open shard of lesions.

    Parameters
    ----------
    shard, slices : files
        Of kind `SHARD` and `LESION_SLICES`.

    Raises
    ------
    InputError
        If they are not of the same slices.
    """
    if not hdf5.same_slices(shard, slices):
        problem = f"has other slices than {slices.filename}"
        raise InputError(shard.filename, problem, "delete it and run rule 'shard' again")
    draws = int(hdf5.finite(shard["draw"]).max()) + 1
    rows = np.arange(len(shard["draw"])).reshape(-1, draws, 2)
    grid = Grid(shard["lesion"].shape[-1], float(shard.attrs["pixel_mm"]))
    names = [name for name in LESION_SLICES.datasets if name.startswith("lesion_")]
    table = pd.DataFrame({n.removeprefix("lesion_"): hdf5.finite(slices[n]) for n in names})
    whose = {"subject": subject_of(shard), "dose": dose_of(shard)}
    for copies in rows:
        first = int(copies[0, 0])
        key = {n: int(hdf5.finite(shard[n], first)) for n in ("rotation", "slice_index")}
        brain = np.isin(hdf5.finite(shard["labels"], first), (GREY_MATTER, WHITE_MATTER))
        mask = hdf5.finite(shard["lesion"], first)
        own = table[(table[list(key)] == pd.Series(key)).all(axis=1)]
        truth = hdf5.finite(shard["activity"], np.s_[first : first + 2])
        found = [_shown({**whose, **one}, mask, brain, grid) for one in own.to_dict("records")]
        yield LesionSlice(copies, truth, brain, found)


def _shown(lesion: Mapping[str, Any], mask: np.ndarray, brain: np.ndarray, grid: Grid) -> Shown:
    """Find a lesion's disc, and the ring around it: brain of no lesion, up to the next one's."""
    radius_mm = lesion["diameter_mm"] / 2
    y_mm, x_mm = np.meshgrid(grid.centres_mm, grid.centres_mm, indexing="ij")
    distance_mm = np.hypot(y_mm - lesion["y_mm"], x_mm - lesion["x_mm"])
    # No pixel that the sphere touches, and none of another lesion.
    outside = distance_mm > radius_mm + grid.pixel_mm
    ring = outside & (distance_mm < radius_mm + margin_mm(grid.pixel_mm)) & brain & (mask == 0)
    facts = {
        **{name: lesion[name] for name in COLUMNS if name in lesion},
        "tissue": CLASSES[lesion["tissue"]],
        "kind": "hot" if lesion["contrast"] > 1 else "cold",
    }
    return Shown(facts, mask == lesion["number"], ring)


def measured(
    images: np.ndarray, of: LesionSlice, facts: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Measure the images of a slice: a record a lesion.

    Parameters
    ----------
    images : array (draw, twin, y, x)
        Activity.
    facts : mapping
        Further entries of the records.
    """
    for lesion in of.lesions:
        values = lesion.sign * images[..., lesion.disc].mean(axis=-1, dtype=np.float64)
        true = lesion.sign * of.truth[:, lesion.disc].mean(axis=-1, dtype=np.float64)
        seen = lesion.sign * observed(images, lesion.disc, lesion.ring)
        yield {
            **lesion.facts,
            **facts,
            "difference": (values[:, 1] - values[:, 0]).mean(),
            "true_difference": true[1] - true[0],
            "variance": noise_variance(images[:, 0], lesion.disc),
            "level": of.truth[0, lesion.disc].mean(),
            "auc": area_under_curve(seen[:, 1], seen[:, 0]),
        }


def lesion_metrics(
    shards: Sequence[Path],
    slices: Sequence[Path],
    reconstructions: Mapping[str, Sequence[Path]],
    scales: Scales,
    smallest_mm: float,
    output: Path,
) -> None:
    """Rule ``lesion_metrics``: measure all images of a dose, of all test subjects.

    Of a model with K samples, the means of the first 1, 2, ... K are measured; of antithetic ones
    those of the first and of whole pairs.

    Parameters
    ----------
    shards, slices : sequences of path
        Of lesions, a subject each.
    reconstructions : mapping of model to paths
        One of each subject; OSEM + filter, which sets the threshold of false structure, is one.
    scales : Scales
        Of the training split.
    smallest_mm : float
        Full width at half maximum by which images are smoothed to look for false structure.
    output : Path
        CSV, compressed by gzip.

    Raises
    ------
    InputError
        If a file is unreadable, or a reconstruction is of other slices or by another model.
    """
    with ExitStack() as stack:
        subjects = [
            (
                stack.enter_context(hdf5.opened(shard, SHARD)),
                stack.enter_context(hdf5.opened(table, LESION_SLICES)),
            )
            for shard, table in zip(shards, slices, strict=True)
        ]
        files = {
            model: [
                matching(
                    stack.enter_context(hdf5.opened(path, RECONSTRUCTION)),
                    shard,
                    model,
                    scales.activity,
                )
                for path, (shard, _) in zip(paths, subjects, strict=True)
            ]
            for model, paths in reconstructions.items()
        }
        pixel_mm = float(subjects[0][0].attrs["pixel_mm"])

        def wrong(images: np.ndarray, of: LesionSlice) -> np.ndarray:
            """False structure (draw, pixel of the brain) of the twins without lesions."""
            healthy = images[:, 0].astype(np.float32)
            return false_structure(healthy, of.truth[0], smallest_mm, pixel_mm)[:, of.brain]

        threshold = threshold_of(
            [wrong(images, of) for images, of, _ in _images(files[OSEM_FILTER], subjects)]
        )
        records = [
            record
            for model, found in files.items()
            for images, of, samples in _images(found, subjects)
            for record in measured(
                images,
                of,
                {
                    "model": model,
                    "samples": samples,
                    "false_structure": (wrong(images, of) > threshold).mean(),
                    "threshold": threshold,
                },
            )
        ]
    write(records, output)


def _images(
    files: Sequence[h5py.File], subjects: Sequence[tuple[h5py.File, h5py.File]]
) -> Iterator[tuple[np.ndarray, LesionSlice, int]]:
    """Images (draw, twin, y, x) of all slices by a model: means of its first 1, 2, ... samples."""
    for file, subject in zip(files, subjects, strict=True):
        for of in lesion_slices(*subject):
            rows, shape = np.s_[of.rows.min() : of.rows.max() + 1], of.rows.shape
            if "samples" not in file:
                images = hdf5.finite(file["image"], rows)
                yield images.reshape(*shape, *images.shape[1:]), of, 1
                continue
            samples = hdf5.finite(file["samples"], rows)
            pairs = file.attrs.get("antithetic", 0)  # half a pair is no mean
            for count in (1, *range(2, samples.shape[1] + 1, 2 if pairs else 1)):
                images = samples[:, :count].mean(axis=1)
                yield images.reshape(*shape, *images.shape[1:]), of, count


def write(records: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Write records of `measured` as CSV, compressed if the name ends in .gz; the same, the same.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    packed = {"method": "gzip", "mtime": 0} if output.suffix == ".gz" else None
    with atomic_file(output) as temporary:
        pd.DataFrame(records, columns=COLUMNS).to_csv(
            temporary, index=False, float_format="%.6g", lineterminator="\n", compression=packed
        )
