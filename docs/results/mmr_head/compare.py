"""Networks beside the best classical images of the scan: compared.png, laid beside this script.

    python -m docs.results.mmr_head.compare [FOLDER]

after the calls that the page names; FOLDER is the one that they were made in. Settings of the
filter and of MAP are those that rule ``classical_settings`` chose on the validation subject.
"""

import sys
from pathlib import Path

import h5py
import numpy as np
import torch
from matplotlib import pyplot

from docs.results.mmr_head.draw import save
from pipeline.classical import MAP, METHODS, OSEM_FILTER, Counts, read_settings
from pipeline.scan_images import placed
from pipeline.storage import hdf5
from pipeline.storage.kinds import SCAN, SCAN_IMAGE
from pipeline.tomography.backend import device_for
from pipeline.tomography.forward_model import ForwardModel
from pipeline.tomography.geometry import Grid
from pipeline.tomography.projectors import SparseProjector
from pipeline.tomography.system_matrix import system_matrices

GRID, SUBSETS, PSF_MM = Grid(96, 3.0), 4, 4.5
"""As in network.yaml and config/lowdose.yaml."""

SHOWN = (1, 3, 5, 7)
"""Slabs."""

ACROSS = np.abs(GRID.centres_mm) < 96.0
DOWN = np.abs(GRID.centres_mm + 18.0) < 114.0
"""Columns and rows of what is drawn: the head lies before the middle."""


def counts_of(file: h5py.File, per_mm: float) -> Counts:
    """All slabs of the scan; ``per_mm`` is counts of an activity."""
    ring = placed(file)
    projector = SparseProjector(
        ring, GRID, *system_matrices(ring, GRID, SUBSETS), device_for("sparse")
    )
    factors, prompts, background = (
        [projector.lors(hdf5.finite(file[name]), subset) for subset in range(SUBSETS)]
        for name in ("factors", "prompts", "background")
    )
    scale = torch.full((1, prompts[0].shape[1]), per_mm)
    return Counts(ForwardModel(projector, PSF_MM), factors, prompts, background, scale)


def main(folder: Path) -> None:
    """Reconstruct, read and draw."""
    results = folder / "results" / "mmr_head"
    made = {}
    for name in ("PnPNet", "LegoPET"):
        arrays, facts = hdf5.read(results / "scans" / "head" / f"{name}.h5", SCAN_IMAGE)
        activity = facts["activity_per_unit"]
        made[name] = {
            key: array * activity for key, array in arrays.items() if key != "position_mm"
        }
        print(name, facts["doubts"] or "no doubts")
    with hdf5.opened(folder / "data" / "mmr_head" / "scans" / "head.h5", SCAN) as file:
        counts = counts_of(file, 1 / activity)
        place_mm = file["position_mm"][()]
    columns = {}
    for name in (OSEM_FILTER, MAP):
        chosen = read_settings(results / "classical_settings.json", name)
        print(name, chosen)
        columns[name] = counts.plain.projector.images(METHODS[name][1](counts, chosen))
    columns = {
        "OSEM + filter": columns[OSEM_FILTER],
        "MAP": columns[MAP],
        "PnPNet": made["PnPNet"]["image"],
        "LegoPET, mean of 8": made["LegoPET"]["image"],
        "its standard deviation": made["LegoPET"]["std"],
    }
    figure, axes = pyplot.subplots(len(SHOWN), 5, figsize=(9, 8.8), layout="constrained")
    top = np.percentile(columns["MAP"][list(SHOWN)], 99.8)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    for row, slab in zip(axes, SHOWN, strict=True):
        for axis, (name, images) in zip(row, columns.items(), strict=True):
            highest = top / 4 if name == "its standard deviation" else top
            axis.imshow(images[slab][DOWN][:, ACROSS], cmap="gray_r", vmin=0, vmax=highest)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(f"{place_mm[slab]:+.0f} mm", fontsize=9)
    save(figure, "compared.png")


if __name__ == "__main__":
    main(Path(*sys.argv[1:]))
