"""Rules ``panel`` and ``uncertainty``: images of test slices side by side.

Images are drawn with anterior up and the patient's left on the right, marked "L".
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from models import metrics
from models.dataset import Scales, SliceKey, subject_of
from models.evaluation import catalogue
from models.evaluation.catalogue import OSEM, TRUTH
from models.evaluation.slices import head_of
from pipeline.baselines import title_of
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION, SHARD

REFERENCE, DEVIATION = "OSEM (reference)", "standard deviation"

TITLES = {OSEM: REFERENCE, TRUTH: TRUTH}
"""Of what images are compared with."""

MAX_COLUMNS = 7
"""Images side by side in the panel; with more, the text would be illegible on a page."""


# --- panel: every model ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Example:
    """One slice: its prompts (view, radial), and images by title, (y, x) in activity units."""

    key: SliceKey
    prompts: np.ndarray
    images: dict[str, np.ndarray]


def panel(
    shard_paths: Sequence[Path],
    reconstructions: Mapping[str, Sequence[Path]],
    scales: Scales,
    positions: Sequence[float],
    reference: str = OSEM,
) -> Figure:
    """Draw test slices as the paper's Fig. 2: sinogram, OSEM, truth, FBP and every model.

    Of models that drew several samples the first is shown. Below each image is its squared error
    against the reference, in normalised units, on one colour scale for the whole figure, with
    PSNR and SSIM beneath.

    Parameters
    ----------
    shard_paths : sequence of path
        Test shards; slice n of the figure comes from shard n, cyclically.
    reconstructions : mapping of model to sequence of path
        One file of kind `pipeline.storage.kinds.RECONSTRUCTION` per model and shard.
    scales : Scales
        Of the training split.
    positions : sequence of float
        Of each slice of the figure, from 0 (the shard's lowest unrotated slice) to 1 (highest).
    reference : str
        A name of `models.evaluation.catalogue.REFERENCES`.

    Returns
    -------
    Figure
        For `models.report.drawing.save`.

    Raises
    ------
    InputError
        If a file is unreadable, a subject has no reconstruction, or one is of other slices.
    """
    examples = [
        _read_example(shard_paths[n % len(shard_paths)], reconstructions, position)
        for n, position in enumerate(positions)
    ]
    cells = 1 + len(examples[0].images)
    bands = -(-cells // MAX_COLUMNS)
    columns = -(-cells // bands)
    size = (1.9 * columns + 1.8, 4.7 * bands * len(examples))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2 * bands * len(examples), columns, squeeze=False)
    brightest = max(float(e.images[REFERENCE].max()) for e in examples)
    compared = _Compared(scales, TITLES[reference])
    largest_error = _largest_error(examples, list(map(title_of, reconstructions)), compared)
    for rows, example in zip(np.split(axes, len(examples)), examples, strict=True):
        _draw_example(rows, example, compared, brightest, largest_error)
    return figure


def _read_example(
    path: Path, reconstructions: Mapping[str, Sequence[Path]], position: float
) -> _Example:
    with ExitStack() as stack:
        shard = stack.enter_context(hdf5.opened(path, SHARD))
        row = row_at(shard, position)
        images = {
            REFERENCE: hdf5.finite(shard["osem"], row),
            TRUTH: hdf5.finite(shard["activity"], row),
            "FBP": hdf5.finite(shard["fbp"], row),
        }
        for model, paths in reconstructions.items():
            file = reconstruction_of(stack, shard, model, paths)
            if "samples" in file:
                images[title_of(model)] = hdf5.finite(file["samples"], (row, 0))
            else:
                images[title_of(model)] = hdf5.finite(file["image"], row)
        return _Example(_key(shard, row), hdf5.finite(shard["sinogram"], row), images)


@dataclass(frozen=True)
class _Compared:
    """What images are compared with, by its title, after division by the scale of activity."""

    scales: Scales
    reference: str


def _squared_error(example: _Example, title: str, compared: _Compared) -> np.ndarray:
    difference = example.images[title] - example.images[compared.reference]
    return (difference / compared.scales.activity) ** 2


def _largest_error(
    examples: Sequence[_Example], models: Sequence[str], compared: _Compared
) -> float:
    """End of the error scale: the 99.9th percentile of the models' errors.

    FBP's streaks do not count, else they alone would be visible; they exceed the scale.
    """
    titles = models or ["FBP"]
    errors = [_squared_error(example, title, compared) for example in examples for title in titles]
    return end_of_scale(errors)


def _draw_example(
    axes: np.ndarray,
    example: _Example,
    compared: _Compared,
    brightest: float,
    largest_error: float,
) -> None:
    """Fill pairs of rows: images above, their errors below; sinogram and slice come first."""
    figure = axes[0, 0].figure
    for axis in axes.flat:
        hide_frame(axis)
    pairs = np.stack([axes[::2].ravel(), axes[1::2].ravel()], axis=1)
    counted = pairs[0, 0].imshow(example.prompts, cmap="gray_r", aspect="auto", vmin=0)
    pairs[0, 0].set_title("sinogram", fontsize=10)
    pairs[0, 0].set(xlabel="radial bin", ylabel="view")
    figure.colorbar(counted, ax=pairs[0, 0], location="left", label="prompts per bin [counts]")
    name = str(example.key).replace(", ", "\n")
    pairs[0, 1].text(0.5, 0.5, name, ha="center", va="center", fontsize=10)
    shown: Any = None
    error: Any = None
    for (above, below), (title, image) in zip(pairs[1:], example.images.items(), strict=False):
        shown = draw_image(above, image, "gray_r", brightest)
        above.set_title(title, fontsize=10)
        if title != compared.reference:
            squared = _squared_error(example, title, compared)
            error = draw_image(below, squared, "inferno", largest_error)
            below.set_xlabel(_scores(example, title, compared), fontsize=9)
    for above, below in axes[:, -1].reshape(-1, 2):
        figure.colorbar(shown, ax=above, label="activity [a.u.]", extend="both")
        label = "squared error\n[(activity / max)²]"
        figure.colorbar(error, ax=below, label=label, extend="max")


def _scores(example: _Example, title: str, compared: _Compared) -> str:
    image, reference = (
        torch.from_numpy(example.images[name] / np.float32(compared.scales.activity))[None, None]
        for name in (title, compared.reference)
    )
    found = {
        "psnr_db": metrics.psnr_db(image, reference),
        "ssim": metrics.ssim(image, reference),
    }
    return "\n".join(catalogue.entry(name).text(float(value)) for name, value in found.items())


# --- uncertainty: one model --------------------------------------------------------------------


@dataclass(frozen=True)
class _Sampled:
    """One slice: number of samples, images by title, (y, x) in activity units, and its head."""

    key: SliceKey
    samples: int
    images: dict[str, np.ndarray]
    head: np.ndarray


def uncertainty(
    shard_paths: Sequence[Path], paths: Sequence[Path], model: str, positions: Sequence[float]
) -> Figure:
    """Draw mean and standard deviation of a model's samples beside the errors of the mean.

    A row a slice: OSEM, mean, standard deviation, absolute errors of the mean against OSEM and
    against the noise-free truth, with their Pearson correlations with the standard deviation over
    the pixels of the head. Both errors share a colour scale; the standard deviation has its own.

    Parameters
    ----------
    shard_paths : sequence of path
        Test shards; row n of the figure comes from shard n, cyclically.
    paths : sequence of path
        Of kind `pipeline.storage.kinds.RECONSTRUCTION`, one per shard, several samples a slice.
    model : str
        Its name.
    positions : sequence of float
        Of each slice of the figure, as in `panel`.

    Returns
    -------
    Figure
        For `models.report.drawing.save`.

    Raises
    ------
    InputError
        If a file is unreadable, a subject has no reconstruction, or one is of other slices or has
        a single sample.
    """
    rows = [
        _read_sampled(shard_paths[n % len(shard_paths)], paths, model, position)
        for n, position in enumerate(positions)
    ]
    figure = Figure(figsize=(12.5, 2.9 * len(rows) + 1), layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0].images), squeeze=False)
    for axis in axes.flat:
        hide_frame(axis)
    for axis, title in zip(axes[0], rows[0].images, strict=True):
        axis.set_title(title, fontsize=10)
    for line, row in zip(axes, rows, strict=True):
        line[0].set_ylabel(str(row.key).replace(", ", "\n"), fontsize=10)
        for axis, title in zip(line[3:], list(row.images)[3:], strict=True):
            compared = (row.images[DEVIATION], row.images[title], row.head)
            tensors = (torch.from_numpy(array)[None, None] for array in compared)
            correlation = float(metrics.sd_error_correlation(*tensors))
            axis.set_xlabel(f"correlation with s.d.\nin the head: {correlation:.2f}", fontsize=10)
    images = np.array([list(row.images.values()) for row in rows])  # (row, column, y, x)
    groups = (  # columns that share a colour scale
        (slice(0, 2), "gray_r", "activity [a.u.]", float(images[:, 0].max())),
        (slice(2, 3), "viridis", f"{DEVIATION} [a.u.]", end_of_scale(images[:, 2])),
        (slice(3, 5), "inferno", "absolute error [a.u.]", end_of_scale(images[:, 3:])),
    )
    for columns, colours, label, largest in groups:
        group = axes[:, columns]
        for axis, image in zip(group.flat, np.concatenate(images[:, columns]), strict=True):
            shown = draw_image(axis, image, colours, largest)
        bar = {"location": "bottom", "aspect": 15 * group.shape[1]}  # all of one thickness
        figure.colorbar(shown, ax=group, label=label, extend="max", **bar)
    axes[0, 1].set_title(f"{model}: mean of {rows[0].samples} samples", fontsize=10)
    return figure


def _read_sampled(shard_path: Path, paths: Sequence[Path], model: str, position: float) -> _Sampled:
    with ExitStack() as stack:
        shard = stack.enter_context(hdf5.opened(shard_path, SHARD))
        row = row_at(shard, position)
        file = reconstruction_of(stack, shard, model, paths)
        if "std" not in file or "samples" not in file:
            remedy = "draw two samples or more, or leave this figure out"
            raise InputError(file.filename, "holds a single sample of a slice", remedy)
        osem, activity = (hdf5.finite(shard[name], row) for name in ("osem", "activity"))
        mean, deviation = (hdf5.finite(file[name], row) for name in ("image", "std"))
        images = {
            REFERENCE: osem,
            "mean": mean,
            DEVIATION: deviation,
            "|mean - OSEM|": np.abs(mean - osem),
            f"|mean - {TRUTH}|": np.abs(mean - activity),
        }
        return _Sampled(_key(shard, row), file["samples"].shape[1], images, head_of(shard, row))


# --- shared ------------------------------------------------------------------------------------


def row_at(shard: h5py.File, position: float) -> int:
    """Row of the unrotated slice at a position from 0 (lowest) to 1 (highest)."""
    unrotated = np.flatnonzero(shard["rotation"][()] == 0)
    in_order = unrotated[np.argsort(shard["slice_index"][()][unrotated])]
    return int(in_order[round(position * (len(in_order) - 1))])


def _key(shard: h5py.File, row: int) -> SliceKey:
    return SliceKey(subject_of(shard), int(shard["rotation"][row]), int(shard["slice_index"][row]))


def reconstruction_of(
    stack: ExitStack, shard: h5py.File, model: str, paths: Sequence[Path]
) -> h5py.File:
    """Open a model's file of the shard's subject, which must be of the same slices."""
    files = [stack.enter_context(hdf5.opened(path, RECONSTRUCTION)) for path in paths]
    of_subject = [file for file in files if subject_of(file) == subject_of(shard)]
    if not of_subject:
        problem = f"has no reconstruction by {model}"
        raise InputError(shard.filename, problem, "run rule 'reconstruct' on it")
    file = of_subject[0]
    if not hdf5.same_slices(file, shard):
        problem = f"was made of other slices than {shard.filename}"
        raise InputError(file.filename, problem, "delete it and run rule 'reconstruct' again")
    return file


def end_of_scale(images: ArrayLike) -> float:
    """End of a colour scale: the 99.9th percentile; some pixels exceed it."""
    return max(float(np.percentile(np.asarray(images), 99.9)), 1e-12)


def hide_frame(axis: Axes) -> None:
    """Leave labels, which `Axes.set_axis_off` would hide too."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def draw_image(
    axis: Axes, image: np.ndarray, colours: str | Colormap, largest: float, smallest: float = 0.0
) -> Any:
    """Show an image, (y, x) with row 0 anterior and column 0 the patient's right, and mark "L"."""
    shown = axis.imshow(image, cmap=colours, vmin=smallest, vmax=largest, origin="upper")
    place = axis.transAxes
    colour = readable_on(shown)
    axis.text(0.97, 0.5, "L", size=9, color=colour, ha="right", va="center", transform=place)
    return shown


def readable_on(shown: Any) -> str:
    """Give black or white, whichever can be read on the value 0 of a drawn image."""
    return "black" if sum(shown.to_rgba(0.0)[:3]) > 1.5 else "white"
