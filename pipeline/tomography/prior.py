"""The relative difference prior: what MAP reconstruction penalises beside the counts' likelihood.

J. Nuyts, D. Beque, P. Dupont, L. Mortelmans, "A concave prior penalizing relative differences for
maximum-a-posteriori reconstruction in emission tomography", IEEE TNS 49(1), 2002.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

OFFSETS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Steps (y, x) to half of a pixel's 8 neighbours in the slice: each pair of pixels comes once."""

STRIP = 8
"""Lines of a stack of slices that are compared at a time: few enough for a core's cache."""


@dataclass(frozen=True)
class PriorSettings:
    """Constants of the relative difference prior.

    Attributes
    ----------
    gamma : float
        From 0 up, without unit: how much less large relative differences cost than with 0.
    epsilon : float
        Above 0, in the image's unit: below it differences cost as their squares, whatever the
        activity is.
    """

    gamma: float
    epsilon: float


class _Pairs(NamedTuple):
    """Neighbours j and k of some lines: (line, column, slice) each, and what is common to them."""

    first: tuple[slice, slice]
    second: tuple[slice, slice]
    weight: float  # w = 1 / distance in pixels
    relative: torch.Tensor  # (x_j - x_k) / sum; 0 where one of them is not seen
    sum: torch.Tensor  # x_j + x_k + gamma |x_j - x_k| + epsilon


class RelativeDifferencePrior:
    """R(x), the sum over pairs of neighbours of w (x_j - x_k)^2 / sum_jk.

    sum_jk = x_j + x_k + gamma |x_j - x_k| + epsilon. Neighbours are the 8 in the slice, and w is
    one over their distance in pixels. Pixels outside the field of view are nobody's neighbours. R
    is convex for x >= 0, and homogeneous: R(c x) with c epsilon is c R(x) with epsilon.

    Images are matrices (pixel, slice) of the pixels ``inside``, as in
    `pipeline.tomography.projectors`, of any unit and type; each slice has a prior of its own.

    Parameters
    ----------
    settings : PriorSettings
    inside : array (y, x) of bool
        The field of view, see `pipeline.tomography.geometry.field_of_view`.
    device : torch.device
    """

    def __init__(self, settings: PriorSettings, inside: np.ndarray, device: torch.device):
        self._gamma, self._epsilon = settings.gamma, settings.epsilon
        self._shape = inside.shape
        self._inside = torch.from_numpy(inside).to(device)
        self._pixels = torch.from_numpy(np.flatnonzero(inside)).to(device)

    def value(self, columns: torch.Tensor) -> torch.Tensor:
        """R of each slice: (slice,), float64, in the image's unit."""
        total = torch.zeros(columns.shape[1], dtype=torch.float64, device=columns.device)
        for pairs in self._pairs(columns):
            costs = pairs.relative.square_().mul_(pairs.sum)
            total += pairs.weight * costs.flatten(0, 1).sum(dim=0, dtype=torch.float64)
        return total

    def gradient(self, columns: torch.Tensor) -> torch.Tensor:
        """Derivatives of R by the pixels: (pixel, slice), without unit.

        With q = (x_j - x_k) / sum_jk a pair's by x_j is w q (2 - gamma |q| - q), and by x_k
        -w q (2 - gamma |q| + q).
        """
        image = columns.new_zeros(*self._shape, columns.shape[1])
        for pairs in self._pairs(columns):
            squared = pairs.relative.square()
            odd = pairs.relative.abs().mul_(-self._gamma).add_(2).mul_(pairs.relative)
            image[pairs.first].add_(odd - squared, alpha=pairs.weight)
            image[pairs.second].sub_(odd.add_(squared), alpha=pairs.weight)
        return image.flatten(0, 1)[self._pixels]

    def curvature(self, columns: torch.Tensor) -> torch.Tensor:
        """Diagonal (pixel, slice) that is at least the Hessian of R at the image, per unit.

        A pair's Hessian is 2 w v v^T / sum_jk with v = (b, -a), b = 1 - gamma |q| - q,
        a = 1 - gamma |q| + q: at most the diagonal of its rows' absolute sums, which are
        2 w (a + b) b / sum_jk and 2 w (a + b) a / sum_jk.
        """
        image = columns.new_zeros(*self._shape, columns.shape[1])
        for pairs in self._pairs(columns):
            rest = pairs.relative.abs().mul_(-self._gamma).add_(1)
            seen = self._seen(pairs.first) & self._seen(pairs.second)
            common = rest.div(pairs.sum).mul_(seen)
            image[pairs.first].add_((rest - pairs.relative).mul_(common), alpha=4 * pairs.weight)
            image[pairs.second].add_(rest.add_(pairs.relative).mul_(common), alpha=4 * pairs.weight)
        return image.flatten(0, 1)[self._pixels]

    def _seen(self, place: tuple[slice, slice]) -> torch.Tensor:
        return self._inside[place][..., None]

    def _pairs(self, columns: torch.Tensor) -> Iterator[_Pairs]:
        """Give all pairs of neighbours, some lines and one direction at a time."""
        image = columns.new_zeros(*self._shape, columns.shape[1])
        image.flatten(0, 1)[self._pixels] = columns
        height, width = self._shape
        for start in range(0, height, STRIP):
            for down, right in OFFSETS:
                end = min(start + STRIP, height - down)
                if end <= start:
                    continue
                first = np.s_[start:end, max(0, -right) : width - max(0, right)]
                second = np.s_[start + down : end + down, max(0, right) : width - max(0, -right)]
                difference = image[first] - image[second]
                total = image[first] + image[second]
                total.add_(self._epsilon).add_(difference.abs(), alpha=self._gamma)
                difference.div_(total).mul_(self._seen(first) & self._seen(second))
                yield _Pairs(first, second, 1 / float(np.hypot(down, right)), difference, total)
