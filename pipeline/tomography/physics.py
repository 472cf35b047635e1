"""What data were measured with, as far as a network that was trained on them depends on it.

Shards say it of the simulation, scans of the scanner, weights of the shards that they were trained
on; `pipeline.tomography.agreement` compares.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import DOSE, SHARD
from pipeline.tomography.scanners import GEOMETRIES, Geometry


@dataclass(frozen=True)
class Physics:
    """What data were measured with. Of measured scans the simulation's settings are None.

    Attributes
    ----------
    geometry : mapping
        The scanner, as the configuration's section ``scanner`` has it.
    pixels : int
        Pixels on a side of the images.
    pixel_mm, slice_mm : float
        Side of a pixel, and distance of the slices.
    attenuation : bool or None
        Whether it was simulated.
    psf_fwhm_mm : float or None
        Resolution that was simulated.
    background_fraction : float
        Part of the prompts that is background.
    counts_per_slice : float
        Mean prompts, of weights at dose 1.
    counts_per_activity : float
        See `counts_of`; of weights at dose 1.
    patient_position : str
        As `pipeline.tomography.scanners.Placed` has it; all that is simulated lies HFS.
    doses : sequence of float
        Parts of the counts: of weights those that they were trained with, of a shard its own.
    fbp : mapping or None
        ``window`` and ``cutoff`` of the FBP images, as the configuration's section ``fbp`` has
        them; None where they are not known, or where no FBP image is seen.
    osem_input : mapping or None
        Likewise ``iterations``, ``subsets`` and ``filter_mm`` of the OSEM images that are seen.
    """

    geometry: Mapping[str, Any]
    pixels: int
    pixel_mm: float
    slice_mm: float
    attenuation: bool | None
    psf_fwhm_mm: float | None
    background_fraction: float
    counts_per_slice: float
    counts_per_activity: float
    patient_position: str = "HFS"
    fbp: Mapping[str, Any] | None = None
    osem_input: Mapping[str, Any] | None = None
    doses: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        # JSON gives a list; two physics of the same doses are the same.
        object.__setattr__(self, "doses", tuple(self.doses))

    @property
    def measured(self) -> bool:
        """Whether these are facts of a measured scan."""
        return self.attenuation is None

    def wrong(self) -> str | None:
        """Name a value that no training data have, if there is one."""
        kind = self.geometry.get("geometry") if isinstance(self.geometry, Mapping) else None
        if kind not in [*GEOMETRIES]:
            return f"the geometry {self.geometry!r}"
        if not isinstance(self.attenuation, bool):
            return f"the attenuation {self.attenuation!r}"
        for name, least in NUMBERS.items():
            value = getattr(self, name)
            known = isinstance(value, int | float) and not isinstance(value, bool)
            if not (known and least <= value < math.inf):
                return f"the {name} {value!r}"
        for dose in self.doses:
            if not (isinstance(dose, int | float) and 0 < dose <= 1):
                return f"the dose {dose!r}"
        for name, possible in SEEN.items():
            value = getattr(self, name)
            if value is not None and not possible(value):
                return f"the {name} {value!r}"
        return None


def _possible_fbp(settings: Any) -> bool:
    """Whether these can be the settings of FBP images."""
    if not isinstance(settings, Mapping) or {*settings} != {"window", "cutoff"}:
        return False
    window, cutoff = settings["window"], settings["cutoff"]
    number = isinstance(cutoff, int | float) and not isinstance(cutoff, bool)
    return isinstance(window, str) and number and 0 < cutoff <= 1


def _possible_osem(settings: Any) -> bool:
    """Whether these can be the settings of OSEM images."""
    if not isinstance(settings, Mapping) or {*settings} != {"iterations", "subsets", "filter_mm"}:
        return False
    filter_mm = settings["filter_mm"]
    whole = all(type(settings[name]) is int for name in ("iterations", "subsets"))
    number = isinstance(filter_mm, int | float) and not isinstance(filter_mm, bool)
    return whole and number and 0 <= filter_mm < math.inf


SEEN = {"fbp": _possible_fbp, "osem_input": _possible_osem}
"""Images that networks may see, as fields of `Physics`, and what tells whether it can be theirs."""

TINY = float(np.finfo(np.float32).tiny)

NUMBERS = {
    **dict.fromkeys(("pixels", "pixel_mm", "slice_mm"), TINY),
    **dict.fromkeys(("counts_per_slice", "counts_per_activity"), TINY),
    **dict.fromkeys(("psf_fwhm_mm", "background_fraction"), 0.0),
}
"""Fields of `Physics` that are numbers, with the least that they can be."""

COUNTS = ("counts_per_slice", "counts_per_activity")
"""Fields of `Physics` that differ from subject to subject."""

DECIDING = tuple(n for n in Physics.__dataclass_fields__ if n not in (*COUNTS, "doses"))
"""The others, in which all data of a network must agree."""


# --- of files ------------------------------------------------------------------------------------


def geometry_text(geometry: Geometry) -> str:
    """Give a geometry as JSON, as the configuration's section ``scanner`` has it."""
    (kind,) = (name for name, known in GEOMETRIES.items() if isinstance(geometry, known))
    return json.dumps({"geometry": kind, **asdict(geometry)}, sort_keys=True)


def counts_of(file: h5py.File, fbp: h5py.Dataset) -> dict[str, float]:
    """Find how many counts a slice has, and how many of its trues stand for an FBP image's unit.

    This is the one place where the unit of a measured image meets the activity of training: the
    former is counts/mm, or Bq/ml, over factors of any level, and has no known ratio to the latter.
    But FBP preserves sums, so that trues over the sum of all pixels of FBP images tell how many
    counts a unit of the image stands for, whatever the unit, efficiencies, number of sinograms
    that were summed, and, on the average of a head, attenuation. With q this ratio,
    ``image * q(scan) / q(training)`` is what a network may take for activity, and what it gives is
    divided by the same number.

    Parameters
    ----------
    file : h5py.File
        Of kind `pipeline.storage.kinds.SINOGRAM` or `pipeline.storage.kinds.SCAN`.
    fbp : h5py.Dataset
        FBP images (slice, y, x) of its prompts.

    Returns
    -------
    dict
        ``counts_per_slice``: mean prompts; ``counts_per_activity``: q, 0 of images without a sum.
    """
    prompts = trues = pixels = 0.0
    for row in range(len(fbp)):
        counted = float(hdf5.finite(file["prompts"], row).sum(dtype=np.float64))
        prompts += counted
        trues += counted - float(hdf5.finite(file["background"], row).sum(dtype=np.float64))
        pixels += float(hdf5.finite(fbp, row).sum(dtype=np.float64))
    ratio = trues / pixels if pixels else 0.0
    return {"counts_per_slice": prompts / len(fbp), "counts_per_activity": ratio}


def dose_of(file: h5py.File) -> float:
    """Give the part of the counts that an open file of sinograms, or a shard, has."""
    return float(file.attrs.get(DOSE, 1.0))


def made_by(file: h5py.File, name: str) -> Mapping[str, Any] | None:
    """Read the settings of images from what decided an open file, its attribute ``config``.

    Parameters
    ----------
    file : h5py.File
        Of kind `pipeline.storage.kinds.SHARD`, or such an image of kind
        `pipeline.storage.kinds.SCAN_IMAGE`.
    name : str
        Of `SEEN`.

    Returns
    -------
    mapping or None
        As the field of `Physics` of that name; None of a file that does not say them.

    Raises
    ------
    InputError
        If they cannot be.
    """
    try:
        decided = json.loads(file.attrs["config"])
        if "image" not in file:  # a shard, which was made of a file of such images
            decided = json.loads(decided.get(f"{name}_config", "{}"))
        found: Mapping[str, Any] | None = decided.get("osem" if name == "osem_input" else name)
        if name == "osem_input" and found is not None:
            found = {"filter_mm": 0.0, **found}
    except (TypeError, ValueError, AttributeError, RecursionError):
        found = {}
    if found is not None and not SEEN[name](found):
        problem = f"says no settings of its {name} images ('config')"
        remedy = f"delete it and run rule '{file.attrs['rule']}' again"
        raise InputError(file.filename, problem, remedy)
    return found


def of_shard(path: Path) -> Physics | None:
    """Read the physics of a shard; None of one that was made before shards said it.

    Raises
    ------
    InputError
        If the shard cannot be read, or says what cannot be.
    """
    with hdf5.opened(path, SHARD) as file:
        held = {name: value for name, value in file.attrs.items() if name in DECIDING + COUNTS}
        dose = dose_of(file)
        images = {name: made_by(file, name) for name in SEEN}
    if "geometry" not in held:
        return None
    remedy = f"delete it and run rule 'shard' again: snakemake --cores all -- {path}"
    try:
        # NumPy's numbers become Python's, which JSON and YAML know.
        plain = {name: np.asarray(value).item() for name, value in held.items()}
        plain |= {"geometry": json.loads(plain["geometry"]), "doses": (dose,), **images}
        found = Physics(**plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(path, f"does not say its physics ({error})", remedy) from error
    if wrong := found.wrong():
        raise InputError(path, f"has physics that no simulation has: {wrong}", remedy)
    return found
