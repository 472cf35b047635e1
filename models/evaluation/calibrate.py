"""Rule ``calibrate``: factors for the spread of a model's samples, from validation subjects."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from models.conformal import FLOOR, conformal_factor, interval_levels, scores
from models.evaluation.catalogue import REFERENCES
from models.evaluation.evaluate import matching
from models.evaluation.factors import Factors, sampling_of, write_factors
from models.evaluation.slices import head_of
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION, SHARD


def calibrate(
    model: str, reconstructions: Sequence[Path], shards: Sequence[Path], output: Path
) -> None:
    """Fit the factors on all pixels of the heads of some subjects.

    Parameters
    ----------
    model : str
        Of which the reconstructions are, with several samples.
    reconstructions, shards : sequence of path
        Of the same validation subjects, in the same order.
    output : Path
        A file of `models.evaluation.factors`, with the subjects and the number of pixels.

    Raises
    ------
    InputError
        If a file is missing or damaged, of another subject or model, has no several samples, or was
        sampled in another way than the first; or if there are too few pixels.
    """
    with ExitStack() as stack:
        opened = [
            (
                stack.enter_context(hdf5.opened(path, RECONSTRUCTION)),
                stack.enter_context(hdf5.opened(shard, SHARD)),
            )
            for path, shard in zip(reconstructions, shards, strict=True)
        ]
        first = opened[0][0]
        scale = float(first.attrs["activity_scale"])
        for file, shard in opened:
            _check(matching(file, shard, model, scale), first)
        pairs = bool(first.attrs.get("antithetic", False))
        levels = interval_levels(int(first.attrs["samples"]), pairs)
        floor, of = FLOOR * scale, {}
        for reference, dataset in REFERENCES.items():
            found = np.concatenate(
                [each for pair in opened for each in _scores(*pair, dataset, floor)]
            )
            of[reference] = {level: conformal_factor(found, level) for level in levels}
            if not np.isfinite([*of[reference].values()]).all():
                problem = f"has {len(found)} pixels inside the head, too few to calibrate with"
                raise InputError(shards[0], problem, "let validation subjects have more slices")
        subjects = [str(file.attrs["subject"]) for file, _ in opened]
        facts = {"subjects": subjects, "pixels": len(found)}
        write_factors(output, Factors(floor, of), sampling_of(first.attrs), **facts)


def _check(file: h5py.File, first: h5py.File) -> None:
    remedy = "delete it and run rule 'reconstruct' again"
    if "std" not in file:
        raise InputError(file.filename, "has one sample a slice, and so no spread", remedy)
    if sampling_of(file.attrs) != sampling_of(first.attrs):
        raise InputError(file.filename, f"was sampled otherwise than {first.filename}", remedy)


def _scores(file: h5py.File, shard: h5py.File, dataset: str, floor: float) -> Iterator[np.ndarray]:
    """Give the scores of the head's pixels, (n,), of one volume at a time, for little memory."""
    rotations = hdf5.finite(shard["rotation"])
    for number in np.unique(rotations):
        rows = np.flatnonzero(rotations == number)
        image, deviation = (hdf5.finite(file[name], rows) for name in ("image", "std"))
        found = scores(image, deviation, hdf5.finite(shard[dataset], rows), floor)
        yield found[head_of(shard, rows)]
