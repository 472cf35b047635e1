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

BLOCK = 4096
"""Pixels of every slice that are compared at a time: as many as a core's cache has room for, and so
many that operations are worth their calls."""


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


class _Block(NamedTuple):
    """Where pairs of neighbours lie: some lines, of which a pixel j each, and one direction to k.

    ``first`` and ``second`` are the places (y, x) of j and k, as wide as the field of view is
    there; ``weight`` is w; ``seen`` (line, column, 1) is 1 where both are in the field of view.
    """

    first: tuple[slice, slice]
    second: tuple[slice, slice]
    weight: float
    seen: torch.Tensor


class _Pairs(NamedTuple):
    """What is common to pairs of neighbours, (line, column, slice) each."""

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
        self._pixels = torch.from_numpy(np.flatnonzero(inside)).to(device)
        self._blocks = list(_blocks(inside, device))

    def value(self, columns: torch.Tensor) -> torch.Tensor:
        """R of each slice: (slice,), float64, in the image's unit."""
        total = torch.zeros(columns.shape[1], dtype=torch.float64, device=columns.device)
        for block, pairs in self._pairs(columns):
            costs = pairs.relative.square_().mul_(pairs.sum)
            total += block.weight * costs.flatten(0, 1).sum(dim=0, dtype=torch.float64)
        return total

    def gradient(self, columns: torch.Tensor) -> torch.Tensor:
        """Derivatives of R by the pixels: (pixel, slice), without unit.

        With q = (x_j - x_k) / sum_jk a pair's by x_j is w q (2 - gamma |q| - q), and by x_k
        -w q (2 - gamma |q| + q).
        """
        image = columns.new_zeros(*self._shape, columns.shape[1])
        for block, (relative, _) in self._pairs(columns):
            squared = relative.square()
            odd = relative.abs().mul_(-self._gamma).add_(2).mul_(relative)
            image[block.first].add_(odd - squared, alpha=block.weight)
            image[block.second].sub_(odd.add_(squared), alpha=block.weight)
        return image.flatten(0, 1)[self._pixels]

    def curvature(self, columns: torch.Tensor) -> torch.Tensor:
        """Diagonal (pixel, slice) that is at least the Hessian of R at the image, per unit.

        A pair's Hessian is 2 w v v^T / sum_jk with v = (b, -a), b = 1 - gamma |q| - q,
        a = 1 - gamma |q| + q: at most the diagonal of its rows' absolute sums, which are
        2 w (a + b) b / sum_jk and 2 w (a + b) a / sum_jk.
        """
        image = columns.new_zeros(*self._shape, columns.shape[1])
        for block, (relative, total) in self._pairs(columns):
            rest = relative.abs().mul_(-self._gamma).add_(1)
            common = rest.div(total).mul_(block.seen)
            image[block.first].add_((rest - relative).mul_(common), alpha=4 * block.weight)
            image[block.second].add_(rest.add_(relative).mul_(common), alpha=4 * block.weight)
        return image.flatten(0, 1)[self._pixels]

    def _pairs(self, columns: torch.Tensor) -> Iterator[tuple[_Block, _Pairs]]:
        """Give all pairs of neighbours, a block at a time."""
        image = columns.new_zeros(*self._shape, columns.shape[1])
        # Half of epsilon in each pixel: differences stay, sums have all of it.
        image.flatten(0, 1)[self._pixels] = columns + self._epsilon / 2
        for block in self._blocks:
            first, second = image[block.first], image[block.second]
            relative, total = first - second, first + second
            total.add_(relative.abs(), alpha=self._gamma).clamp_min_(self._epsilon)
            yield block, _Pairs(relative.div_(total).mul_(block.seen), total)


def _blocks(inside: np.ndarray, device: torch.device) -> Iterator[_Block]:
    """Give every pair of neighbours in the field of view once."""
    height, width = inside.shape
    lines = max(1, BLOCK // width)
    for start in range(0, height, lines):
        for down, right in OFFSETS:
            end = min(start + lines, height - down)
            columns = np.flatnonzero(inside[start : end + down].any(axis=0))
            if end <= start or not len(columns):
                continue
            left = max(int(columns[0]), -right)
            stop = min(int(columns[-1]) + 1, width - right)
            first = np.s_[start:end, left:stop]
            second = np.s_[start + down : end + down, left + right : stop + right]
            seen = torch.from_numpy(inside[first] & inside[second]).to(device).float()[..., None]
            yield _Block(first, second, 1 / float(np.hypot(down, right)), seen)
