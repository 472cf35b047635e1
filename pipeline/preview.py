"""Rule ``preview``: look into any HDF5 file of the pipeline.

``python -m pipeline.preview FILE`` prints what the file holds and draws a contact sheet beside it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import h5py
import matplotlib
import numpy as np
import typer
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from pipeline.storage.errors import InputError, escape_printing
from pipeline.storage.files import atomic_file, check_readable
from pipeline.storage.hdf5 import SCHEMA_VERSION, finite, stored
from pipeline.storage.system_errors import unreadable
from pipeline.tomography.spacing import evenly_spaced

SHOWN = 6
"""Images of each dataset on a contact sheet."""

CLASS_COLOURS = ListedColormap(["black", *matplotlib.color_sequences["tab20"][1:12]])
"""One colour for each of BrainWeb's classes 0 (background) to 11."""


@contextmanager
def open_any(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file of this pipeline, whatever its kind.

    Raises
    ------
    InputError
        If it is missing, damaged or not the pipeline's.
    """
    check_readable(path, "HDF5 file", "check the path, or run its rule again")
    try:
        with h5py.File(path, "r") as file:
            found = file.attrs.get("schema_version")
            if found != SCHEMA_VERSION:
                raise InputError(
                    path,
                    f"has schema version {found}, not {SCHEMA_VERSION}",
                    "only files that this version of the pipeline wrote can be previewed",
                )
            for name in file:
                stored(file, name, path, "delete it and run its rule again")
            yield file
    except (OSError, RuntimeError, KeyError, MemoryError) as error:
        remedy = "check the path, or run its rule again"
        raise unreadable(path, error, f"cannot be read ({error})", remedy) from error


def tree(path: Path) -> Tree:
    """Tree of datasets (shape, dtype, units, axes, meaning) and attributes of a file."""
    with open_any(path) as file:
        size_mb = path.stat().st_size / 1e6
        title = f"  {file.attrs['kind']}, {size_mb:.1f} MB"
        root = Tree(Text.assemble((str(path), "bold"), title))
        datasets = root.add("datasets")
        for name, dataset in file.items():
            axes = ", ".join(dimension.label for dimension in dataset.dims)
            stored_mb = dataset.id.get_storage_size() / 1e6
            meaning = f"in {dataset.attrs['units']}: {dataset.attrs['description']} "
            datasets.add(
                Text.assemble(
                    (name, "bold"),
                    f" ({axes}) = {dataset.shape} {dataset.dtype}, {meaning}",
                    (f"({stored_mb:.1f} MB stored)", "dim"),
                )
            )
        attributes = root.add("attributes")
        for name, value in sorted(file.attrs.items()):
            attributes.add(Text(f"{name} = {value}"))
    return root


def has_images(path: Path) -> bool:
    """Whether a file holds anything for a contact sheet: a system matrix, for one, does not."""
    with open_any(path) as file:
        return any(dataset.ndim == 3 for dataset in file.values())


def contact_sheet(path: Path, output: Path) -> None:
    """Draw some images of every dataset with at least three axes as one PNG.

    Images have row 0 on top: anterior up and the patient's left on the right, once a file is in
    patient orientation (LPS). All images of a row share the colour scale beside it.

    Raises
    ------
    InputError
        If the file holds no images, or cannot be read.
    """
    with open_any(path) as file:
        names = [name for name in file if file[name].ndim == 3]
        if not names:
            raise InputError(
                path, f"a '{file.attrs['kind']}' holds no images", "preview another kind of file"
            )
        figure = Figure((2.1 * SHOWN + 1.2, 2.2 * len(names) + 0.7), layout="constrained")
        grid = figure.subplots(len(names), SHOWN, squeeze=False)
        for axes, name in zip(grid, names, strict=True):
            _draw_row(axes, file[name], file)
        facts = (file.attrs["kind"], file.attrs.get("subject"), file.attrs.get("orientation"))
        figure.suptitle(", ".join(fact for fact in facts if fact))
        with atomic_file(output) as temporary:
            figure.savefig(temporary, dpi=110, format="png")


def _draw_row(axes: np.ndarray, dataset: h5py.Dataset, file: h5py.File) -> None:
    chosen = evenly_spaced(0, len(dataset) - 1, len(axes) + 2)[1:-1]
    images = [finite(dataset, int(index)) for index in chosen]
    stack, vertical, horizontal = (dimension.label for dimension in dataset.dims)
    units = dataset.attrs["units"]
    style: dict[str, Any] = {"aspect": "auto" if vertical == "view" else "equal"}
    if units == "class":
        style |= {"cmap": CLASS_COLOURS, "vmin": -0.5, "vmax": CLASS_COLOURS.N - 0.5}
    else:
        low = min(0.0, *(float(image.min()) for image in images))
        high = max(float(image.max()) for image in images) or 1.0
        style |= {"cmap": "inferno", "vmin": low, "vmax": high}
    for ax, index, image in zip(axes, chosen, images, strict=True):
        shown = ax.imshow(image, interpolation="nearest", **style)
        ax.set_box_aspect(1 if vertical == "view" else None)
        title = f"{stack} {index}"
        if "rotation_deg" in file:
            title = f"slice {file['slice_index'][index]}, {file['rotation_deg'][index]:.0f}°"
        ax.set_title(title, fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0].set_ylabel(f"{Path(dataset.name).name}\n{vertical}", fontsize=9)
    axes[0].set_xlabel(horizontal, fontsize=8)
    bar = axes[0].figure.colorbar(shown, ax=list(axes), fraction=0.02, pad=0.01)
    bar.set_label("no unit" if units == "1" else units, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if units == "class":
        bar.set_ticks(range(CLASS_COLOURS.N))


def main(
    file: Annotated[Path, typer.Argument(help="Any HDF5 file of the pipeline.")],
    sheet: Annotated[
        Path | None, typer.Option(help="Where the contact sheet goes; default: beside FILE.")
    ] = None,
) -> None:
    """Print what FILE holds and draw its images."""
    escape_printing()
    output = sheet or file.with_suffix(".png")
    try:
        Console().print(tree(file))
        if not has_images(file):
            return
        contact_sheet(file, output)
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"contact sheet: {output}")


if __name__ == "__main__":
    typer.run(main)
