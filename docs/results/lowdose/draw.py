"""The picture at the head of the project's page: compared.png, laid beside this script.

    python -m docs.results.lowdose.draw [FOLDER]

after the call that the page names; FOLDER is the one that it was made in.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot

from pipeline.storage import hdf5
from pipeline.storage.kinds import RECONSTRUCTION, SHARD

HERE = Path(__file__).parent
DOSE, SUBJECT, ROTATION, SHOWN = "dose_0.05", "subject05", 0, (22, 36)
"""Of the test split; which of the rotation's 55 slices."""

MODEL = "LegoPET-long"
TITLES = {
    "OSEM-filter": "OSEM + filter",
    "MAP": "MAP",
    MODEL: f"{MODEL}, mean of 8",
    "std": "its standard deviation",
    "truth": "truth",
}


def main(folder: Path) -> None:
    """Read, and draw."""
    shard = folder / "data" / "lowdose" / "shards" / DOSE / f"{SUBJECT}.h5"
    with hdf5.opened(shard, SHARD) as file:
        (first,) = np.flatnonzero(file["rotation"][()] == ROTATION)[:1]
        rows = [int(first) + slice_ for slice_ in SHOWN]
        truth = file["activity"][rows]
    images = {"truth": truth}
    for name in ("OSEM-filter", "MAP", MODEL):
        path = folder / "results" / "lowdose" / "reconstructions" / name / DOSE / f"{SUBJECT}.h5"
        with hdf5.opened(path, RECONSTRUCTION) as file:
            images[name] = file["image"][rows]
            if name == MODEL:
                images["std"] = file["std"][rows]
    top = float(truth.max())
    figure, axes = pyplot.subplots(len(SHOWN), 5, figsize=(9.5, 4.2), layout="constrained")
    for row, number in zip(axes, range(len(SHOWN)), strict=True):
        for axis, (name, title) in zip(row, TITLES.items(), strict=True):
            highest = top / 2 if name == "std" else top
            axis.imshow(images[name][number], cmap="gray_r", vmin=0, vmax=highest)
            axis.set_xticks([])
            axis.set_yticks([])
            if number == 0:
                axis.set_title(title, fontsize=9)
    figure.savefig(HERE / "compared.png", dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main(Path(*sys.argv[1:]))
