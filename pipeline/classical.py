"""Rule ``classical``: a subject by filtered OSEM or MAP, with what the validation split chose."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import numpy as np
import torch

from pipeline.baselines import MAP, OSEM_FILTER
from pipeline.map import MapSettings, map_images
from pipeline.osem import SLICES_AT_A_TIME, osem
from pipeline.storage import hdf5
from pipeline.storage.files import check_readable
from pipeline.storage.kinds import DOSE, RECONSTRUCTION, SINOGRAM, identity_of
from pipeline.storage.system_errors import unreadable
from pipeline.tomography.forward_model import ForwardModel, Simulation, smoothed
from pipeline.tomography.physics import dose_of
from pipeline.tomography.projectors import Projector


@dataclass(frozen=True)
class FilterSettings:
    """What decides a filtered OSEM image.

    Attributes
    ----------
    iterations : int
        Passes over all subsets.
    fwhm_mm : float
        Full width at half maximum of the Gaussian filter; 0 for none.
    """

    iterations: int
    fwhm_mm: float


class Counts(NamedTuple):
    """Measured slices and their physics, as `pipeline.osem.osem` and `pipeline.map` take them.

    Attributes
    ----------
    plain : ForwardModel
        Without factors.
    factors : list of tensors (lor, slice), or None
        One a subset; None where all are 1.
    prompts, background : lists of tensors (lor, slice)
        Counts, one a subset.
    scale : tensor (1, slice)
        Counts per mm of an activity.
    """

    plain: ForwardModel
    factors: list[torch.Tensor] | None
    prompts: list[torch.Tensor]
    background: list[torch.Tensor]
    scale: torch.Tensor

    @property
    def of_counts(self) -> ForwardModel:
        """The model of images in counts per mm."""
        return self.plain if self.factors is None else self.plain.times(self.factors)

    @property
    def of_activity(self) -> ForwardModel:
        """The model of images in activity units."""
        ones = [torch.ones_like(self.scale)] * len(self.prompts)
        return self.plain.times([self.scale * part for part in self.factors or ones])


def counts_of(file: h5py.File, rows: Any, plain: ForwardModel) -> Counts:
    """Read rows of an open file of rule ``sinogram``; ``plain`` is the model without factors."""
    projector = plain.projector

    def subsets(name: str) -> list[torch.Tensor]:
        found = hdf5.finite(file[name], rows)
        return [projector.lors(found, subset) for subset in range(projector.subsets)]

    scale = torch.from_numpy(hdf5.finite(file["scale"], rows)).to(projector.device)[None]
    factors = subsets("factors")
    needed = any(bool((part != 1).any()) for part in factors)
    return Counts(
        plain, factors if needed else None, subsets("prompts"), subsets("background"), scale
    )


def osem_images(counts: Counts, iterations: int) -> Iterator[torch.Tensor]:
    """OSEM's image (pixel, slice) after each iteration, in activity units."""
    for image in osem(counts.of_counts, counts.prompts, counts.background, iterations):
        yield image / counts.scale


def _filtered(counts: Counts, settings: FilterSettings) -> torch.Tensor:
    *_, image = osem_images(counts, settings.iterations)
    return smoothed(image, settings.fwhm_mm, counts.plain.projector)


def _map(counts: Counts, settings: MapSettings) -> torch.Tensor:
    *_, found = map_images(counts.of_activity, counts.prompts, counts.background, settings)
    return found.image


METHODS: dict[str, tuple[type, Callable[[Counts, Any], torch.Tensor]]] = {
    OSEM_FILTER: (FilterSettings, _filtered),
    MAP: (MapSettings, _map),
}
"""Settings of each method, and its images (pixel, slice) in activity units."""

CHOSEN, CURVE = "chosen", "curve"
"""Of a method in the file of rule ``classical_settings``: its settings, and all compared ones."""

T = TypeVar("T")


def read_settings(path: Path, name: str) -> Any:
    """Read a method's settings from the file of rule ``classical_settings``.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    return _read(path, name, lambda found: METHODS[name][0](**found[CHOSEN]))


def compared_values(path: Path, name: str, setting: str) -> list[float]:
    """Read the values of a method's setting that rule ``classical_settings`` compared, ascending.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    return _read(path, name, lambda found: sorted({float(one[setting]) for one in found[CURVE]}))


def _read(path: Path, name: str, parse: Callable[[Any], T]) -> T:
    remedy = f"delete it and make it again: snakemake --cores all -- {path}"
    check_readable(path, "file of settings", remedy)
    try:
        return parse(json.loads(path.read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"holds no settings of {name} ({error!r})"
        raise unreadable(path, error, problem, remedy) from error


def reconstruct(
    name: str,
    sinogram: Path,
    settings: Path,
    output: Path,
    simulation: Simulation,
    projector: Projector,
) -> None:
    """Reconstruct a subject's slices, in the order of the sinogram and so of the shard.

    Parameters
    ----------
    name : str
        Of `METHODS`.
    settings : Path
        From rule ``classical_settings``.
    output : Path
        A file of kind `pipeline.storage.kinds.RECONSTRUCTION`.
    simulation : Simulation
        The resolution that was simulated is modelled, too.
    projector : Projector
        On the reconstruction grid.
    """
    chosen, images = read_settings(settings, name), []
    plain = ForwardModel(projector, simulation.psf_fwhm_mm)
    with hdf5.opened(sinogram, SINOGRAM) as file:
        check_bins(file, projector)
        identity = identity_of(file)
        del identity["rotation_deg"]
        for start in range(0, len(identity["rotation"]), SLICES_AT_A_TIME):
            counts = counts_of(file, np.s_[start : start + SLICES_AT_A_TIME], plain)
            images.append(projector.images(METHODS[name][1](counts, chosen)))
        whose = {"subject": str(file.attrs["subject"]), DOSE: dose_of(file)}
    used = {name: asdict(chosen), "simulation": asdict(simulation)}
    used |= {"scanner": asdict(projector.ring), "grid": asdict(projector.grid)}
    facts = _facts(name) | {"projector": projector.name, "device": str(projector.device)}
    hdf5.write(
        output,
        RECONSTRUCTION,
        {"image": np.concatenate(images), **identity},
        hdf5.provenance(used, **whose, **facts),
    )


def check_bins(file: h5py.File, projector: Projector) -> None:
    """Refuse sinograms of another shape than the projector's."""
    for name in ("prompts", "factors", "background"):
        hdf5.check_shape(file[name], (projector.ring.views, projector.ring.radial_bins))


def _facts(name: str) -> dict[str, Any]:
    """What files of this kind say of how an image came about, where there is no network."""
    nothing = float("nan")
    return {
        **{"model": name, "method": name, "conditioning": "", "condition_dropout": nothing},
        **{"weights": "", "weights_sha256": "", "frozen_sha256": "", "epoch": -1},
        **{"parameters": 0, "activity_scale": nothing, "samples": 1, "sampler": "", "steps": 1},
        **{"eta": nothing, "guidance": nothing, "seed": -1, "training_seed": -1, "doubts": ""},
    }
