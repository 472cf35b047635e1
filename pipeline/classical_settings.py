"""Rule ``classical_settings``: what filtered OSEM and MAP do best with, on the validation split.

Best is the largest mean PSNR against the noise-free truth: 10 log10(range^2 / MSE) of whole images,
averaged over slices, the range being the truth's largest activity. Neither rule nor figure looks at
a test subject.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.baselines import MAP, OSEM_FILTER
from pipeline.classical import (
    CHOSEN,
    CURVE,
    Counts,
    FilterSettings,
    check_bins,
    counts_of,
    osem_images,
)
from pipeline.map import MapSettings, map_images
from pipeline.osem import SLICES_AT_A_TIME
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file
from pipeline.storage.kinds import SHARD, SINOGRAM
from pipeline.tomography.forward_model import ForwardModel, Simulation, smoothed
from pipeline.tomography.projectors import Projector
from pipeline.tomography.spacing import evenly_spaced

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassicalSettings:
    """The configuration's ``classical``.

    Attributes
    ----------
    slices : int
        Evenly spaced over the validation split; on these settings are compared.
    osem_iterations : int
        OSEM is compared after 1, 2, ... iterations up to this.
    filter_mm : sequence of float
        Full widths at half maximum of the Gaussian filters that are compared.
    betas : sequence of float
        Weights of the prior that are compared, in one over the truth's level.
    gamma : float
        See `pipeline.tomography.prior.PriorSettings`.
    epsilon : float
        Likewise, in the truth's level.
    map_iterations : int
        See `pipeline.map.MapSettings`.
    """

    slices: int
    osem_iterations: int
    filter_mm: Sequence[float]
    betas: Sequence[float]
    gamma: float
    epsilon: float
    map_iterations: int


class _Part(NamedTuple):
    """Some slices of a subject that are reconstructed together, and their truth (slice, y, x)."""

    counts: Counts
    truth: np.ndarray


# --- slices --------------------------------------------------------------------------------------


def _rows(shards: Sequence[Path], count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Choose slices evenly over all shards; give the number of a shard and rows of it, by parts."""
    lengths = []
    for path in shards:
        with hdf5.opened(path, SHARD) as file:
            lengths.append(len(file["rotation"]))
    chosen = evenly_spaced(0, sum(lengths) - 1, min(count, sum(lengths)))
    for number, end in enumerate(np.cumsum(lengths)):
        start = end - lengths[number]
        rows = chosen[(chosen >= start) & (chosen < end)] - start
        for first in range(0, len(rows), SLICES_AT_A_TIME):
            yield number, rows[first : first + SLICES_AT_A_TIME]


def _parts(
    sinograms: Sequence[Path], shards: Sequence[Path], count: int, plain: ForwardModel
) -> Iterator[_Part]:
    for number, rows in _rows(shards, count):
        with (
            hdf5.opened(sinograms[number], SINOGRAM) as measured,
            hdf5.opened(shards[number], SHARD) as shard,
        ):
            check_bins(measured, plain.projector)
            if not hdf5.same_slices(measured, shard):
                problem = f"has other slices than {sinograms[number]}"
                remedy = "delete it and run rule 'shard' again"
                raise InputError(shards[number], problem, remedy)
            yield _Part(counts_of(measured, rows, plain), hdf5.finite(shard["activity"], rows))


def _level(shards: Sequence[Path], count: int) -> tuple[float, float]:
    """Level and largest value of the chosen slices' truth, in activity units.

    The level is the mean of the activity weighted by itself, sum x^2 / sum x: whatever the unit is
    and however much of an image is empty, it lies where the activity is.
    """
    sums, largest = np.zeros(2), 0.0
    for number, rows in _rows(shards, count):
        with hdf5.opened(shards[number], SHARD) as file:
            truth = hdf5.finite(file["activity"], rows).astype(np.float64)
        sums += [(truth**2).sum(), truth.sum()]
        largest = max(largest, float(truth.max()))
    if largest <= 0:
        problem = "have no activity in the slices that were chosen"
        raise InputError(", ".join(map(str, shards)), problem, "raise classical.slices")
    return float(sums[0] / sums[1]), largest


# --- settings ------------------------------------------------------------------------------------


def _filter_settings(settings: ClassicalSettings) -> list[FilterSettings]:
    iterations = range(1, settings.osem_iterations + 1)
    return [FilterSettings(*both) for both in product(iterations, map(float, settings.filter_mm))]


def _map_settings(settings: ClassicalSettings, level: float) -> list[MapSettings]:
    epsilon = settings.epsilon * level
    return [
        MapSettings(beta / level, settings.gamma, epsilon, settings.map_iterations)
        for beta in sorted(settings.betas)
    ]


def _osem_errors(part: _Part, settings: Sequence[FilterSettings]) -> np.ndarray:
    """Mean squared errors (setting, slice) of filtered OSEM, settings in ascending iterations."""
    errors, projector = [], part.counts.plain.projector
    most = max(each.iterations for each in settings)
    for number, image in enumerate(osem_images(part.counts, most), start=1):
        errors += [
            _error(smoothed(image, each.fwhm_mm, projector), part)
            for each in settings
            if each.iterations == number
        ]
    return np.array(errors)


def _map_errors(part: _Part, settings: Sequence[MapSettings]) -> np.ndarray:
    """Mean squared errors (setting, slice) of MAP."""
    model, errors = part.counts.of_activity, []
    for each in settings:
        *_, found = map_images(model, part.counts.prompts, part.counts.background, each)
        errors.append(_error(found.image, part))
    return np.array(errors)


def _error(image: torch.Tensor, part: _Part) -> np.ndarray:
    """Mean squared error (slice,) of an image (pixel, slice) against the truth."""
    images = part.counts.plain.projector.images(image)
    difference: np.ndarray = images.astype(np.float64) - part.truth
    return (difference**2).mean(axis=(1, 2))


# --- choice --------------------------------------------------------------------------------------


def choose(
    sinograms: Sequence[Path],
    shards: Sequence[Path],
    output: Path,
    settings: ClassicalSettings,
    simulation: Simulation,
    projector: Projector,
) -> None:
    """Compare all settings on validation slices, and write the curves and what is best.

    Parameters
    ----------
    sinograms, shards : sequences of path
        Of the validation subjects, in the same order.
    output : Path
        JSON, see docs/data-formats.md.
    simulation : Simulation
    projector : Projector
        On the reconstruction grid.

    Raises
    ------
    InputError
        If a file is missing or damaged, or both are of other slices.
    """
    level, largest = _level(shards, settings.slices)
    filters, maps = _filter_settings(settings), _map_settings(settings, level)
    plain = ForwardModel(projector, simulation.psf_fwhm_mm)
    errors: dict[str, list[np.ndarray]] = {OSEM_FILTER: [], MAP: []}
    for part in _parts(sinograms, shards, settings.slices, plain):
        errors[OSEM_FILTER].append(_osem_errors(part, filters))
        errors[MAP].append(_map_errors(part, maps))
    psnr_db = {
        name: 10 * np.log10(largest**2 / np.concatenate(found, axis=1)).mean(axis=1)
        for name, found in errors.items()
    }
    # At the other ends, of one iteration and no filter, nothing lies beyond.
    ends: dict[str, list[float]] = {
        "iterations": [settings.osem_iterations],
        "fwhm_mm": [max(settings.filter_mm)],
    }
    found = {
        "range": largest,
        "level": level,
        "slices": int(sum(part.shape[1] for part in errors[MAP])),
        OSEM_FILTER: _choice(OSEM_FILTER, filters, psnr_db[OSEM_FILTER], ends),
        MAP: _choice(MAP, maps, psnr_db[MAP], {"beta": [maps[0].beta, maps[-1].beta]}),
    }
    with atomic_file(output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _choice(
    name: str, settings: Sequence[Any], psnr_db: np.ndarray, ends: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Say what is best of some settings, whether it is so at an end of them, and all curves."""
    best = int(psnr_db.argmax())
    chosen = asdict(settings[best])
    at_end = [key for key, limits in ends.items() if chosen[key] in limits]
    curve = [
        {**{key: asdict(each)[key] for key in ends}, "psnr_db": round(float(value), 4)}
        for each, value in zip(settings, psnr_db, strict=True)
    ]
    log.info("%s: best of %d are %s, %.2f dB", name, len(settings), chosen, psnr_db[best])
    if at_end:
        log.warning("%s: %s is at an end of what was compared", name, ", ".join(at_end))
    return {CHOSEN: chosen, "psnr_db": curve[best]["psnr_db"], "at_end": at_end, CURVE: curve}
