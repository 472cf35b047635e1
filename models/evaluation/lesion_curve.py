"""Rule ``lesion_curve``: lesions in OSEM with every filter, and in MAP with every beta."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from models.evaluation.lesions import LesionSlice, lesion_slices, measured, write
from pipeline.baselines import MAP, OSEM_FILTER
from pipeline.classical import (
    Counts,
    check_bins,
    compared_values,
    counts_of,
    osem_images,
    read_settings,
)
from pipeline.map import map_images
from pipeline.osem import SLICES_AT_A_TIME
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import LESION_SLICES, SHARD, SINOGRAM
from pipeline.tomography.forward_model import ForwardModel, Simulation, smoothed
from pipeline.tomography.projectors import Projector

VARIED = {OSEM_FILTER: "fwhm_mm", MAP: "beta"}
"""Setting of each method that makes its curve, all others as chosen."""


def lesion_curve(
    name: str,
    sinogram: Path,
    shard: Path,
    slices: Path,
    settings: Path,
    output: Path,
    simulation: Simulation,
    projector: Projector,
) -> None:
    """Measure a subject's lesions in the images by each value of a setting.

    Parameters
    ----------
    name : str
        Of `VARIED`.
    sinogram, shard, slices : Path
        Of the subject's lesions.
    settings : Path
        From rule ``classical_settings``: what was chosen, and the values that were compared.
    output : Path
        CSV, as of `models.evaluation.lesions.lesion_metrics`, without false structure.
    simulation : Simulation
    projector : Projector
        On the reconstruction grid.

    Raises
    ------
    InputError
        If a file is missing or damaged, or they are of other slices.
    """
    chosen, values = read_settings(settings, name), compared_values(settings, name, VARIED[name])
    each = {value: replace(chosen, **{VARIED[name]: value}) for value in values}
    plain = ForwardModel(projector, simulation.psf_fwhm_mm)

    def images(counts: Counts) -> np.ndarray:
        """(setting, slice, y, x)."""
        if name == OSEM_FILTER:
            *_, image = osem_images(counts, chosen.iterations)
            found = [smoothed(image, one.fwhm_mm, projector) for one in each.values()]
        else:
            data = counts.of_activity, counts.prompts, counts.background
            found = [[*map_images(*data, one)][-1].image for one in each.values()]
        return np.stack([projector.images(image) for image in found])

    def records(of: LesionSlice) -> list[dict[str, object]]:
        start, end = int(of.rows.min()), int(of.rows.max()) + 1
        parts = [
            images(counts_of(counted, np.s_[first : min(first + SLICES_AT_A_TIME, end)], plain))
            for first in range(start, end, SLICES_AT_A_TIME)
        ]
        stack = np.concatenate(parts, axis=1)
        stack = stack.reshape(len(each), *of.rows.shape, *stack.shape[2:])
        return [
            record
            for value, found in zip(each, stack, strict=True)
            for record in measured(found, of, {"model": name, "samples": 1, "setting": value})
        ]

    with (
        hdf5.opened(sinogram, SINOGRAM) as counted,
        hdf5.opened(shard, SHARD) as truth,
        hdf5.opened(slices, LESION_SLICES) as table,
    ):
        check_bins(counted, projector)
        if not hdf5.same_slices(counted, truth):
            problem = f"has other slices than {sinogram}"
            raise InputError(shard, problem, "delete it and run rule 'shard' again")
        write([one for of in lesion_slices(truth, table) for one in records(of)], output)
