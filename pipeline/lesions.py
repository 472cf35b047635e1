"""Rule ``lesions``: spheres of more or less activity in some slices, beside the same without them.

A sphere multiplies the activity that is there by its contrast: of whatever tissue a voxel is, it
has ``contrast`` times that tissue's activity, and hot ones are nowhere colder than without.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from scipy.ndimage import convolve

from pipeline.jobs.seeds import keyed_rng
from pipeline.sources.labels import GREY_MATTER, WHITE_MATTER
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import (
    IMAGE_FACTS,
    LESION_SLICES,
    SLICE_IDENTITY,
    SLICES,
    SUBJECT_FACTS,
)
from pipeline.tomography.geometry import Grid

IN_BRAIN = 0.75
"""Part of a lesion's disc that lies in grey and white matter, at least."""

SAMPLES = 16
"""Points along each side of a pixel, of which the part in the sphere is counted."""


@dataclass(frozen=True)
class LesionSettings:
    """What decides the lesions of a volume, of the configuration's ``lesions``.

    Attributes
    ----------
    per_volume : int
        Slices of a rotated volume that have lesions.
    per_slice : int
        Lesions in each of them.
    diameter_mm : sequence of two floats
        Least and largest diameter of the spheres, which is uniform between them.
    hot, cold : float
        Activity in a sphere over that of its tissue, above and below 1.
    """

    per_volume: int
    per_slice: int
    diameter_mm: Sequence[float]
    hot: float
    cold: float


class Lesion(NamedTuple):
    """A sphere, centred on the middle of a slice: see `pipeline.storage.kinds.LESION_SLICES`."""

    number: int
    tissue: int
    contrast: float
    diameter_mm: float
    x_mm: float
    y_mm: float


def margin_mm(pixel_mm: float) -> float:
    """Give what lies between the discs of two lesions, at least: 10 mm, or three pixels."""
    return max(10.0, 3 * pixel_mm)


# --- spheres -------------------------------------------------------------------------------------


def covered(lesion: Lesion, grid: Grid, slice_mm: float) -> np.ndarray:
    """Part of each voxel of a slice that lies in a sphere: (y, x) float32.

    Along the axis it is exact, in the plane the mean of `SAMPLES` x `SAMPLES` points of a pixel.
    """
    image = np.zeros((grid.size, grid.size), np.float32)
    radius_mm, centres_mm = lesion.diameter_mm / 2, grid.centres_mm
    points = ((np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5) * grid.pixel_mm
    near, squared = [], []
    for centre_mm in (lesion.y_mm, lesion.x_mm):
        distance_mm = centres_mm - centre_mm
        near.append(np.flatnonzero(np.abs(distance_mm) < radius_mm + grid.pixel_mm))
        squared.append(((distance_mm[near[-1], None] + points) ** 2).ravel())
    chord_mm = 2 * np.sqrt(np.clip(radius_mm**2 - squared[0][:, None] - squared[1], 0, None))
    part = np.minimum(chord_mm / slice_mm, 1)
    shape = (len(near[0]), SAMPLES, len(near[1]), SAMPLES)
    image[np.ix_(*near)] = part.reshape(shape).mean(axis=(1, 3))
    return image


def with_lesions(
    activity: np.ndarray, lesions: Sequence[Lesion], grid: Grid, slice_mm: float
) -> np.ndarray:
    """Give a slice's activity (y, x) on a grid with some lesions in it."""
    activity = activity.copy()
    for lesion in lesions:
        activity *= 1 + np.float32(lesion.contrast - 1) * covered(lesion, grid, slice_mm)
    return activity


def mask_of(lesions: Sequence[Lesion], grid: Grid, slice_mm: float) -> np.ndarray:
    """Number of the lesion that a pixel is of, 0 beside them: (y, x) uint8.

    A pixel is of a lesion that covers it at least half as much as the pixel that it covers most.
    """
    mask = np.zeros((grid.size, grid.size), np.uint8)
    for lesion in lesions:
        part = covered(lesion, grid, slice_mm)
        mask[part >= part.max() / 2] = lesion.number
    return mask


# --- where they are ------------------------------------------------------------------------------


def place(
    labels: np.ndarray, grid: Grid, settings: LesionSettings, rng: np.random.Generator
) -> list[Lesion] | None:
    """Draw the lesions of a slice, by turns hot and cold, in grey and white matter.

    A hot one and the cold one beside it in the order have one diameter, so that neither kind is
    larger; those of a kind are by turns in one tissue and the other. Each is centred on a pixel of
    its tissue, with at least `IN_BRAIN` of its disc in grey and white matter, and discs are
    `margin_mm` apart.

    Parameters
    ----------
    labels : array (y, x)
        BrainWeb's classes on the grid.

    Returns
    -------
    list of Lesion, or None
        None if they have no room in the slice.
    """
    brain = np.isin(labels, (GREY_MATTER, WHITE_MATTER)).astype(np.float32)
    y_mm, x_mm = np.meshgrid(grid.centres_mm, grid.centres_mm, indexing="ij")
    contrasts = rng.permutation([settings.hot, settings.cold])
    tissues = rng.permuted([[GREY_MATTER, WHITE_MATTER]] * 2, axis=1)
    least, largest = settings.diameter_mm
    diameters_mm = rng.uniform(least, largest, -(-settings.per_slice // 2))
    lesions: list[Lesion] = []
    for number in range(1, settings.per_slice + 1):
        pair, kind = divmod(number - 1, 2)
        diameter_mm, contrast = float(diameters_mm[pair]), float(contrasts[kind])
        tissue = int(tissues[kind, pair % 2])
        disc = _disc(diameter_mm, grid.pixel_mm)
        free = (labels == tissue) & (convolve(brain, disc, mode="constant") >= IN_BRAIN)
        for other in lesions:
            apart_mm = (diameter_mm + other.diameter_mm) / 2 + margin_mm(grid.pixel_mm)
            free &= np.hypot(y_mm - other.y_mm, x_mm - other.x_mm) >= apart_mm
        if not (found := np.flatnonzero(free)).size:
            return None
        row, column = divmod(int(rng.choice(found)), grid.size)
        centre_mm = grid.centres_mm[column], grid.centres_mm[row]
        lesions.append(Lesion(number, tissue, contrast, diameter_mm, *map(float, centre_mm)))
    return lesions


def _disc(diameter_mm: float, pixel_mm: float) -> np.ndarray:
    """Weights, of sum 1, of the pixels around one that a disc covers."""
    grid = Grid(2 * int(np.ceil(diameter_mm / pixel_mm / 2)) + 1, pixel_mm)
    flat = covered(Lesion(0, 0, 0, diameter_mm, 0, 0), grid, slice_mm=1e-6 * diameter_mm)
    weights: np.ndarray = flat / flat.sum()
    return weights


def lesions_of(
    identity: Mapping[str, np.ndarray],
    labels: np.ndarray,
    grid: Grid,
    settings: LesionSettings,
    seed: int,
    subject: str,
) -> Iterator[tuple[int, list[Lesion]]]:
    """Draw the lesions of a subject: in some slices of each rotation, spread evenly.

    Where they are belongs to the slice alone. Of a volume those slices are taken that have room, of
    each rotation others: as many anatomical slices as can be.

    Parameters
    ----------
    identity : mapping
        Arrays (slice,) of `pipeline.storage.kinds.SLICE_IDENTITY`.
    labels : array (slice, y, x)

    Yields
    ------
    row : int
        Of a slice, ascending.
    lesions : list of Lesion

    Raises
    ------
    InputError
        If too few slices have room.
    """
    rotations = identity["rotation"]
    turns = np.unique(rotations)
    for turn, rotation in enumerate(turns):
        found = []
        for row in np.flatnonzero(rotations == rotation).tolist():
            key = int(rotation), int(identity["slice_index"][row])
            drawn = place(labels[row], grid, settings, keyed_rng(seed, "lesions", subject, *key))
            if drawn is not None:
                found.append((row, drawn))
        if len(found) < settings.per_volume:
            raise InputError(
                "lesions.per_volume",
                f"is {settings.per_volume}, and in rotation {rotation} of {subject} "
                f"{len(found)} slices have room for {settings.per_slice} lesions",
                "ask for fewer slices, for fewer lesions in each (per_slice), or for smaller ones "
                "(diameter_mm)",
            )
        parts = np.arange(settings.per_volume) + (turn + 0.5) / len(turns)
        for n in (parts * (len(found) / settings.per_volume)).astype(int).tolist():
            yield found[n]


def labels_for(settings: LesionSettings, labels: np.ndarray | None, subject: str) -> np.ndarray:
    """Give a subject's labels, if it has any: only they say where tissues are.

    Raises
    ------
    InputError
        If it has none.
    """
    if labels is None:
        raise InputError(
            "lesions.per_volume",
            f"is {settings.per_volume}, and {subject} has no labels, which say where tissues are",
            f"give {subject}_labels beside its image, or set it to 0",
        )
    return labels


# --- the rule ------------------------------------------------------------------------------------


def lesions(slices: Path, output: Path, settings: LesionSettings, draws: int) -> None:
    """Rule ``lesions``: slices without and with their lesions, once for each draw of noise.

    Parameters
    ----------
    slices : Path
        Of rule ``slices``.
    output : Path
        Of kind `pipeline.storage.kinds.LESION_SLICES`: each slice ``draws`` times, every time
        first without its lesions and then with them.
    settings : LesionSettings

    Raises
    ------
    InputError
        If there are no labels, or too few slices have room for the lesions.
    """
    arrays: dict[str, list[np.ndarray]] = {}
    table: list[tuple[int, int, Lesion]] = []
    with hdf5.opened(slices, SLICES) as file:
        seed, subject = int(file.attrs["seed"]), str(file.attrs["subject"])
        stored = hdf5.finite(file["labels"]) if "labels" in file else None
        labels = labels_for(settings, stored, subject)
        grid = Grid(labels.shape[-1], float(file.attrs["pixel_mm"]))
        identity = {name: hdf5.finite(file[name]) for name in SLICE_IDENTITY}
        for row, found in lesions_of(identity, labels, grid, settings, seed, subject):
            numbers = {name: values[row] for name, values in identity.items()}
            for name, twins in _twins(file, row, found, grid).items():
                arrays.setdefault(name, []).append(np.tile(twins, (draws, 1, 1)))
            for name, value in numbers.items():
                arrays.setdefault(name, []).append(np.repeat(value, 2 * draws))
            arrays.setdefault("draw", []).append(np.arange(draws, dtype=np.uint16).repeat(2))
            arrays.setdefault("present", []).append(np.tile(np.array([0, 1], np.uint8), draws))
            table += [(numbers["rotation"], numbers["slice_index"], lesion) for lesion in found]
        facts = {name: file.attrs[name] for name in (*SUBJECT_FACTS, "oversampling")}
        facts |= {name: file.attrs[name] for name in IMAGE_FACTS if name in file.attrs}
        used = {"lesions": asdict(settings) | {"draws": draws}, "slices": file.attrs["config_hash"]}
    rotations, indices, spheres = zip(*table, strict=True)
    columns = {"rotation": rotations, "slice_index": indices}
    columns |= dict(zip(Lesion._fields, zip(*spheres, strict=True), strict=True))
    declared = LESION_SLICES.datasets
    hdf5.write(
        output,
        LESION_SLICES,
        {
            **{name: np.concatenate(parts) for name, parts in arrays.items()},
            **{
                f"lesion_{name}": np.array(values, declared[f"lesion_{name}"].dtype)
                for name, values in columns.items()
            },
        },
        hdf5.provenance(used, **facts),
    )


def _twins(
    file: h5py.File, row: int, lesions: Sequence[Lesion], grid: Grid
) -> dict[str, np.ndarray]:
    """Images (2, y, x) of a slice of an open file, without and with its lesions."""
    slice_mm, fine = float(file.attrs["slice_mm"]), grid.finer(int(file.attrs["oversampling"]))
    healthy = hdf5.finite(file["activity"], row)
    same = {name: hdf5.finite(file[name], row) for name in ("attenuation", "labels")}
    same["lesion"] = mask_of(lesions, grid, slice_mm)
    return {
        "activity": np.stack([healthy, with_lesions(healthy, lesions, fine, slice_mm)]),
        **{name: np.stack([image, image]) for name, image in same.items()},
    }
