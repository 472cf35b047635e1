"""Slabs of the scan's planes, and attenuation that is calculated from their outlines.

    python -m docs.results.mmr_head.slabs mmr_head_ssrb.npz slabs.npz

The first file holds prompts and delayeds (plane, view, radial); the second will hold them of slabs,
and factors: exp(-line integral) of water inside an ellipse around each slab. No attenuation belongs
to the scan.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from scipy.ndimage import binary_fill_holes, label

from docs.results.mmr_head.draw import GRID, PLANE_MM, images, slabs
from pipeline.jobs.config_files import SCANNERS
from pipeline.tomography.backend import device_for
from pipeline.tomography.projectors import SparseProjector
from pipeline.tomography.scanners import scanner_from
from pipeline.tomography.system_matrix import system_matrices

THICK = 5
"""Planes of a slab, 10.16 mm."""

FEWEST = 9000
"""Counts; slabs with less, above the head and below the brain, are left out."""

WATER_PER_MM = 0.0096
"""Attenuation of photons of 511 keV."""

OUTLINE = 0.25
"""Of the 90th percentile of what is brighter than the slab's mean: from there on it is brain."""

SKULL_MM = 8.0
"""Bone and skin around the brain, in which there is little activity."""


def ellipse(image):
    """Give an ellipse (y, x) around the largest bright piece of an image, by its moments."""
    level = OUTLINE * np.percentile(image[image > image.mean()], 90)
    pieces, _ = label(image > level)
    sizes = np.bincount(pieces.ravel())
    inside = binary_fill_holes(pieces == 1 + np.argmax(sizes[1:]))
    places = GRID.centres_mm[np.argwhere(inside)]  # (pixel, y and x), mm
    centre = places.mean(axis=0)
    y, x = np.meshgrid(GRID.centres_mm - centre[0], GRID.centres_mm - centre[1], indexing="ij")
    # Of a uniform ellipse with half axes a and b the variances along these are a^2 / 4 and b^2 / 4.
    variances, axes = np.linalg.eigh(np.cov(places.T))
    along = np.tensordot(axes.T, np.stack([y, x]), axes=1)
    half_mm = 2 * np.sqrt(variances) + SKULL_MM
    return (((along / half_mm[:, None, None]) ** 2).sum(axis=0) <= 1).astype(np.float32)


def attenuation(outlines):
    """Factors (slab, view, radial) of water inside outlines (slab, y, x)."""
    section = yaml.safe_load((SCANNERS / "mmr.yaml").read_text(encoding="utf-8"))
    ring = scanner_from(section)
    projector = SparseProjector(ring, GRID, *system_matrices(ring, GRID, 1), device_for("sparse"))
    path_mm = projector.sinograms([projector.forward(projector.columns(outlines), 0)])
    return np.exp(-WATER_PER_MM * path_mm)


def main(file, output):
    """Sum, outline and write."""
    with np.load(file) as loaded:
        thick = {name: slabs(loaded[name], THICK) for name in ("prompts", "delayeds")}
    (kept,) = np.nonzero(thick["prompts"].sum(axis=(1, 2)) >= FEWEST)
    thick = {name: array[kept[0] : kept[-1] + 1] for name, array in thick.items()}
    with tempfile.TemporaryDirectory() as made:
        found = images(Path(made), thick, THICK * PLANE_MM, subsets=4)
    outlines = np.stack([ellipse(image) for image in found])
    across_mm = 2 * np.sqrt(outlines.sum(axis=(1, 2)) / np.pi) * GRID.pixel_mm
    print("counts a slab:", *thick["prompts"].sum(axis=(1, 2)))
    print("mm across, of a disc of that area:", *across_mm.round().astype(int))
    np.savez_compressed(output, **thick, factors=attenuation(outlines), outlines=outlines)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
