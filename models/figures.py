"""Rules ``panel`` and ``curves``: reconstructions side by side, and training over time."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models import metrics, reconstruct
from models.dataset import Scales, SliceKey, subject_of
from pipeline import hdf5, shards
from pipeline.errors import InputError

REFERENCE, TRUTH = "OSEM (reference)", "truth"


@dataclass(frozen=True)
class _Example:
    """One slice: its prompts (view, radial), and images by title, (y, x) in activity units."""

    key: SliceKey
    sinogram: np.ndarray
    images: dict[str, np.ndarray]


def panel(
    shard_paths: Sequence[Path],
    reconstructions: Mapping[str, Sequence[Path]],
    scales: Scales,
    positions: Sequence[float],
    output: Path,
) -> None:
    """Draw test slices as the paper's Fig. 2: sinogram, OSEM, truth, FBP and every method.

    Below each image is its squared error against the OSEM reference, in normalised units, on one
    colour scale for the whole figure, with PSNR and SSIM beneath.

    Parameters
    ----------
    shard_paths : sequence of path
        Test shards; slice n of the figure comes from shard n, cyclically.
    reconstructions : mapping of method to sequence of path
        One file of `models.reconstruct` per method and shard.
    scales : Scales
        Of the training split.
    positions : sequence of float
        Of each slice of the figure, from 0 (the shard's lowest unrotated slice) to 1 (highest).
    output : Path
        PNG.

    Raises
    ------
    InputError
        If a file is unreadable or a subject has no reconstruction.
    """
    examples = [
        _read_example(shard_paths[n % len(shard_paths)], reconstructions, position)
        for n, position in enumerate(positions)
    ]
    columns = 1 + len(examples[0].images)
    figure = Figure(figsize=(1.9 * columns + 1, 4.6 * len(examples)), layout="constrained")
    axes = figure.subplots(2 * len(examples), columns, squeeze=False)
    largest_error = _largest_error(examples, list(reconstructions), scales)
    brightest = max(float(e.images[REFERENCE].max()) for e in examples)
    for n, example in enumerate(examples):
        _draw_example(figure, axes[2 * n : 2 * n + 2], example, scales, brightest, largest_error)
    with hdf5.atomic(output) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _read_example(
    path: Path, reconstructions: Mapping[str, Sequence[Path]], position: float
) -> _Example:
    with ExitStack() as stack:
        shard = stack.enter_context(shards.opened(path))
        unrotated = np.flatnonzero(shard["rotation"][()] == 0)
        in_order = unrotated[np.argsort(shard["slice_index"][()][unrotated])]
        row = int(in_order[round(position * (len(in_order) - 1))])
        images = {
            REFERENCE: hdf5.finite(shard["osem"], row),
            TRUTH: hdf5.finite(shard["activity"], row),
            "FBP": hdf5.finite(shard["fbp"], row),
        }
        for method, paths in reconstructions.items():
            files = [stack.enter_context(reconstruct.opened(p)) for p in paths]
            of_subject = [f for f in files if subject_of(f) == subject_of(shard)]
            if not of_subject:
                problem = f"has no reconstruction by {method}"
                raise InputError(path, problem, "run rule 'reconstruct' on it")
            images[method] = hdf5.finite(of_subject[0]["image"], row)
        key = SliceKey(subject_of(shard), 0, int(shard["slice_index"][row]))
        return _Example(key, hdf5.finite(shard["sinogram"], row), images)


def _squared_error(example: _Example, title: str, scales: Scales) -> np.ndarray:
    return ((example.images[title] - example.images[REFERENCE]) / scales.activity) ** 2


def _largest_error(examples: Sequence[_Example], methods: Sequence[str], scales: Scales) -> float:
    """End of the error scale: the 99.9th percentile of the methods' errors.

    FBP's streaks do not count, else they alone would be visible; they exceed the scale.
    """
    titles = methods or ["FBP"]
    errors = [_squared_error(example, title, scales) for example in examples for title in titles]
    return max(float(np.percentile(errors, 99.9)), 1e-12)


def _draw_example(
    figure: Figure,
    axes: np.ndarray,
    example: _Example,
    scales: Scales,
    brightest: float,
    largest_error: float,
) -> None:
    for axis in axes.flat:
        axis.set_axis_off()
    sinogram = axes[0, 0].imshow(example.sinogram, cmap="gray_r", aspect="auto")
    axes[0, 0].set_title("sinogram", fontsize=9)
    figure.colorbar(sinogram, ax=axes[0, 0], location="left", label="prompts per bin [counts]")
    axes[1, 0].text(
        0.5, 0.5, str(example.key).replace(", ", "\n"), ha="center", va="center", fontsize=8
    )
    shown: Any = None
    error: Any = None
    for column, (title, image) in enumerate(example.images.items(), start=1):
        shown = _draw_image(axes[0, column], image, title, brightest)
        if title != REFERENCE:
            squared = _squared_error(example, title, scales)
            error = axes[1, column].imshow(squared, cmap="inferno", vmin=0, vmax=largest_error)
            axes[1, column].set_title(_quality(example, title, scales), fontsize=8, y=-0.24)
    figure.colorbar(shown, ax=axes[0, -1], label="activity [a.u.]", extend="both")
    label = "squared error [(activity / max)²]"
    figure.colorbar(error, ax=axes[1, -1], label=label, extend="max")


def _draw_image(axis: Axes, image: np.ndarray, title: str, brightest: float) -> Any:
    """Show an image, (y, x) with row 0 anterior and column 0 the patient's right."""
    shown = axis.imshow(image, cmap="gray_r", vmin=0, vmax=brightest, origin="upper")
    axis.set_title(title, fontsize=9)
    axis.text(0.97, 0.5, "L", transform=axis.transAxes, ha="right", va="center", fontsize=8)
    return shown


def _quality(example: _Example, title: str, scales: Scales) -> str:
    image, reference = (
        torch.from_numpy(example.images[name] / np.float32(scales.activity))[None, None]
        for name in (title, REFERENCE)
    )
    psnr_db, ssim = metrics.psnr_db(image, reference), metrics.ssim(image, reference)
    return f"PSNR {float(psnr_db):.2f} dB\nSSIM {float(ssim):.4f}"


def training_curves(logs: Mapping[str, Path], output: Path) -> None:
    """Draw loss and validation PSNR over the steps of each method.

    Parameters
    ----------
    logs : mapping of method to path
        CSV logs of `models.training.train`.
    output : Path
        PNG.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = ("-", "--", "-.", ":")  # readable without colours too
    for n, (method, path) in enumerate(logs.items()):
        table = pd.read_csv(path)
        style = {"linestyle": styles[n % len(styles)], "label": method}
        left.plot(table["step"], table["loss"], **style)
        validated = table.dropna(subset=["validation_psnr_db"])
        right.plot(validated["step"], validated["validation_psnr_db"], marker=".", **style)
    left.set(xlabel="step", ylabel="training loss [1]", yscale="log")
    right.set(xlabel="step", ylabel="validation PSNR [dB]")
    right.set_title("against OSEM, data range 1, whole image", fontsize=9)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
    with hdf5.atomic(output) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
