"""Functions that compute metrics, of the names that `models.evaluation.catalogue` has.

Each is given what is `Compared` and a region, and gives (N,): a value a slice, NaN where there is
none. A metric that has levels gives such values by level.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models import metrics, perceptual
from models.conformal import deviation, scores
from models.dataset import Scales
from models.evaluation.catalogue import REFERENCES
from models.evaluation.factors import Factors
from models.evaluation.slices import Slices


class Images:
    """Images of N slices, and what several metrics need of them, made once when asked for.

    Parameters
    ----------
    activity : ndarray
        (N, y, x), activity units.
    slices : Slices
        The N slices that they show.
    scales : Scales
        Of the training split: a data range of 1 is its largest activity.
    samples : ndarray, optional
        (N, K, y, x), activity units, K > 1: what the images are the means of.
    factors : Factors, optional
        That calibrate the samples' intervals.
    antithetic : bool
        Whether the samples are pairs, the second opposite to the first.
    """

    def __init__(
        self,
        activity: np.ndarray,
        slices: Slices,
        scales: Scales,
        samples: np.ndarray | None = None,
        factors: Factors | None = None,
        antithetic: bool = False,
    ):
        self.antithetic = antithetic
        self.activity, self.slices, self._scales, self._samples = activity, slices, scales, samples
        self._factors = factors
        self._means: dict[str, np.ndarray] = {}

    @cached_property
    def normalised(self) -> Tensor:
        """(N, 1, y, x), in [0, 1] units."""
        return self.of_range_1(self.activity)

    def of_range_1(self, activity: np.ndarray) -> Tensor:
        """(N, y, x) in activity units -> (N, 1, y, x) in [0, 1] units."""
        return torch.from_numpy(activity / np.float32(self._scales.activity))[:, None]

    def mean_in(self, region: str) -> np.ndarray:
        """(N,), activity units: means over a tissue."""
        if region not in self._means:
            self._means[region] = _mean_over(self.activity, self.slices, region)
        return self._means[region]

    @property
    def draws(self) -> Tensor:
        """(N, K, y, x), activity units: the samples."""
        if self._samples is None:
            raise ValueError("these images are no means of samples")
        return torch.from_numpy(self._samples)

    @property
    def factors(self) -> Factors:
        """What calibrates the samples' intervals."""
        if self._factors is None:
            raise ValueError("nothing calibrates the intervals of these images")
        return self._factors

    @cached_property
    def deviations(self) -> Tensor:
        """(N, 1, y, x), activity units: the samples' standard deviations."""
        return torch.from_numpy(deviation(self.draws.numpy(), self.antithetic))[:, None]


class Compared:
    """Images beside one reference, "" for metrics without one; what it makes, it makes once."""

    def __init__(self, images: Images, reference: str):
        self.of, self._reference = images, reference
        self._reference_means: dict[str, np.ndarray] = {}

    def mask(self, region: str) -> Tensor | None:
        """(N, 1, y, x) bool: pixels of a region; None for all."""
        inside = self.of.slices.inside(region)
        return None if inside is None else torch.from_numpy(inside)[:, None]

    @property
    def images(self) -> Tensor:
        """(N, 1, y, x), in [0, 1] units."""
        return self.of.normalised

    @cached_property
    def references(self) -> Tensor:
        """(N, 1, y, x), in [0, 1] units."""
        return self.of.of_range_1(self.reference_activity)

    @cached_property
    def similarity(self) -> Tensor:
        """(N, 1, y, x): map of the structural similarity."""
        return metrics.ssim_map(self.images, self.references)

    @property
    def factors(self) -> Mapping[float, float]:
        """Factors of the calibrated intervals by nominal level."""
        return self.of.factors.of[self._reference]

    @property
    def reference_activity(self) -> np.ndarray:
        """(N, y, x), activity units."""
        found: np.ndarray = getattr(self.of.slices, REFERENCES[self._reference])
        return found

    def reference_mean_in(self, region: str) -> np.ndarray:
        """(N,), activity units: the reference's means over a tissue."""
        if region not in self._reference_means:
            found = _mean_over(self.reference_activity, self.of.slices, region)
            self._reference_means[region] = found
        return self._reference_means[region]


def _mean_over(activity: np.ndarray, slices: Slices, region: str) -> np.ndarray:
    inside = slices.inside(region)
    return metrics.tissue_mean(activity, np.ones_like(activity, bool) if inside is None else inside)


# --- quality of images -----------------------------------------------------------------------


def psnr_db(compared: Compared, region: str) -> Tensor:
    """See `models.metrics.psnr_db`."""
    return metrics.psnr_db(compared.images, compared.references, compared.mask(region))


def ssim(compared: Compared, region: str) -> Tensor:
    """See `models.metrics.ssim`."""
    return metrics.region_mean(compared.similarity, compared.mask(region))


def nrmse(compared: Compared, region: str) -> Tensor:
    """See `models.metrics.nrmse`."""
    return metrics.nrmse(compared.images, compared.references, compared.mask(region))


# --- perceptual quality ----------------------------------------------------------------------


def vif(compared: Compared, region: str) -> Tensor:
    """See `models.perceptual.vif`."""
    return perceptual.vif(compared.images, compared.references)


def gmsd(compared: Compared, region: str) -> Tensor:
    """See `models.perceptual.gmsd`."""
    return perceptual.gmsd(compared.images, compared.references)


def haarpsi(compared: Compared, region: str) -> Tensor:
    """See `models.perceptual.haarpsi`."""
    return perceptual.haarpsi(compared.images, compared.references)


def power_ratio(compared: Compared, region: str) -> Tensor:
    """See `models.perceptual.power_ratio`."""
    return perceptual.power_ratio(compared.images, compared.references)


# --- activity in tissues ---------------------------------------------------------------------


def mean(compared: Compared, region: str) -> np.ndarray:
    """Mean activity of a tissue."""
    return compared.of.mean_in(region)


def mean_error(compared: Compared, region: str) -> np.ndarray:
    """Mean activity of a tissue minus the reference's."""
    return compared.of.mean_in(region) - compared.reference_mean_in(region)


# --- posterior samples -----------------------------------------------------------------------


def sd_mean(compared: Compared, region: str) -> Tensor:
    """Mean standard deviation of the samples."""
    return metrics.region_mean(compared.of.deviations, compared.mask(region))


def sd_error_correlation(compared: Compared, region: str) -> Tensor:
    """See `models.metrics.sd_error_correlation`."""
    mean = compared.of.draws.mean(dim=1, keepdim=True)
    errors = (mean - torch.from_numpy(compared.reference_activity)[:, None]).abs()
    return metrics.sd_error_correlation(compared.of.deviations, errors, compared.mask(region))


def coverage(compared: Compared, region: str) -> dict[float, Tensor]:
    """See `models.metrics.interval_coverage`."""
    references = torch.from_numpy(compared.reference_activity)[:, None]
    mask, pairs = compared.mask(region), compared.of.antithetic
    return metrics.interval_coverage(compared.of.draws, references, mask, pairs)


def width(compared: Compared, region: str) -> dict[float, Tensor]:
    """See `models.metrics.interval_width`."""
    return metrics.interval_width(compared.of.draws, compared.mask(region), compared.of.antithetic)


def coverage_calibrated(compared: Compared, region: str) -> dict[float, Tensor]:
    """Share of the pixels whose reference lies inside the calibrated intervals."""
    found = scores(
        compared.of.activity,
        compared.of.deviations[:, 0].numpy(),
        compared.reference_activity,
        compared.of.factors.floor,
    )
    distance, mask = torch.from_numpy(found)[:, None], compared.mask(region)
    return {
        level: metrics.region_mean(distance <= factor, mask)
        for level, factor in compared.factors.items()
    }


def width_calibrated(compared: Compared, region: str) -> dict[float, Tensor]:
    """Mean width of the calibrated intervals, 2 q max(standard deviation, floor)."""
    spread = compared.of.deviations.clamp(min=compared.of.factors.floor)
    mean = metrics.region_mean(spread, compared.mask(region))
    return {level: 2 * factor * mean for level, factor in compared.factors.items()}
