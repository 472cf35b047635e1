"""The pictures of this page, laid beside this script.

    python -m docs.results.mmr_head.draw mmr_head_ssrb.npz

The file holds prompts and delayeds (plane, view, radial).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from matplotlib import pyplot
from scipy.ndimage import gaussian_filter, rotate

from pipeline.fbp import FbpSettings
from pipeline.import_scan import Scan, import_scan
from pipeline.jobs.config_files import SCANNERS
from pipeline.osem import OsemSettings
from pipeline.scan_images import scan_fbp, scan_osem
from pipeline.storage import hdf5
from pipeline.storage.kinds import SCAN_IMAGE
from pipeline.tomography.geometry import Grid
from pipeline.tomography.scanners import scanner_from

HERE = Path(__file__).parent
PLANE_MM, SLAB = 2.03125, 15
GRID = Grid(128, 3.0)
FWHM_MM = 8.0
SHOWN_MM = 130.0
"""Half the side of what is drawn."""
KEPT = np.abs(GRID.centres_mm) < SHOWN_MM


def images(folder, arrays, slice_mm, kind="osem", subsets=21, **changes):
    """Rules ``import_scan`` and ``scan_osem`` or ``scan_fbp``; images smoothed within slices."""
    np.savez(folder / "scan.npz", **arrays)
    file, names = folder / "scan.npz", ("scan.h5", "image.h5", "image.nii")
    section = yaml.safe_load((SCANNERS / "mmr.yaml").read_text(encoding="utf-8")) | changes
    scan = Scan(
        *(f"{file}#{name}" for name in ("prompts", "delayeds")),
        axes="plane view radial",
        patient_position="HFS",
        slice_mm=slice_mm,
        smoothed_randoms=9,
    )
    paths = [folder / name for name in names]
    import_scan("mmr_head", scan, scanner_from(section), paths[0])
    if kind == "osem":
        scan_osem(*paths, OsemSettings(2 * 21 // subsets, subsets), 0.0, GRID)
    else:
        scan_fbp(*paths, FbpSettings("ramp", 1.0), GRID)
    found = hdf5.read(paths[1], SCAN_IMAGE)[0]["image"].astype(float)
    return smoothed(found, (0, FWHM_MM / GRID.pixel_mm, FWHM_MM / GRID.pixel_mm))


def smoothed(array, fwhm):
    """Smooth an array with a Gaussian; FWHM in pixels of each axis."""
    return gaussian_filter(array, np.divide(fwhm, 2 * np.sqrt(2 * np.log(2))))


def slabs(planes, thick=SLAB):
    """Sums of neighbouring planes; what is left over at both ends is left out."""
    count = len(planes) // thick
    first = (len(planes) - count * thick) // 2
    return (
        planes[first : first + count * thick]
        .reshape(count, thick, *planes.shape[1:])
        .sum(axis=1, dtype=np.uint16)
    )


def show(axis, image, title, top, aspect=1.0):
    """Draw an image, row 0 on top."""
    axis.imshow(image, cmap="gray_r", vmin=0, vmax=top, aspect=aspect)
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


def draw_axial(osem, fbp):
    """Slabs of both kinds, from inferior to superior."""
    rows = {"OSEM": osem, "FBP": fbp}
    chosen = range(1, 7)
    figure, axes = pyplot.subplots(2, len(chosen), figsize=(11, 4), layout="constrained")
    for row, (name, array) in zip(axes, rows.items(), strict=True):
        shown = array[:, KEPT][..., KEPT]
        for axis, slab in zip(row, chosen, strict=True):
            z_mm = (slab - (len(array) - 1) / 2) * SLAB * PLANE_MM
            show(axis, shown[slab], f"{name}, {z_mm:+.0f} mm", np.percentile(shown, 99.7))
    save(figure, "axial.png")


def draw_upright(planes):
    """Coronal and sagittal slabs of 5 pixels through the head, from OSEM of each plane."""
    planes = smoothed(planes, (FWHM_MM / PLANE_MM, 0, 0))
    y, x = (int(place) for place in middle(planes))
    views = {
        "coronal": planes[:, y - 2 : y + 3].mean(axis=1),
        "sagittal": planes[:, :, x - 2 : x + 3].mean(axis=2),
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
    for axis, (name, view) in zip(axes, views.items(), strict=True):
        shown = view[::-1, KEPT]
        show(axis, shown, name, np.percentile(shown, 99.7), PLANE_MM / GRID.pixel_mm)
    save(figure, "upright.png")


def middle(planes):
    """Centre (y, x) of what is bright, in pixels."""
    bright = planes.sum(axis=0)
    lines = bright.sum(axis=1), bright.sum(axis=0)
    return [(line * np.arange(len(line))).sum() / line.sum() for line in lines]


def draw_turn(right, before):
    """The same slab with both first end points, and the turn that brings one onto the other."""
    degrees = np.arange(-6, 6.01, 0.05)
    turned = [rotate(before, angle, reshape=False, order=1) for angle in degrees]
    off = [((each - right) ** 2).sum() for each in turned]
    print(f"turned clockwise by {-degrees[int(np.argmin(off))]:.2f} degrees")
    pictures = {
        "middle of block 0 on top": before,
        "end point 0 on top, as it is": right,
        "difference": before - right,
    }
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
    top = np.percentile(right, 99.7)
    for axis, (name, image) in zip(axes, pictures.items(), strict=True):
        show(axis, image[KEPT][:, KEPT], name, top)
        axis.axvline(KEPT.sum() / 2 - 0.5, color="tab:red", linewidth=0.6)
    axes[2].images[0].set(cmap="RdBu", clim=(-top / 2, top / 2))
    save(figure, "turn.png")


def save(figure, name):
    """Write a figure beside this script."""
    figure.savefig(HERE / name, dpi=90)
    pyplot.close(figure)


def main(file):
    """Reconstruct, and draw all."""
    with np.load(file) as loaded:
        planes = {name: loaded[name] for name in ("prompts", "delayeds")}
    thick = {name: slabs(array) for name, array in planes.items()}
    print("counts a slab:", thick["prompts"].sum(axis=(1, 2)))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        right = images(folder, thick, SLAB * PLANE_MM)
        draw_axial(right, images(folder, thick, SLAB * PLANE_MM, "fbp"))
        before = images(folder, thick, SLAB * PLANE_MM, first_end_point_deg=None)
        draw_turn(right[3:6].sum(axis=0), before[3:6].sum(axis=0))
        draw_upright(images(folder, planes, PLANE_MM))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
