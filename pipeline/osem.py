"""Rule ``osem``: ordered-subsets expectation maximisation of many slices at once."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.nn.functional import threshold

from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import OSEM, SINOGRAM, SUBJECT_FACTS, identity_of
from pipeline.tomography.forward_model import ForwardModel, Simulation, smoothed
from pipeline.tomography.projectors import Projector

SLICES_AT_A_TIME = 32
"""Columns of the matrices: two cache lines; more slices leave a core's cache."""

MOST_COUNTED = 0.75
"""Part of the LORs up to which the others are left out, if nothing was counted on them."""

FEWEST_COUNTS = 1e-9
"""Expected counts below this are taken as this, so that 0 / 0 is 0."""

SMALLEST_PIXEL = 1e-20
"""Pixels (counts per mm) below this become 0. Outside the head they fall towards 0 at every update,
and arithmetic with the subnormal numbers that they would reach is an order of magnitude slower."""


LEAST_EXPLAINED = 0.95
"""Part of a plane's counts that an image of a scan should explain. A pixel on whose lines a subset
has no count is 0 from then on, so that with few counts and many subsets activity is lost."""


@dataclass(frozen=True)
class OsemSettings:
    """The configuration's ``osem``.

    Attributes
    ----------
    iterations : int
        Passes over all subsets.
    subsets : int
        Subsets of interleaved views; a divisor of the ring's views.
    """

    iterations: int
    subsets: int


def osem(
    model: ForwardModel,
    prompts: Sequence[torch.Tensor],
    background: Sequence[torch.Tensor],
    iterations: int,
) -> Iterator[torch.Tensor]:
    """Ordered subsets EM (Hudson and Larkin, IEEE TMI 13(4), 1994).

    Each subset s updates ``x <- x / (M_s^T 1) * M_s^T (y_s / (M_s x + r))``, starting from ones
    inside the field of view. With one subset this is MLEM.

    Parameters
    ----------
    model : ForwardModel
        M.
    prompts : sequence of tensors (lor, slice)
        y, one a subset.
    background : sequence of tensors (lor, slice)
        r, expected counts beside the trues.
    iterations : int
        Passes over all subsets.

    Yields
    ------
    tensor (pixel, slice)
        The image after each iteration, in counts per mm; always the same tensor.
    """
    subsets = range(model.projector.subsets)
    pixels, slices = len(model.sensitivity[0]), prompts[0].shape[1]
    image = torch.ones(pixels, slices, device=prompts[0].device)
    seen = [torch.where(part > 0, 1 / part, 0) for part in model.sensitivity]
    for _ in range(iterations):
        for subset in subsets:
            image *= _compared(model, image, prompts[subset], background[subset], subset)
            image *= seen[subset]
            threshold(image, SMALLEST_PIXEL, 0.0, inplace=True)
        yield image


def em_step(
    model: ForwardModel,
    image: torch.Tensor,
    prompts: Sequence[torch.Tensor],
    background: Sequence[torch.Tensor],
) -> torch.Tensor:
    """One step of EM with all counts (Shepp and Vardi, IEEE TMI 1(2), 1982), whatever the subsets.

    ``x <- x / (M^T 1) * M^T (y / (M x + r))`` never lowers the Poisson likelihood, and leaves 0
    where x is 0.

    Parameters
    ----------
    image : tensor (pixel, slice)
        x, not negative, in the model's unit.
    model, prompts, background
        As of `osem`.

    Returns
    -------
    tensor (pixel, slice)
        0 also where M^T 1 is 0: pixels that no count can come from.
    """
    subsets, compared = range(model.projector.subsets), torch.zeros_like(image)
    for subset in subsets:
        compared += _compared(model, image, prompts[subset], background[subset], subset)
    sensitivity = sum(model.sensitivity[1:], model.sensitivity[0])
    found = image * compared * torch.where(sensitivity > 0, 1 / sensitivity, 0)
    return threshold(found, SMALLEST_PIXEL, 0.0)


def _compared(
    model: ForwardModel,
    image: torch.Tensor,
    prompts: torch.Tensor,
    background: torch.Tensor,
    subset: int,
) -> torch.Tensor:
    """M_s^T (y_s / (M_s x + r_s)), (pixel, slice)."""
    expected = model.forward(image, subset).add_(background)
    expected.clamp_min_(FEWEST_COUNTS)
    return model.back(torch.div(prompts, expected, out=expected), subset)


def reconstruct(
    sinogram: Path,
    output: Path,
    settings: OsemSettings,
    simulation: Simulation,
    projector: Projector,
    filter_mm: float = 0.0,
) -> None:
    """Rule ``osem``: reconstruct a subject's slices.

    Parameters
    ----------
    settings : OsemSettings
    simulation : Simulation
        The attenuation and the resolution that were simulated are modelled here, and gaps.
    projector : Projector
        On the reconstruction grid, with the subsets of ``settings``.
    filter_mm : float
        Full width at half maximum of a Gaussian filter afterwards; 0 for none.
    """
    plain = ForwardModel(projector, simulation.psf_fwhm_mm)
    everything = not simulation.attenuation and projector.ring.counting.all()  # all factors are 1
    images = []
    with hdf5.opened(sinogram, SINOGRAM) as file:
        for name in ("prompts", "factors", "background"):
            hdf5.check_shape(file[name], (projector.ring.views, projector.ring.radial_bins))
        identity = identity_of(file)
        counted = _counted(file["prompts"])
        few = projector.of_lors(counted) if counted.mean() <= MOST_COUNTED else projector
        for part in _parts(len(identity["rotation"])):
            model = plain if everything else _with_factors(file, part, plain)
            image = _image(file, part, model.of_lors(few), settings.iterations, filter_mm)
            scale = hdf5.finite(file["scale"], part)
            images.append(image / scale[:, None, None])
        facts = {name: file.attrs[name] for name in SUBJECT_FACTS}
    hdf5.write(
        output,
        OSEM,
        {"osem": np.concatenate(images), **identity},
        hdf5.provenance(
            {
                "osem": said(settings, filter_mm),
                "simulation": asdict(simulation),
                "scanner": asdict(projector.ring),
                "grid": asdict(projector.grid),
            },
            projector=projector.name,
            device=str(projector.device),
            **facts,
        ),
    )


def said(settings: OsemSettings, filter_mm: float) -> dict[str, Any]:
    """Give the settings that decide images, as files of them say."""
    return asdict(settings) | ({"filter_mm": filter_mm} if filter_mm else {})


def reconstruct_scan(
    scan: h5py.File, settings: OsemSettings, model: ForwardModel, filter_mm: float = 0.0
) -> tuple[np.ndarray, list[str]]:
    """Reconstruct the images of an open file of `pipeline.storage.kinds.SCAN`.

    Parameters
    ----------
    model : ForwardModel
        Without factors, which the file has.
    filter_mm : float
        As of `reconstruct`.

    Returns
    -------
    images : array (slice, y, x) float32
        In counts per mm.
    doubts : list of str
        What is doubtful about them.

    Raises
    ------
    InputError
        If the file holds data that are no counts.
    """
    if not scan.attrs["likelihood"]:
        raise InputError(
            scan.filename,
            f"holds {scan.attrs.get('no_counts_because', 'no counts')}; OSEM takes the likelihood "
            "of counts",
            "give the prompts as measured, and corrections as factors, randoms and scatter; or FBP "
            "alone, with images: [fbp] in the scan's section",
        )
    images, explained = [], []
    for part in _parts(len(scan["factors"])):
        own = _with_factors(scan, part, model)
        images.append(_image(scan, part, own, settings.iterations, filter_mm))
        explained.append(_explained(scan, part, own, images[-1]))
    return np.concatenate(images), list(_doubts(np.concatenate(explained), settings.subsets))


def _explained(file: h5py.File, part: slice, model: ForwardModel, images: np.ndarray) -> np.ndarray:
    """Expected over measured counts of slices; of one without counts 1.

    Every image of MLEM explains all counts, and every image of OSEM those of the last subset.
    """
    columns = model.projector.columns(images)
    trues = sum(model.forward(columns, n).sum(dim=0) for n in range(model.projector.subsets))
    background, prompts = (
        hdf5.finite(file[name], part).sum(axis=(1, 2), dtype=np.float64)
        for name in ("background", "prompts")
    )
    expected = torch.as_tensor(trues).cpu().numpy() + background
    return np.divide(expected, prompts, out=np.ones_like(expected), where=prompts > 0)


def _doubts(explained: np.ndarray, subsets: int) -> Iterator[str]:
    if few := np.count_nonzero(explained < LEAST_EXPLAINED):
        yield (
            f"in {few} of {len(explained)} planes the image explains less than "
            f"{LEAST_EXPLAINED:.0%} of the counts, in one {explained.min():.0%}: too few for "
            f"{subsets} subsets, whose pixels stay 0 once they are; take fewer (osem.subsets)"
        )


def _parts(slices: int) -> Iterator[slice]:
    """Rows that are reconstructed together."""
    for start in range(0, slices, SLICES_AT_A_TIME):
        yield np.s_[start : start + SLICES_AT_A_TIME]


def _counted(prompts: h5py.Dataset) -> np.ndarray:
    """LORs (view, radial) that have a count in some slice; the others add nothing to any update."""
    found = [hdf5.finite(prompts, part).any(axis=0) for part in _parts(len(prompts))]
    return np.logical_or.reduce(found)


def _with_factors(file: h5py.File, part: slice, plain: ForwardModel) -> ForwardModel:
    return plain.times(_subsets(plain.projector, hdf5.finite(file["factors"], part)))


def _image(
    file: h5py.File, part: slice, model: ForwardModel, iterations: int, filter_mm: float
) -> np.ndarray:
    """Images (slice, y, x) of some rows, in counts per mm."""
    prompts, background = (
        _subsets(model.projector, hdf5.finite(file[name], part))
        for name in ("prompts", "background")
    )
    *_, image = osem(model, prompts, background, iterations)
    return model.projector.images(smoothed(image, filter_mm, model.projector))


def _subsets(projector: Projector, sinograms: np.ndarray) -> list[torch.Tensor]:
    return [projector.lors(sinograms, subset) for subset in range(projector.subsets)]
