"""What is measured of reconstructed slices, and the rows of the table that hold it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from models import metrics
from models.dataset import Scales, subject_of
from models.evaluation.metrics_table import COLUMNS, EVERYWHERE, REFERENCES, REGIONS
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError

Values = dict[tuple[str, str, str], np.ndarray]
"""(metric, reference, region) -> one value a slice, (N,); NaN where it does not exist.

What `EVERYWHERE` names always exists.
"""


@dataclass(frozen=True)
class Slices:
    """N slices of a shard: what names them, (N,), and images, (N, y, x) in activity units."""

    subject: str
    rotation: np.ndarray
    rotation_deg: np.ndarray
    slice_index: np.ndarray
    osem: np.ndarray
    fbp: np.ndarray
    truth: np.ndarray
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

    @property
    def head(self) -> Tensor:
        """(N, 1, y, x) bool: pixels with a BrainWeb label above 0."""
        return torch.from_numpy(self.labels > 0)[:, None]


def quality(
    images: np.ndarray,
    slices: Slices,
    scales: Scales,
    references: Sequence[str] = REFERENCES,
    regions: Sequence[str] = REGIONS,
) -> Values:
    """Compute PSNR, SSIM and NRMSE of images.

    Parameters
    ----------
    images : ndarray
        (N, y, x), activity units.
    slices : Slices
        The N slices that they show.
    scales : Scales
        Of the training split: a data range of 1 is its largest activity.
    references : sequence of str
        Of "osem" and "truth".
    regions : sequence of str
        Of "image" and "head".
    """
    x = _normalised(images, scales)
    values: Values = {}
    for reference in references:
        y = _normalised(getattr(slices, reference), scales)
        similarity = metrics.ssim_map(x, y)
        for region in regions:
            mask = slices.head if region == "head" else None
            found = {
                "psnr_db": metrics.psnr_db(x, y, mask),
                "ssim": metrics.region_mean(similarity, mask),
                "nrmse": metrics.nrmse(x, y, mask),
            }
            values |= {(name, reference, region): v.numpy() for name, v in found.items()}
    return values


def activity(images: np.ndarray, slices: Slices) -> Values:
    """Compare grey and white matter of images, (N, y, x) in activity units, with the truth's."""
    means = metrics.tissue_means(images, slices.labels)
    true_means = metrics.tissue_means(slices.truth, slices.labels)
    values: Values = {}
    for tissue, mean, true_mean in zip(("grey", "white"), means, true_means, strict=True):
        values["mean", "", tissue] = mean
        values["mean_error", "truth", tissue] = mean - true_mean
    values["contrast_recovery", "truth", ""] = metrics.contrast_recovery(means, true_means)
    return values


def posterior(samples: np.ndarray, slices: Slices) -> Values:
    """Ask whether K > 1 samples, (N, K, y, x) in activity units, spread as much as they err."""
    draws, head = torch.from_numpy(samples), slices.head
    mean, deviation = draws.mean(dim=1, keepdim=True), draws.std(dim=1, keepdim=True)
    found = {("sd_mean", "", "head"): metrics.region_mean(deviation, head)}
    for name in REFERENCES:
        reference = torch.from_numpy(getattr(slices, name))[:, None]
        correlation = metrics.sd_error_correlation(deviation, (mean - reference).abs(), head)
        found["sd_error_correlation", name, "head"] = correlation
        for level, share in metrics.interval_coverage(draws, reference, head).items():
            found[f"coverage_{level:.3f}", name, "head"] = share
    return {key: value.numpy() for key, value in found.items()}


def _normalised(images: np.ndarray, scales: Scales) -> Tensor:
    """(N, y, x) in activity units -> (N, 1, y, x) in [0, 1] units."""
    return torch.from_numpy(images / np.float32(scales.activity))[:, None]


def tidy(slices: Slices, origin: Mapping[str, Any], values: Values) -> pd.DataFrame:
    """Bring values into the table's format, leaving out those that do not exist.

    Parameters
    ----------
    slices : Slices
        What was measured.
    origin : mapping
        How the images were made: the columns from ``model`` to ``sampling_seed``, absent where
        they do not apply. See `origin_of`.
    values : Values
        From `quality` and its like.

    Returns
    -------
    DataFrame
        Columns as `models.evaluation.metrics_table.COLUMNS`.

    Raises
    ------
    InputError
        If a metric that always exists is NaN, as that of an image with NaN: names model and slice.
    """
    _check_numbers(slices, origin, values)
    keys, count = list(values), len(slices.slice_index)
    table = pd.DataFrame({"subject": slices.subject}, index=range(len(keys) * count))
    for name in ("rotation", "rotation_deg", "slice_index"):
        table[name] = np.tile(getattr(slices, name), len(keys))
    for name, texts in zip(("metric", "reference", "region"), zip(*keys, strict=True), strict=True):
        table[name] = np.repeat(texts, count)
    table["value"] = np.concatenate([values[key] for key in keys])
    for name, kind in COLUMNS.items():
        if name not in table:
            table[name] = origin.get(name, "" if kind == "str" else None)
    return table[list(COLUMNS)].astype(COLUMNS).dropna(subset="value")


def _check_numbers(slices: Slices, origin: Mapping[str, Any], values: Values) -> None:
    for (metric, _, region), found in values.items():
        bad = np.flatnonzero(np.isnan(found))
        if (metric, region) in EVERYWHERE and len(bad):
            names = "; ".join(
                f"{slices.subject}, rotation {slices.rotation[n]}, slice {slices.slice_index[n]}"
                for n in bad
            )
            raise InputError(
                f"images by {origin['model']}",
                f"their {metric} is not a number on {names}",
                "look for pixels that are not numbers in these images and the shard's, and make "
                "them again",
            )


def origin_of(attributes: Mapping[str, Any], estimate: str) -> dict[str, Any]:
    """Say how the images of a reconstruction were made.

    Parameters
    ----------
    attributes : mapping
        Of a file of kind `pipeline.storage.kinds.RECONSTRUCTION`.
    estimate : str
        "single" for one pass or the first sample, "mean" for the mean of the file's samples.
    """
    origin = {
        name: attributes[name]
        for name in ("model", "method", "conditioning", "condition_dropout", "training_seed")
    }
    origin |= {
        "checkpoint": attributes["weights_sha256"][:16],
        "epoch": attributes["epoch"],
        "estimate": estimate,
        "samples": attributes["samples"] if estimate == "mean" else 1,
    }
    if attributes["sampler"]:
        origin |= {name: attributes[name] for name in ("sampler", "steps", "eta", "guidance")}
        origin["sampling_seed"] = attributes["seed"]
    return origin


def rows_of_model(
    samples: np.ndarray, slices: Slices, scales: Scales, attributes: Mapping[str, Any]
) -> Iterator[pd.DataFrame]:
    """Measure both estimates of a model: its first sample and, of several, their mean.

    Parameters
    ----------
    samples : ndarray
        (N, K, y, x), activity units.
    slices, scales
        As in `quality`.
    attributes : mapping
        See `origin_of`.
    """
    images = {"single": samples[:, 0]}
    if samples.shape[1] > 1:
        images["mean"] = samples.mean(axis=1)
    for estimate, image in images.items():
        values = quality(image, slices, scales) | activity(image, slices)
        if estimate == "mean":
            values |= posterior(samples, slices)
        yield tidy(slices, origin_of(attributes, estimate), values)
