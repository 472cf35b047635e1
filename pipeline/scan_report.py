"""Rule ``scan_report``: pictures of a measured scan and of its images, with what was summed."""

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.storage import hdf5
from pipeline.storage.files import atomic_file
from pipeline.storage.kinds import SCAN, SCAN_IMAGE

BRIGHTEST = 99.8
"""Percentile of an image that is shown black."""


def scan_report(scan: Path, images: Mapping[str, Path], output: Path) -> None:
    """Draw the sinogram, and axial, coronal and sagittal views of each image, with its doubts.

    Parameters
    ----------
    scan : Path
        Of kind `pipeline.storage.kinds.SCAN`.
    images : mapping of name to Path
        Of kind `pipeline.storage.kinds.SCAN_IMAGE`.
    output : Path
        PNG.

    Raises
    ------
    InputError
        If a file is damaged.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = len(images) + 1
    size = (11, 3.6 * rows)
    figure, axes = pyplot.subplots(rows, 3, figsize=size, layout="constrained", squeeze=False)
    with hdf5.opened(scan, SCAN) as file:
        figure.suptitle(f"scan {file.attrs['scan']}", fontsize=13)
        _sinograms(axes[0], file)
        axes[0, 2].axis("off")
        axes[0, 2].text(0, 1, _described(file), va="top", fontsize=9, family="monospace")
    for row, (name, path) in zip(axes[1:], images.items(), strict=True):
        with hdf5.opened(path, SCAN_IMAGE) as file:
            _views(row, name, file)
    with atomic_file(output) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    pyplot.close(figure)


def _sinograms(axes: Any, file: h5py.File) -> None:
    """Measured data of all planes together, and the expected background."""
    counts = "prompts" if "prompts" in file else "trues"
    for axis, name in zip(axes[:2], (counts, "background"), strict=True):
        total = sum(
            hdf5.finite(file[name], row).astype(np.float64) for row in range(len(file[name]))
        )
        axis.imshow(total, cmap="gray_r", aspect="auto", interpolation="nearest")
        axis.set(title=f"{name}, all planes", xlabel="radial bin", ylabel="view")


def _views(axes: Any, name: str, file: h5py.File) -> None:
    images, pixel_mm = hdf5.finite(file["image"]), float(file.attrs["pixel_mm"])
    slice_mm, unit = float(file.attrs["slice_mm"]), file.attrs["unit"]
    z, y, x = (round(place) for place in _middle(images))
    tall = slice_mm / pixel_mm
    views = {
        "axial (anterior up, left is the patient's right)": (images[z], 1.0),
        "coronal (superior up)": (images[::-1, y], tall),
        "sagittal (superior up, anterior left)": (images[::-1, :, x], tall),
    }
    top = max(float(np.percentile(images, BRIGHTEST)), np.finfo(np.float32).tiny)
    for axis, (title, (view, aspect)) in zip(axes, views.items(), strict=True):
        drawn = axis.imshow(view, cmap="gray_r", vmin=0, vmax=top, aspect=aspect)
        axis.set_title(f"{name}, {title}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    if doubts := file.attrs.get("doubts"):
        lines = [textwrap.fill(doubt, 48) for doubt in doubts.splitlines()]
        axes[0].set_xlabel("\n".join(lines), fontsize=9, color="firebrick")
    axes[-1].figure.colorbar(drawn, ax=axes[-1], label=unit, shrink=0.8)


def _middle(images: np.ndarray) -> tuple[float, ...]:
    """Centre of what is bright, in pixels; of an empty image its own."""
    bright = np.clip(images, 0, None).astype(np.float64)
    if not bright.any():
        return tuple((n - 1) / 2 for n in images.shape)
    others = ((1, 2), (0, 2), (0, 1))
    lines = [bright.sum(axis=axes) for axes in others]
    return tuple(float((line * np.arange(len(line))).sum() / line.sum()) for line in lines)


def _described(file: h5py.File) -> str:
    """What was read and summed, in lines."""
    attributes = file.attrs
    geometry = json.loads(attributes["geometry"])
    counts = float(attributes["counts"])
    planes = (hdf5.finite(file["background"], row) for row in range(len(file["background"])))
    background = sum(float(plane.sum()) for plane in planes)
    gaps = float((hdf5.finite(file["factors"], len(file["factors"]) // 2) == 0).mean())
    shape = "x".join(map(str, file["factors"].shape))
    lines = [
        f"planes x views x bins  {shape}",
        f"counts                 {counts:,.0f}",
        f"background             {100 * background / max(counts, 1):.1f} %",
        f"gaps                   {100 * gaps:.1f} %",
        f"ring differences       {attributes['ring_differences']}",
        f"TOF bins summed        {attributes['tof_bins']}",
        f"plane distance         {float(attributes['slice_mm']):.3f} mm",
        f"patient position       {attributes['patient_position']}",
        f"geometry               {geometry.pop('geometry')}",
        *(f"  {key:<21}{value}" for key, value in geometry.items()),
        *(f"{key:<23}{found['file']}" for key, found in json.loads(attributes["sources"]).items()),
    ]
    return "\n".join(lines)
