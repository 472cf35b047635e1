"""What is measured of reconstructed slices, and the rows of the table that hold it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from models.dataset import Scales
from models.evaluation import catalogue, compute
from models.evaluation.catalogue import CALIBRATED, IMAGES, REFERENCES, SAMPLES, Key
from models.evaluation.compute import Compared, Images
from models.evaluation.factors import Factors
from models.evaluation.metrics_table import COLUMNS, CONSISTENCY
from models.evaluation.slices import Slices
from pipeline.storage.errors import InputError

Values = dict[Key, np.ndarray]
"""One value a slice, (N,); NaN where it does not exist."""


def measure(
    images: np.ndarray,
    slices: Slices,
    scales: Scales,
    *,
    samples: np.ndarray | None = None,
    factors: Factors | None = None,
    antithetic: bool = False,
    references: Sequence[str] = tuple(REFERENCES),
    regions: Sequence[str] | None = None,
) -> Values:
    """Compute the metrics of the catalogue.

    Parameters
    ----------
    images : ndarray
        (N, y, x), activity units.
    slices : Slices
        The N slices that they show.
    scales : Scales
        Of the training split: a data range of 1 is its largest activity.
    samples : ndarray, optional
        (N, K, y, x), activity units, K > 1: what the images are the means of.
    factors : Factors, optional
        That calibrate the samples' intervals.
    antithetic : bool
        Whether the samples are pairs, the second opposite to the first.
    references : sequence of str
        Of "osem" and "truth"; metrics without a reference are always computed.
    regions : sequence of str, optional
        All without it.
    """
    measured = {IMAGES} if samples is None else {IMAGES, SAMPLES}
    measured |= {CALIBRATED} if factors else set()
    seen = Images(images, slices, scales, samples, factors, antithetic)
    compared = {name: Compared(seen, name) for name in ("", *references)}
    values: Values = {}
    for metric, (name, reference, region) in catalogue.ordered():
        asked = reference in compared and (regions is None or region in regions)
        if asked and metric.of in measured:
            found = getattr(compute, name)(compared[reference], region)
            levels = found if isinstance(found, dict) else {None: found}
            for level, value in levels.items():
                full_name = name if level is None else f"{name}_{level:.3f}"
                values[full_name, reference, region] = np.asarray(value)
    return values


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
        From `measure`.

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
    whose = {"subject": slices.subject, "dose": slices.dose}
    table = pd.DataFrame(whose, index=range(len(keys) * count))
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
    for key, found in values.items():
        bad = np.flatnonzero(np.isnan(found))
        if catalogue.exists_always(key) and len(bad):
            names = "; ".join(
                f"{slices.subject}, rotation {slices.rotation[n]}, slice {slices.slice_index[n]}"
                for n in bad
            )
            raise InputError(
                f"images by {origin['model']}",
                f"their {key[0]} is not a number on {names}",
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
    if not attributes["weights_sha256"]:  # without a network
        return {name: attributes[name] for name in ("model", "method")} | {"estimate": estimate}
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
        # Absent from files of before there was any.
        origin |= {name: attributes.get(name, 0) for name in ("antithetic", *CONSISTENCY)}
        origin["sampling_seed"] = attributes["seed"]
    return origin


def rows_of_model(
    samples: np.ndarray,
    slices: Slices,
    scales: Scales,
    attributes: Mapping[str, Any],
    factors: Factors | None = None,
) -> Iterator[pd.DataFrame]:
    """Measure both estimates of a model: its first sample and, of several, their mean.

    Parameters
    ----------
    samples : ndarray
        (N, K, y, x), activity units.
    slices, scales
        As in `measure`.
    attributes : mapping
        See `origin_of`.
    factors : Factors, optional
        Of the model's intervals.
    """
    single = measure(samples[:, 0], slices, scales)
    yield tidy(slices, origin_of(attributes, "single"), single)
    if samples.shape[1] > 1:
        mean = measure(
            samples.mean(axis=1),
            slices,
            scales,
            samples=samples,
            factors=factors,
            antithetic=bool(attributes.get("antithetic", False)),
        )
        yield tidy(slices, origin_of(attributes, "mean"), mean)
