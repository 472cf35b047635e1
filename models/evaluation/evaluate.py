"""Rule ``metrics``: a subject's table in long format, a line per slice, estimate and metric.

`models.evaluation.recompute` makes lines of it from the weights again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
import pandas as pd

from models.dataset import Scales, subject_of
from models.evaluation.catalogue import REFERENCES, TRUTH
from models.evaluation.factors import Factors, read_factors
from models.evaluation.measure import measure, rows_of_model, tidy
from models.evaluation.metrics_table import write_table
from models.evaluation.slices import Slices
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION, SHARD
from pipeline.tomography.physics import dose_of


def evaluate(
    shard: Path,
    reconstructions: Mapping[str, Path],
    scales: Scales,
    output: Path,
    factors: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Compare a subject's images by every model, FBP and OSEM with the OSEM reference and truth.

    FBP and OSEM of the shard count as models, and so does what rule ``classical`` reconstructs;
    OSEM is compared with the truth alone. A model with
    K > 1 samples has two estimates: its first sample and the mean of all.

    Parameters
    ----------
    shard : Path
        Of a test subject.
    reconstructions : mapping of model to path
        Each model's file of `models.reconstruct` or `pipeline.classical`.
    scales : Scales
        Of the training split.
    output : Path
        A table of `models.evaluation.metrics_table`.
    factors : mapping of model to path
        Files of `models.evaluation.factors`, of the models that have one: of those with several
        samples, which else have no calibrated intervals.

    Raises
    ------
    InputError
        If a file is unreadable, or a reconstruction is another subject's, of other slices, with
        other scales or by another model, or factors are of images that were sampled otherwise.
    """
    with ExitStack() as stack:
        file = stack.enter_context(hdf5.opened(shard, SHARD))
        images = [
            matching(
                stack.enter_context(hdf5.opened(path, RECONSTRUCTION)),
                file,
                model,
                scales.activity,
            )
            for model, path in reconstructions.items()
        ]
        calibrated = {
            each.attrs["model"]: read_factors(factors[each.attrs["model"]], each.attrs)
            for each in images
            if each.attrs["model"] in factors
        }
        write_table(_rows(file, images, scales, calibrated), output)


def _rows(
    shard: h5py.File,
    reconstructions: Sequence[h5py.File],
    scales: Scales,
    factors: Mapping[str, Factors],
) -> Iterator[pd.DataFrame]:
    rotations = hdf5.finite(shard["rotation"])
    for number in np.unique(rotations):  # one volume at a time, for little memory
        rows = np.flatnonzero(rotations == number)
        slices = Slices.read(shard, rows)
        yield from _rows_of_shard(slices, scales)
        for file in reconstructions:
            own = factors.get(file.attrs["model"])
            yield from rows_of_model(_samples(file, rows), slices, scales, file.attrs, own)


def matching(file: h5py.File, shard: h5py.File, model: str, scale: float) -> h5py.File:
    """Give a reconstruction, if it is that of the shard by the model, with a scale of activity."""
    remedy = f"delete it and make it again: snakemake --cores all -- {file.filename}"
    same_slices = subject_of(file) == subject_of(shard) and hdf5.same_slices(file, shard)
    same_slices &= dose_of(file) == dose_of(shard)
    trained = file.attrs["weights_sha256"] != ""
    if not same_slices or (trained and float(file.attrs["activity_scale"]) != scale):
        problem = f"was made of other slices or with another scale than {shard.filename}"
        raise InputError(file.filename, problem, remedy)
    if file.attrs["model"] != model:
        raise InputError(file.filename, f"is by {file.attrs['model']}, not by {model}", remedy)
    return file


def _samples(file: h5py.File, rows: np.ndarray) -> np.ndarray:
    """(N, K, y, x); where there is one, it is the image."""
    if "samples" in file:
        return hdf5.finite(file["samples"], rows)
    return hdf5.finite(file["image"], rows)[:, None]


def _rows_of_shard(slices: Slices, scales: Scales) -> Iterator[pd.DataFrame]:
    for model, images, references in (
        ("FBP", slices.fbp, tuple(REFERENCES)),
        ("OSEM", slices.osem, (TRUTH,)),
    ):
        origin = {"model": model, "method": model, "estimate": "single"}
        values = measure(images, slices, scales, references=references)
        yield tidy(slices, origin, values)
