"""The physics that simulation and reconstruction share: expected prompts of a stack of slices."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
import torch

from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.projectors import Projector, torch_csr

FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))

STRIP = 8
"""Lines of a stack of slices that are blurred at a time: few enough for a core's cache."""


@dataclass(frozen=True)
class Simulation:
    """The configuration's ``simulation``: physics of the measurement, which OSEM models as well.

    Attributes
    ----------
    prompts_per_slice : float
        Mean over a volume's slices, background included, in counts.
    attenuation : bool
        Whether the tissue attenuates.
    psf_fwhm_mm : float
        Full width at half maximum of the Gaussian resolution; 0 for none.
    background_fraction : float
        Part of the prompts that is uniform background, in [0, 1).
    oversampling : int
        Pixels of the simulation grid along one side of a reconstruction pixel.
    """

    prompts_per_slice: float
    attenuation: bool
    psf_fwhm_mm: float
    background_fraction: float
    oversampling: int


class ForwardModel:
    """Line integrals of a blurred image, of which a part is counted: x -> a A P x.

    A is the projector, P the Gaussian point spread (in the image), a the factors: of attenuation,
    of normalisation, 0 in gaps.

    Parameters
    ----------
    projector : Projector
    psf_fwhm_mm : float
        0 for no blurring.
    factors : sequence of tensors (lor, slice) or (lor, 1), or None
        One a subset; None if all are 1.
    """

    def __init__(
        self,
        projector: Projector,
        psf_fwhm_mm: float,
        factors: Sequence[torch.Tensor] | None = None,
    ):
        self.projector, self.psf_fwhm_mm = projector, psf_fwhm_mm
        self._factors = factors
        self._psf = None
        if psf_fwhm_mm > 0:
            inside = field_of_view(projector.ring, projector.grid)
            self._psf = PointSpread(projector.grid, psf_fwhm_mm, inside, projector.device)

    def times(self, factors: Sequence[torch.Tensor]) -> "ForwardModel":
        """Give the same model with other factors."""
        other = copy(self)
        other.__dict__.pop("sensitivity", None)  # computed once, of these factors
        other._factors = factors
        return other

    def of_lors(self, few: Projector) -> "ForwardModel":
        """Give the same model of fewer LORs, with the sensitivity of all.

        Parameters
        ----------
        few : Projector
            From `Projector.of_lors` of the model's.
        """
        other = copy(self)
        other.sensitivity = self.sensitivity
        other.projector = few
        if self._factors is not None:
            other._factors = [few.take(part, n) for n, part in enumerate(self._factors)]
        return other

    def forward(self, columns: torch.Tensor, subset: int) -> torch.Tensor:
        """Expected trues (lor, slice) of images (pixel, slice)."""
        if self._psf is not None:
            columns = self._psf(columns)
        lors = self.projector.forward(columns, subset)
        return lors if self._factors is None else lors * self._factors[subset]

    def back(self, lors: torch.Tensor, subset: int) -> torch.Tensor:
        """Apply the adjoint of `forward`."""
        if self._factors is not None:
            lors = lors * self._factors[subset]
        columns = self.projector.back(lors, subset)
        return columns if self._psf is None else self._psf(columns)

    @cached_property
    def sensitivity(self) -> list[torch.Tensor]:
        """Each subset's back projection of ones: (pixel, slice), or (pixel, 1) for all slices."""
        ring, subsets = self.projector.ring, self.projector.subsets
        columns = 1 if self._factors is None else self._factors[0].shape[1]
        shape = (ring.views // subsets * ring.radial_bins, columns)
        ones = torch.ones(shape, device=self.projector.device)
        return [self.back(ones, subset) for subset in range(subsets)]


class PointSpread:
    """Gaussian blurring of the pixels ``inside``: symmetric, and so its own adjoint.

    A Gaussian separates, so the image is blurred along y, then along x. The kernel ends at 4
    standard deviations along each; its sum over an unbounded image is 1, and what it spreads beyond
    the pixels ``inside`` is lost.

    Parameters
    ----------
    grid : Grid
    fwhm_mm : float
        Full width at half maximum, above 0.
    inside : array (y, x) of bool
    device : torch.device
    """

    def __init__(self, grid: Grid, fwhm_mm: float, inside: np.ndarray, device: torch.device):
        sigma = fwhm_mm / FWHM_PER_SIGMA / grid.pixel_mm
        reach = int(np.ceil(4 * sigma))
        offsets = np.arange(-reach, reach + 1)
        kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
        kernel /= kernel.sum()
        across = np.abs(offsets) < grid.size  # a wider kernel finds no pixel there
        line = scipy.sparse.diags_array(
            kernel[across].astype(np.float32),
            offsets=offsets[across],
            shape=(grid.size, grid.size),
            format="csr",
        )
        self._line = torch_csr(line, device)
        self._pixels = torch.from_numpy(np.flatnonzero(inside)).to(device)
        self._size = grid.size

    def __call__(self, columns: torch.Tensor) -> torch.Tensor:
        """Blur images (pixel, slice)."""
        shape = (self._size, self._size, columns.shape[1])
        image, blurred = columns.new_zeros(shape), columns.new_empty(shape)
        image.flatten(0, 1)[self._pixels] = columns
        for _ in range(2):  # each time along the first axis, which becomes the second
            strips = zip(image.split(STRIP, dim=1), blurred.split(STRIP, dim=0), strict=True)
            for before, after in strips:
                along = self._line @ before.flatten(1)
                after.copy_(along.unflatten(1, before.shape[1:]).transpose(0, 1))
            image, blurred = blurred, image
        return image.flatten(0, 1)[self._pixels]


def smoothed(image: torch.Tensor, fwhm_mm: float, projector: Projector) -> torch.Tensor:
    """Smooth an image (pixel, slice) by a Gaussian; 0 mm leaves it as it is."""
    if fwhm_mm == 0:
        return image
    inside = field_of_view(projector.ring, projector.grid)
    return PointSpread(projector.grid, fwhm_mm, inside, projector.device)(image)
