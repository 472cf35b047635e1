"""Rule ``lesion_sinogram``: prompts of slices without and with lesions, their noise in pairs."""

from pathlib import Path

import h5py
import numpy as np

from pipeline.jobs.seeds import keyed_rng
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import (
    DOSE,
    SIMULATION_FACTS,
    SINOGRAM,
    SLICES,
    SUBJECT_FACTS,
    identity_of,
)
from pipeline.tomography.forward_model import ForwardModel, Simulation
from pipeline.tomography.projectors import Projector


def coupled(
    healthy: np.ndarray, expected: np.ndarray, with_lesion: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Turn Poisson counts of one mean into those of another, which differ where the means do.

    Where the mean falls each count is kept with the ratio of the means, which is Poisson of the
    smaller mean; where it rises, Poisson counts of the difference are added. Both are exact.

    Parameters
    ----------
    healthy : array of int
        Poisson counts of the mean ``expected``.
    expected, with_lesion : arrays
        Means without and with lesions, of the same shape.

    Returns
    -------
    array of int64
        Poisson counts of the mean ``with_lesion``; the same as ``healthy`` where both are equal.
    """
    kept = np.ones(expected.shape)
    np.divide(with_lesion, expected, out=kept, where=with_lesion < expected)
    return rng.binomial(healthy, kept) + rng.poisson(np.maximum(with_lesion - expected, 0))


def lesion_sinogram(
    slices: Path,
    sinogram: Path,
    output: Path,
    dose: float,
    simulation: Simulation,
    projector: Projector,
) -> None:
    """Rule ``lesion_sinogram``: count twins at a dose.

    Scale, factors and background are those of the subject's own sinograms: with lesions and
    without, a unit of activity gives the same counts.

    Parameters
    ----------
    slices : Path
        Of rule ``lesions``.
    sinogram : Path
        Of rule ``sinogram``, of the same subject.
    output : Path
        Of kind `pipeline.storage.kinds.SINOGRAM`, in the order of ``slices``. Prompts of a twin
        with lesions are `coupled` to those without, which are drawn for slice, dose and draw.
    dose : float
        Part of all counts, in (0, 1].
    simulation : Simulation
    projector : Projector
        On the simulation grid.

    Raises
    ------
    InputError
        If the sinogram lacks a slice, or a file is damaged.
    """
    parts: dict[str, list[np.ndarray]] = {}
    model = ForwardModel(projector, simulation.psf_fwhm_mm)
    with hdf5.opened(slices, SLICES) as twins, hdf5.opened(sinogram, SINOGRAM) as measured:
        hdf5.check_shape(twins["activity"], (projector.grid.size, projector.grid.size))
        identity = identity_of(twins)
        draws = int(identity["draw"].max()) + 1
        seed, subject = int(twins.attrs["seed"]), str(twins.attrs["subject"])
        for start in range(0, len(identity["draw"]), 2 * draws):
            key = int(identity["rotation"][start]), int(identity["slice_index"][start])
            row = _row(measured, *key)
            alike = {n: hdf5.finite(measured[n], row) for n in ("factors", "background", "scale")}
            alike["background"] *= np.float32(dose)
            alike["scale"] *= np.float32(dose)
            healthy, changed = _trues(twins, start, model) * (alike["factors"] * alike["scale"])
            expected = (healthy + alike["background"]).astype(np.float64)
            # Lines that meet no lesion have the same mean to the last bit.
            with_lesion = np.maximum(expected + changed, 0)
            for draw in range(draws):
                rng = keyed_rng(seed, f"lesions {dose!r}", subject, *key, draw)
                counts = rng.poisson(expected)
                pair = np.stack([counts, coupled(counts, expected, with_lesion, rng)])
                parts.setdefault("prompts", []).append(pair.astype(np.uint32))
            for name, value in alike.items():
                copies = np.repeat(np.asarray(value)[None], 2 * draws, axis=0)
                parts.setdefault(name, []).append(copies)
        facts = {name: measured.attrs[name] for name in (*SUBJECT_FACTS, *SIMULATION_FACTS)}
        hdf5.write(
            output,
            SINOGRAM,
            {**{name: np.concatenate(found) for name, found in parts.items()}, **identity},
            hdf5.provenance(
                {
                    "dose": dose,
                    "lesions": twins.attrs["config_hash"],
                    "sinogram": measured.attrs["config_hash"],
                },
                projector=projector.name,
                device=str(projector.device),
                **facts,
                **({DOSE: dose} if dose < 1 else {}),
            ),
        )


def _trues(twins: h5py.File, row: int, model: ForwardModel) -> np.ndarray:
    """Line integrals (2, view, radial): of the slice without lesions, and what they change."""
    images = hdf5.finite(twins["activity"], np.s_[row : row + 2])
    images[1] -= images[0]
    projector = model.projector
    columns = projector.columns(images)
    return projector.sinograms([model.forward(columns, s) for s in range(projector.subsets)])


def _row(measured: h5py.File, rotation: int, slice_index: int) -> int:
    """Row of a slice in an open file."""
    found = hdf5.finite(measured["rotation"]) == rotation
    found &= hdf5.finite(measured["slice_index"]) == slice_index
    if not found.any():
        problem = f"lacks rotation {rotation}, slice {slice_index}"
        remedy = "delete it and run rule 'sinogram' again"
        raise InputError(measured.filename, problem, remedy)
    return int(np.flatnonzero(found)[0])
