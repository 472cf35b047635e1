"""The physics that simulation and reconstruction share: expected prompts of a stack of slices."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import scipy.sparse
import torch

from pipeline.geometry import Grid, field_of_view
from pipeline.projector import Projector, torch_csr

FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))


class ForwardModel:
    """Attenuated line integrals of a blurred image: x -> a A P x.

    A is the projector, P the Gaussian point spread (in the image), a the attenuation factors.

    Parameters
    ----------
    projector : Projector
    psf_fwhm_mm : float
        0 for no blurring.
    attenuation_factors : sequence of tensors (lor, slice) or (lor, 1), or None
        One a subset; None for no attenuation.
    """

    def __init__(
        self,
        projector: Projector,
        psf_fwhm_mm: float,
        attenuation_factors: Sequence[torch.Tensor] | None = None,
    ):
        self.projector = projector
        self._factors = attenuation_factors
        self._psf = None
        if psf_fwhm_mm > 0:
            inside = field_of_view(projector.ring, projector.grid)
            matrix = psf_matrix(projector.grid, psf_fwhm_mm, inside)
            self._psf = torch_csr(matrix, projector.device)

    def forward(self, columns: torch.Tensor, subset: int) -> torch.Tensor:
        """Expected trues (lor, slice) of images (pixel, slice)."""
        if self._psf is not None:
            columns = self._psf @ columns
        lors = self.projector.forward(columns, subset)
        return lors if self._factors is None else lors * self._factors[subset]

    def back(self, lors: torch.Tensor, subset: int) -> torch.Tensor:
        """Apply the adjoint of `forward`."""
        if self._factors is not None:
            lors = lors * self._factors[subset]
        columns = self.projector.back(lors, subset)
        return columns if self._psf is None else self._psf @ columns

    @cached_property
    def sensitivity(self) -> list[torch.Tensor]:
        """Each subset's back projection of ones: (pixel, slice), or (pixel, 1) for all slices."""
        ring, subsets = self.projector.ring, self.projector.subsets
        columns = 1 if self._factors is None else self._factors[0].shape[1]
        shape = (ring.views // subsets * ring.radial_bins, columns)
        ones = torch.ones(shape, device=self.projector.device)
        return [self.back(ones, subset) for subset in range(subsets)]


def psf_matrix(grid: Grid, fwhm_mm: float, inside: np.ndarray) -> scipy.sparse.csr_array:
    """Gaussian blurring of the pixels ``inside`` (y, x) as a symmetric matrix (pixel, pixel).

    The kernel ends at 4 standard deviations; its sum over an unbounded image is 1.
    """
    sigma = fwhm_mm / FWHM_PER_SIGMA / grid.pixel_mm
    reach = int(np.ceil(4 * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    shape = (grid.size, grid.size)
    blur = scipy.sparse.diags_array(kernel, offsets=offsets, shape=shape, format="csr")
    both = scipy.sparse.kron(blur, blur, format="csr").astype(np.float32)
    pixels = np.flatnonzero(inside)
    kept = scipy.sparse.csr_array(both)[pixels][:, pixels]
    kept.indices, kept.indptr = kept.indices.astype(np.int32), kept.indptr.astype(np.int32)
    return kept
