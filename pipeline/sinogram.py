"""Rule ``sinogram``: noisy prompts of the slices, as the scanner would count them."""

from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np

from pipeline.jobs.seeds import keyed_rng
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SINOGRAM, SLICES, SUBJECT_FACTS, identity_of
from pipeline.tomography.forward_model import ForwardModel, Simulation
from pipeline.tomography.physics import geometry_text
from pipeline.tomography.projectors import Projector

PER_CM_TO_PER_MM = 0.1


def volume_scale(trues: np.ndarray, prompts_per_slice: float, background_fraction: float) -> float:
    """Scale that gives a volume's slices the wanted prompts on average.

    Parameters
    ----------
    trues : array (slice, view, radial)
        Line integrals of all slices of one volume: they keep their relative activity.
    prompts_per_slice : float
        Mean over the volume, background included.
    background_fraction : float
        Part of the prompts that is background, in [0, 1).
    """
    mean = trues.sum(axis=(1, 2), dtype=np.float64).mean()
    return prompts_per_slice * (1 - background_fraction) / mean


def uniform_background(
    trues: np.ndarray, background_fraction: float, counting: np.ndarray
) -> np.ndarray:
    """Expected background (slice, view, radial) that makes up a fraction of each slice's prompts.

    Parameters
    ----------
    trues : array (slice, view, radial)
    background_fraction : float
        In [0, 1).
    counting : array (view, radial) of bool
        Bins that have it, alike in a slice.
    """
    total = trues.sum(axis=(1, 2), dtype=np.float64)
    level = total * background_fraction / (1 - background_fraction) / counting.sum()
    return level.astype(np.float32)[:, None, None] * counting


def poisson_counts(
    expected: np.ndarray, seed: int, subject: str, rotation: int, slice_index: int
) -> np.ndarray:
    """Poisson counts (view, radial) uint32 of one slice; the draw belongs to that slice alone."""
    rng = keyed_rng(seed, "poisson", subject, rotation, slice_index)
    return rng.poisson(expected.astype(np.float64)).astype(np.uint32)


def attenuation_factors(projector: Projector, attenuation_per_cm: np.ndarray) -> np.ndarray:
    """Factors exp(-mu L), (slice, view, radial), of attenuation images (slice, y, x) in 1/cm."""
    return np.exp(-projector.project(attenuation_per_cm * np.float32(PER_CM_TO_PER_MM)))


def sinogram(slices: Path, output: Path, simulation: Simulation, projector: Projector) -> None:
    """Rule ``sinogram``: project, attenuate, add background and count, a rotation at a time.

    Parameters
    ----------
    simulation : Simulation
    projector : Projector
        On the simulation grid.
    """
    arrays: dict[str, np.ndarray] = {}
    with hdf5.opened(slices, SLICES) as file:
        for name in ("activity", "attenuation"):
            hdf5.check_shape(file[name], (projector.grid.size, projector.grid.size))
        rotations = hdf5.finite(file["rotation"])
        for rotation in np.unique(rotations):
            rows = np.flatnonzero(rotations == rotation)
            volume = np.s_[rows[0] : rows[-1] + 1]
            for name, array in _acquire(file, volume, simulation, projector).items():
                if name not in arrays:
                    arrays[name] = np.empty((len(rotations), *array.shape[1:]), array.dtype)
                arrays[name][volume] = array
        facts = {name: file.attrs[name] for name in SUBJECT_FACTS}
        oversampling = file.attrs["oversampling"]
    hdf5.write(
        output,
        SINOGRAM,
        arrays,
        hdf5.provenance(
            {
                "simulation": asdict(simulation),
                "scanner": asdict(projector.ring),
                "grid": asdict(projector.grid),
            },
            projector=projector.name,
            device=str(projector.device),
            oversampling=oversampling,
            geometry=geometry_text(projector.ring),
            attenuation=simulation.attenuation,
            psf_fwhm_mm=simulation.psf_fwhm_mm,
            background_fraction=simulation.background_fraction,
            **facts,
        ),
    )


def _acquire(
    file: h5py.File, volume: slice, simulation: Simulation, projector: Projector
) -> dict[str, np.ndarray]:
    """Datasets of `SINOGRAM` for the slices ``volume`` of an open file of `SLICES`."""
    identity = identity_of(file, volume)
    shape = (len(identity["rotation"]), projector.ring.views, projector.ring.radial_bins)
    model = ForwardModel(projector, simulation.psf_fwhm_mm)
    columns = projector.columns(hdf5.finite(file["activity"], volume))
    trues = projector.sinograms([model.forward(columns, s) for s in range(projector.subsets)])
    counting = projector.ring.counting
    factors = np.ones(shape, dtype=np.float32)
    if simulation.attenuation:
        attenuation_per_cm = hdf5.finite(file["attenuation"], volume)
        _check_attenuation(file, attenuation_per_cm)
        factors = attenuation_factors(projector, attenuation_per_cm)
    factors *= counting
    trues *= factors
    fraction = simulation.background_fraction
    scale = volume_scale(trues, simulation.prompts_per_slice, fraction)
    trues *= np.float32(scale)
    background = uniform_background(trues, fraction, counting)
    expected = trues + background
    seed, subject = int(file.attrs["seed"]), file.attrs["subject"]
    prompts = [
        poisson_counts(image, seed, subject, int(rotation), int(index))
        for image, rotation, index in zip(
            expected, identity["rotation"], identity["slice_index"], strict=True
        )
    ]
    return {
        "prompts": np.stack(prompts),
        "factors": factors,
        "background": background,
        "scale": np.full(shape[0], scale, dtype=np.float32),
        **identity,
    }


def _check_attenuation(file: h5py.File, attenuation_per_cm: np.ndarray) -> None:
    """Refuse to attenuate by nothing: own images need not have a map."""
    if not attenuation_per_cm.any():
        raise InputError(
            "simulation.attenuation",
            f"is true, and {file.attrs['subject']} has no attenuation map",
            f"give {file.attrs['subject']}_mu beside its image, or set it to false",
        )
