"""Data consistency: estimates of images are pulled towards the counts that were measured.

Each step of sampling estimates x_0, which a network alone has made; EM steps with the prompts raise
its likelihood before the sampler goes on (`sampling.consistency`).
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.dataset import subject_of
from models.methods.base import Correct
from models.settings import Consistency
from pipeline.osem import em_step
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.hdf5 import Kind
from pipeline.storage.kinds import SHARD, SINOGRAM
from pipeline.tomography import projectors
from pipeline.tomography.forward_model import ForwardModel
from pipeline.tomography.geometry import SliceSettings, field_of_view
from pipeline.tomography.physics import dose_of
from pipeline.tomography.scanners import scanner_from


class Counts(NamedTuple):
    """Measured counts of N slices, as `pipeline.osem.em_step` takes them.

    Attributes
    ----------
    model : ForwardModel
        Expected trues of images in activity units.
    prompts, background : lists of tensors (lor, N)
        Counts, one a subset.
    """

    model: ForwardModel
    prompts: list[Tensor]
    background: list[Tensor]


class Measurements:
    """Where the counts of slices are found, and how they are modelled.

    Parameters
    ----------
    paths : sequence of Path
        Files of one kind, of shards in their order.
    plain : ForwardModel
        Of images in counts per mm, without factors, which the files have.
    kind : Kind
        `pipeline.storage.kinds.SINOGRAM` or `pipeline.storage.kinds.SCAN`.
    scale : float or None
        Counts per mm of an activity, where the files do not have it.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        plain: ForwardModel,
        kind: Kind = SINOGRAM,
        scale: float | None = None,
    ):
        self.paths, self._plain, self._kind, self._scale = list(paths), plain, kind, scale

    @classmethod
    def simulated(
        cls, sinograms: Sequence[Path], matrix: str | None, physics: Mapping[str, Any]
    ) -> "Measurements":
        """Give those of sinograms of rule ``sinogram``, modelled as rule ``osem`` does.

        Parameters
        ----------
        matrix : str or None
            File of rule ``system_matrix``, which the sparse projector needs.
        physics : mapping
            ``scanner`` and ``slices`` of the configuration, ``psf_fwhm_mm``, ``projector``.

        Raises
        ------
        InputError
            If the matrix is damaged or was made for another geometry.
        """
        grid, ring = SliceSettings(**physics["slices"]).grid, scanner_from(physics["scanner"])
        projector = projectors.load(physics["projector"], ring, grid, None, matrix)
        return cls(sinograms, ForwardModel(projector, physics["psf_fwhm_mm"]))

    def used(self) -> dict[str, Any]:
        """Give what models the measurement, for the files of images that it decides."""
        projector = self._plain.projector
        return {
            "projector": projector.name,
            "scanner": asdict(projector.ring),
            "grid": asdict(projector.grid),
            "psf_fwhm_mm": self._plain.psf_fwhm_mm,
        }

    def of(self, number: int) -> "Measurements":
        """Give those of one file."""
        return Measurements([self.paths[number]], self._plain, self._kind, self._scale)

    def check(self, shards: Sequence[Path]) -> None:
        """Refuse sinograms that are not of the shards.

        Raises
        ------
        InputError
        """
        for path, shard in zip(self.paths, shards, strict=True):
            with hdf5.opened(path, self._kind) as one, hdf5.opened(shard, SHARD) as other:
                same = subject_of(one) == subject_of(other) and dose_of(one) == dose_of(other)
                if not (same and hdf5.same_slices(one, other)):
                    problem = f"is not the measurement of {shard}"
                    remedy = f"make both again: snakemake --cores all -- {path} {shard}"
                    raise InputError(path, problem, remedy)

    def counts(self, places: Sequence[tuple[int, int]]) -> Counts:
        """Read slices, each the number of a file and a row in it, in any order.

        Raises
        ------
        InputError
            If a file is missing, damaged, or of another scanner.
        """
        projector = self._plain.projector
        ring, subsets = projector.ring, range(projector.subsets)
        with ExitStack() as stack:
            files = {
                number: stack.enter_context(hdf5.opened(self.paths[number], self._kind))
                for number in dict.fromkeys(number for number, _ in places)
            }

            def read(name: str) -> np.ndarray:
                for file in files.values():
                    hdf5.check_shape(file[name], (ring.views, ring.radial_bins))
                return np.stack([hdf5.finite(files[number][name], row) for number, row in places])

            sinograms = {name: read(name) for name in ("prompts", "factors", "background")}
            scale = [
                hdf5.finite(files[number]["scale"], row) if self._scale is None else self._scale
                for number, row in places
            ]
        sinograms["factors"] *= np.array(scale, np.float32)[:, None, None]
        prompts, factors, background = (
            [projector.lors(found, subset) for subset in subsets] for found in sinograms.values()
        )
        return Counts(self._plain.times(factors), prompts, background)

    def consistent(
        self, places: Sequence[tuple[int, int]], settings: Consistency, activity: float
    ) -> Correct:
        """Give what pulls images of slices towards their counts.

        Parameters
        ----------
        places
            See `counts`.
        settings : Consistency
            By which it is on.
        activity : float
            Of an image value of 1.

        Returns
        -------
        callable
            Of images (N, 1, size, size) in [0, 1] units.
        """
        counts = self.counts(places)

        def correct(images: Tensor, done: float) -> Tensor:
            if done < settings.start:
                return images
            with torch.autocast(images.device.type, enabled=False):
                return pulled(images, counts, settings, activity)

        return correct


def pulled(images: Tensor, counts: Counts, settings: Consistency, activity: float) -> Tensor:
    """Bring images nearer to their counts: x + strength (EM(x) - x).

    EM keeps the sign of what it is given, so negative pixels are 0 for it, and where an image is 0
    it leaves 0: the network has said that nothing is there. What the counts say nothing about, the
    pixels beyond the field of view or on no line that counts, stays as it is. The result may exceed
    the range of training, where the counts do.

    Parameters
    ----------
    images : Tensor
        (N, 1, size, size), in units of ``activity``.
    counts : Counts
        Of the same N slices.
    settings : Consistency
    activity : float
        Of an image value of 1.

    Returns
    -------
    Tensor
        As the images.
    """
    projector = counts.model.projector
    inside = np.flatnonzero(field_of_view(projector.ring, projector.grid))
    pixels = torch.from_numpy(inside).to(images.device)
    before = images.flatten(1)[:, pixels]
    columns = (before.T * activity).clamp_min(0).to(projector.device, torch.float32).contiguous()
    for _ in range(settings.steps):
        columns = em_step(counts.model, columns, counts.prompts, counts.background)
    seen = torch.stack(counts.model.sensitivity).sum(dim=0).T.to(images.device) > 0
    change = torch.where(seen, columns.T.to(before) / activity - before, 0)
    after = images.flatten(1).clone()
    after[:, pixels] = before + settings.strength * change
    return after.view_as(images)
