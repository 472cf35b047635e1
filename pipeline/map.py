"""Maximum a posteriori (MAP) images of many slices at once: likelihood and relative differences.

What is minimised is Phi(x) = sum_i (p_i - y_i log p_i) + beta R(x) over x >= 0, with p = M x + r
the expected counts and R of `pipeline.tomography.prior`. Everything is in activity units, for M has
the sinogram's ``scale`` in it: beta (per activity) and epsilon say the same at all count levels.

The method is preconditioned SVRG, ordered subsets with a variance-reduced gradient: R. Johnson and
T. Zhang, NeurIPS 2013; for PET, G. Twyman et al., IEEE TMI 42(1), 2023. Twice through the subsets,
each update takes the gradient of one subset, corrected by the subset's and the whole gradient at a
fixed image; then the next fixed image is extrapolated (Y. Nesterov, 1983). It is kept only where it
has a smaller Phi, so Phi never rises; and as corrected gradients vanish at the minimum and nowhere
else, no step needs to be relaxed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.functional import threshold

from pipeline.osem import FEWEST_COUNTS, SMALLEST_PIXEL, osem
from pipeline.tomography.forward_model import ForwardModel
from pipeline.tomography.geometry import field_of_view
from pipeline.tomography.prior import PriorSettings, RelativeDifferencePrior

OSEM_ITERATIONS = 2
"""Of the image to start from."""

INNER_PASSES = 2
"""Passes over the subsets between two gradients of all data."""

PASSES = 1 + INNER_PASSES
"""Forward and back projections of all data that an iteration takes."""

MOVABLE = 1e-3
"""Part of the slice's mean by which every pixel counts as brighter in the preconditioner: without
it, one at 0 could not leave it."""

SHRINK = 0.1
"""A pixel keeps at least this part of itself in an update. Expected counts so stay above 0, where
the likelihood of a counted prompt is."""


@dataclass(frozen=True)
class MapSettings:
    """What decides a MAP image.

    Attributes
    ----------
    beta : float
        Weight of the prior, per activity.
    gamma, epsilon : float
        See `pipeline.tomography.prior.PriorSettings`; epsilon in activity units.
    iterations : int
        Each takes `PASSES` passes over the data.
    """

    beta: float
    gamma: float
    epsilon: float
    iterations: int


class Iterate(NamedTuple):
    """An image (pixel, slice) in activity units, and Phi of each slice but for a constant."""

    image: torch.Tensor
    phi: torch.Tensor


class _Fixed(NamedTuple):
    """What is known at a fixed image.

    ``phi`` (slice,) in float64; ``image``; ``parts``, the likelihood's gradients of the subsets,
    and ``likelihood``, their sum; preconditioner: ``bound`` of the likelihood, see `Phi.at`, and
    ``curvature`` of the prior, times beta: all (pixel, slice).
    """

    phi: torch.Tensor
    image: torch.Tensor
    parts: list[torch.Tensor]
    likelihood: torch.Tensor
    bound: torch.Tensor
    curvature: torch.Tensor


class Phi:
    """The function that MAP images minimise, of each slice for itself.

    Parameters
    ----------
    model : ForwardModel
        M, from activity to counts.
    prompts, background : sequences of tensors (lor, slice)
        y and r, one a subset.
    settings : MapSettings
    """

    def __init__(
        self,
        model: ForwardModel,
        prompts: Sequence[torch.Tensor],
        background: Sequence[torch.Tensor],
        settings: MapSettings,
    ):
        projector = model.projector
        inside = field_of_view(projector.ring, projector.grid)
        prior = PriorSettings(settings.gamma, settings.epsilon)
        self.prior = RelativeDifferencePrior(prior, inside, projector.device)
        self.beta, self.subsets = settings.beta, projector.subsets
        self._model, self._prompts, self._background = model, prompts, background

    def _expected(self, image: torch.Tensor, subset: int) -> torch.Tensor:
        expected = self._model.forward(image, subset).add_(self._background[subset])
        return expected.clamp_min_(FEWEST_COUNTS)

    def gradient(self, image: torch.Tensor, subset: int) -> torch.Tensor:
        """Gradient (pixel, slice) of a subset's likelihood."""
        expected = self._expected(image, subset)
        return self._model.back(1 - self._prompts[subset] / expected, subset)

    def at(self, image: torch.Tensor) -> _Fixed:
        """Evaluate Phi, all its gradients and the preconditioner at an image.

        EM's surrogate of a subset's likelihood (A. De Pierro, IEEE TMI 14(1), 1995) has the second
        derivative e_s / x at x, e_s being the back projection of y / p; where nothing is missing,
        e_s is the sensitivity. In the preconditioner x / bound, the bound is the sensitivity, or
        half of S e_s if one of the S subsets misses far more counts: updates of a step of 1 are
        stable below twice the inverse of the curvature.
        """
        phi = self.beta * self.prior.value(image)
        parts: list[torch.Tensor] = []
        worst, sensitivities, likelihood = (torch.zeros_like(image) for _ in range(3))
        for subset, sensitivity in enumerate(self._model.sensitivity):
            expected, prompts = self._expected(image, subset), self._prompts[subset]
            ratio = prompts / expected
            # With y log y - y, a constant, terms are small; log1p keeps what single precision has.
            more = expected.sub_(prompts)
            lost = more - torch.special.xlog1py(prompts, more / prompts)
            phi += lost.sum(dim=0, dtype=torch.float64)
            missing = self._model.back(ratio, subset)
            parts.append(sensitivity - missing)
            likelihood += parts[-1]
            sensitivities += sensitivity
            worst = torch.maximum(worst, missing)
        bound = torch.maximum(sensitivities, worst.mul_(self.subsets / 2))
        curvature = self.beta * self.prior.curvature(image)
        return _Fixed(phi, image, parts, likelihood, bound, curvature)


def map_images(
    model: ForwardModel,
    prompts: Sequence[torch.Tensor],
    background: Sequence[torch.Tensor],
    settings: MapSettings,
) -> Iterator[Iterate]:
    """Minimise Phi, slice by slice: none depends on which others are there.

    Parameters
    ----------
    model, prompts, background, settings
        See `Phi`.

    Yields
    ------
    Iterate
        First OSEM's image, then that of each iteration, whose Phi is not above the last.
    """
    *_, image = osem(model, prompts, background, OSEM_ITERATIONS)
    phi = Phi(model, prompts, background, settings)
    step, age = torch.ones_like(image[:1]), torch.zeros_like(image[:1])
    fixed, last = phi.at(image.clone()), image
    yield Iterate(fixed.image, fixed.phi)
    for _ in range(settings.iterations):
        image = _updated(phi, fixed, step)
        extrapolated = image + age / (age + 3) * (image - last)
        candidates = (torch.maximum(extrapolated, SHRINK * image), image)
        found, rejected = _lowest(phi, fixed, candidates)
        age = torch.where(rejected[0], 0, age + 1)
        step = torch.where(rejected[1], step / 2, step)
        fixed, last = found, image
        yield Iterate(fixed.image, fixed.phi)


def _updated(phi: Phi, fixed: _Fixed, step: torch.Tensor) -> torch.Tensor:
    """Image after `INNER_PASSES` passes over the subsets; ``step`` (1, slice)."""
    image, movable = fixed.image, MOVABLE * fixed.image.mean(dim=0)
    for subset in list(range(phi.subsets)) * INNER_PASSES:
        gradient = phi.gradient(image, subset).sub_(fixed.parts[subset]).mul_(phi.subsets)
        gradient.add_(fixed.likelihood).add_(phi.prior.gradient(image), alpha=phi.beta)
        # Not of the fixed image where pixels shrink, nor of today's where they grow: either would
        # leave a bin's few counts behind, and overshoot.
        bright = torch.minimum(image, fixed.image).add_(movable)
        curvature = torch.addcmul(fixed.bound, bright, fixed.curvature).clamp_min_(SMALLEST_PIXEL)
        change = gradient.mul_(bright).div_(curvature).mul_(step)
        image = threshold(torch.maximum(image - change, SHRINK * image), SMALLEST_PIXEL, 0.0)
    return image


def _lowest(
    phi: Phi, fixed: _Fixed, candidates: Sequence[torch.Tensor]
) -> tuple[_Fixed, list[torch.Tensor]]:
    """Take of each slice the first candidate that does not raise Phi, or else the fixed image.

    Returns
    -------
    fixed : _Fixed
        At the images taken.
    rejected : list of tensors (slice,), bool
        Of each candidate, slices that did not take it.
    """
    rejected: list[torch.Tensor] = []
    image, found = candidates[0], phi.at(candidates[0])
    for other in (*candidates[1:], fixed.image):
        rejected.append(found.phi > fixed.phi)
        if rejected[-1].any():
            image = torch.where(rejected[-1], other, image)
            found = phi.at(image)
    return found, rejected
