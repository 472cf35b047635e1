"""Rules ``tour_data`` and ``tour_images``: a slice on its way through the pipeline.

Images are axial, drawn with anterior up and the patient's left on the right, marked "L". All of
activity share one window.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.dataset import subject_of
from models.evaluation.catalogue import TRUTH
from models.report.columns import dose_text
from models.report.images import (
    REFERENCE,
    draw_image,
    end_of_scale,
    hide_frame,
    readable_on,
    reconstruction_of,
    row_at,
)
from pipeline.baselines import RECONSTRUCTED
from pipeline.preview import CLASS_COLOURS
from pipeline.sources.labels import CLASSES
from pipeline.storage import hdf5
from pipeline.storage.kinds import DOSE, LABELS, PHANTOM, SHARD, SINOGRAM, SLICES

TITLES = {"fbp": "FBP", "osem": REFERENCE, "osem_input": "OSEM (input)", **RECONSTRUCTED}
"""Of images without a network, by their stop."""

COLUMNS = 4
"""Images side by side."""

BAR_MM = 50
"""Length of the bar in images."""


@dataclass(frozen=True)
class _Look:
    """Colours of images, their scale, and what stands beside it."""

    colours: Any
    smallest: float
    largest: float
    label: str
    extend: str = "both"


@dataclass(frozen=True)
class _Middle:
    """The middle slice of a shard, of those that are not turned.

    Attributes
    ----------
    row, index : int
        In the shard and other files of the subject's slices, and in the volume.
    where, counts : str
        To read: subject and slice; ", 5 % of the counts", or nothing if it is all.
    truth, osem : array (y, x)
        In activity units.
    pixel_mm : float
    """

    row: int
    index: int
    where: str
    counts: str
    truth: np.ndarray
    osem: np.ndarray
    pixel_mm: float

    @classmethod
    def of(cls, shard: h5py.File) -> "_Middle":
        row = row_at(shard, 0.5)
        index = int(shard["slice_index"][row])
        return cls(
            row,
            index,
            f"{subject_of(shard)}, slice {index}",
            dose_text(_dose(shard)),
            hdf5.finite(shard["activity"], row),
            hdf5.finite(shard["osem"], row),
            float(shard.attrs["pixel_mm"]),
        )

    def window(self) -> _Look:
        """How all images of activity look."""
        brightest = float(max(self.truth.max(), self.osem.max()))
        return _Look("gray_r", 0, brightest, "activity [a.u.]")


def tour_data(
    labels: Path | None, phantom: Path, slices: Path, sinograms: Sequence[Path], shard: Path
) -> dict[str, Figure]:
    """Draw the middle slice of a subject from labels to sinograms.

    Parameters
    ----------
    labels : Path or None
        None where the source gives images in place of labels.
    phantom, slices : Path
    sinograms : sequence of Path
        Of all counts, and, if these are fewer, of those that networks see.
    shard : Path
        Of the counts that networks see.

    Returns
    -------
    dict of str to Figure
        By stop: ``labels`` if there are any, ``activity`` of the phantom, ``slices`` in all
        rotations, ``sinogram`` of all and of fewer counts.

    Raises
    ------
    InputError
        If a file is unreadable.
    """
    with hdf5.opened(shard, SHARD) as file:
        middle = _Middle.of(file)
    look, where = middle.window(), middle.where
    position_mm, rotations, fine_mm = _slices(slices, middle.index)
    with hdf5.opened(phantom, PHANTOM) as file:
        plane, voxel_mm = _plane(file, "activity", position_mm)
    figures = {
        "activity": _draw({"phantom": plane}, look, voxel_mm, where),
        "slices": _draw(rotations, look, fine_mm, where),
        "sinogram": _draw_sinograms(sinograms, middle.row, where),
    }
    if labels:
        with hdf5.opened(labels, LABELS) as file:
            plane, voxel_mm = _plane(file, "labels", position_mm)
        figures["labels"] = _draw_labels(plane[::-1, ::-1], voxel_mm, where)
    return figures


def tour_images(
    shard_path: Path, reconstructions: Mapping[str, Path], improving: Collection[str] = ()
) -> dict[str, Figure]:
    """Draw the middle slice of a subject as reconstructed, and the errors against the truth.

    Parameters
    ----------
    shard_path : Path
        Of the counts that networks see.
    reconstructions : mapping of name to Path
        Of `pipeline.baselines.RECONSTRUCTED` and of models. Of several samples the mean is shown.
    improving : collection of str
        Models among them that see an image.

    Returns
    -------
    dict of str to Figure
        By stop: ``fbp``, ``osem``, ``osem_input`` if the shard has it, each baseline that has a
        file, ``networks``, ``errors`` of all, ``compared``: the truth, baselines and ``improving``
        models, if there are any.

    Raises
    ------
    InputError
        If a file is unreadable, or a reconstruction is of another subject or of other slices.
    """
    single: dict[str, np.ndarray] = {}
    networks: dict[str, np.ndarray] = {}
    compared: dict[str, np.ndarray] = {}
    with ExitStack() as stack:
        shard = stack.enter_context(hdf5.opened(shard_path, SHARD))
        middle = _Middle.of(shard)
        for stop in TITLES:
            if stop in shard:
                single[stop] = hdf5.finite(shard[stop], middle.row)
        for name, path in reconstructions.items():
            file = reconstruction_of(stack, shard, name, [path])
            image = hdf5.finite(file["image"], middle.row)
            if name in RECONSTRUCTED:
                single[name] = compared[TITLES[name]] = image
                continue
            samples = file["samples"].shape[1] if "samples" in file else 1
            title = f"{name}\nmean of {samples}" if samples > 1 else name
            networks[title] = image
            if name in improving:
                compared[title] = image
    look, pixel_mm = middle.window(), middle.pixel_mm
    titles = TITLES | ({"osem": f"{REFERENCE}\nof all counts"} if middle.counts else {})
    figures = {}
    for stop, image in single.items():
        where = middle.where + (middle.counts if stop != "osem" else "")
        figures[stop] = _draw({titles[stop]: image}, look, pixel_mm, where)
    where = middle.where + middle.counts
    figures["networks"] = _draw({TRUTH: middle.truth} | networks, look, pixel_mm, where)
    images = {titles[stop]: image for stop, image in single.items()} | networks
    figures["errors"] = _draw_errors(images, middle.truth, pixel_mm, where)
    if improving:
        rated = {f"{t}\n{_rmse(i - middle.truth)}": i for t, i in compared.items()}
        figures["compared"] = _draw({TRUTH: middle.truth} | rated, look, pixel_mm, where)
    return figures


def _dose(file: h5py.File) -> float:
    return float(file.attrs.get(DOSE, 1))


def _slices(path: Path, index: int) -> tuple[float, dict[str, np.ndarray], float]:
    """Read a slice in all rotations.

    Returns
    -------
    position_mm : float
        Towards superior, 0 in the middle of the volume.
    images : dict
        Activity (y, x), by number and angle of the rotation.
    pixel_mm : float
        Of the simulation's grid.
    """
    with hdf5.opened(path, SLICES) as file:
        images = {
            f"rotation {n}: {file['rotation_deg'][row]:.0f}°": hdf5.finite(
                file["activity"], int(row)
            )
            for n, row in enumerate(np.flatnonzero(file["slice_index"][()] == index))
        }
        pixel_mm = float(file.attrs["pixel_mm"]) / int(file.attrs["oversampling"])
        volume_slices = json.loads(file.attrs["config"])["slices"]["volume_slices"]
        position_mm = (index - (volume_slices - 1) / 2) * float(file.attrs["slice_mm"])
    return position_mm, images, pixel_mm


def _plane(file: h5py.File, name: str, position_mm: float) -> tuple[np.ndarray, float]:
    """Read the plane of a volume (z, y, x) at a position, and its voxel size (mm) along x."""
    thickness_mm, _, voxel_mm = file.attrs["voxel_mm"]
    z = round(position_mm / thickness_mm + (len(file[name]) - 1) / 2)
    return hdf5.finite(file[name], z), float(voxel_mm)


def _draw(images: Mapping[str, np.ndarray], look: _Look, pixel_mm: float, where: str) -> Figure:
    """Draw images (y, x) of one pixel size side by side, by title, with one colour bar."""
    bands = -(-len(images) // COLUMNS)
    columns = -(-len(images) // bands)
    figure = Figure(figsize=(1.8 * columns + 1.1, 2.2 * bands + 0.4), layout="constrained")
    axes = figure.subplots(bands, columns, squeeze=False)
    for axis in axes.flat:
        hide_frame(axis)
    for axis, (title, image) in zip(axes.flat, images.items(), strict=False):
        shown = draw_image(axis, image, look.colours, look.largest, look.smallest)
        shown.set_interpolation("nearest")
        _draw_bar(axis, pixel_mm, readable_on(shown))
        axis.set_title(title, fontsize=9)
    thin: dict[str, Any] = {"aspect": 20 * bands, "pad": 0.02}
    figure.colorbar(shown, ax=axes, label=look.label, extend=look.extend, **thin)
    figure.suptitle(where, fontsize=9)
    return figure


def _draw_bar(axis: Axes, pixel_mm: float, colour: str) -> None:
    """Draw a bar of `BAR_MM` in the lower left corner of an image."""
    axis.autoscale(False)
    left, length, place = 0.03 * axis.get_xlim()[1], BAR_MM / pixel_mm, axis.get_xaxis_transform()
    axis.plot([left, left + length], [0.04, 0.04], color=colour, linewidth=2, transform=place)
    axis.text(left, 0.06, f"{BAR_MM} mm", size=7, color=colour, va="bottom", transform=place)


def _draw_labels(labels: np.ndarray, voxel_mm: float, where: str) -> Figure:
    look = _Look(CLASS_COLOURS, -0.5, CLASS_COLOURS.N - 0.5, "", "neither")
    figure = _draw({"labels": labels}, look, voxel_mm, where)
    figure.axes[-1].set_yticks(range(CLASS_COLOURS.N), labels=CLASSES, fontsize=8)
    return figure


def _draw_sinograms(paths: Sequence[Path], row: int, where: str) -> Figure:
    """Draw a slice's prompts (view, radial) of all counts, and of fewer; each has its own scale."""
    figure = Figure(figsize=(3.2 * len(paths) + 0.2, 2.8), layout="constrained")
    for axis, path in zip(figure.subplots(1, len(paths), squeeze=False)[0], paths, strict=True):
        with hdf5.opened(path, SINOGRAM) as file:
            prompts = hdf5.finite(file["prompts"], row)
            counts = dose_text(_dose(file)).removeprefix(", ") or "all counts"
        shown = axis.imshow(prompts, cmap="gray_r", aspect="auto", vmin=0, interpolation="nearest")
        axis.set_title(f"{counts}: {prompts.sum():,} prompts", fontsize=9)
        axis.set(xlabel="radial bin", ylabel="view")
        figure.colorbar(shown, ax=axis, label="prompts per bin [counts]")
    figure.suptitle(where, fontsize=9)
    return figure


def _draw_errors(
    images: Mapping[str, np.ndarray], truth: np.ndarray, pixel_mm: float, where: str
) -> Figure:
    """Draw differences from the truth; FBP's, whose streaks are the largest, exceed the scale."""
    errors = {title: image - truth for title, image in images.items()}
    most = end_of_scale([np.abs(e) for title, e in errors.items() if title != TITLES["fbp"]])
    look = _Look("RdBu_r", -most, most, "image - truth [a.u.]")
    titled = {f"{title}\n{_rmse(error)}": error for title, error in errors.items()}
    return _draw(titled, look, pixel_mm, where)


def _rmse(error: np.ndarray) -> str:
    return f"RMSE {np.sqrt(np.square(error, dtype=np.float64).mean()):.1f} a.u."
