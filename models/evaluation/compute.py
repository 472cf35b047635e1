"""Functions that compute metrics, of the names that `models.evaluation.catalogue` has.

Each is given what is `Compared` and a region, and gives (N,): a value a slice, NaN where there is
none. A metric that has levels gives such values by level.
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models import metrics
from models.dataset import Scales
from models.evaluation.catalogue import REFERENCES
from models.evaluation.slices import Slices

TISSUES = ("grey", "white")


class Compared:
    """Images beside one reference, and what several metrics need of both, made once when asked for.

    Parameters
    ----------
    activity : ndarray
        (N, y, x), activity units: the images.
    slices : Slices
        The N slices that they show.
    scales : Scales
        Of the training split: a data range of 1 is its largest activity.
    reference : str
        Of `REFERENCES`, or "" for metrics without one.
    samples : ndarray, optional
        (N, K, y, x), activity units, K > 1.
    """

    def __init__(
        self,
        activity: np.ndarray,
        slices: Slices,
        scales: Scales,
        reference: str,
        samples: np.ndarray | None = None,
    ):
        self.activity, self._slices, self._scales = activity, slices, scales
        self._reference, self._samples = reference, samples

    def mask(self, region: str) -> Tensor | None:
        """(N, 1, y, x) bool: pixels of a region; None for all."""
        inside = self._slices.inside(region)
        return None if inside is None else torch.from_numpy(inside)[:, None]

    # --- pixel by pixel: (N, 1, y, x), in [0, 1] units ---

    @cached_property
    def images(self) -> Tensor:
        """The images."""
        return self._normalised(self.activity)

    @cached_property
    def references(self) -> Tensor:
        """The references."""
        return self._normalised(self.reference_activity)

    @cached_property
    def similarity(self) -> Tensor:
        """Map of the structural similarity."""
        return metrics.ssim_map(self.images, self.references)

    def _normalised(self, activity: np.ndarray) -> Tensor:
        return torch.from_numpy(activity / np.float32(self._scales.activity))[:, None]

    # --- in activity units ---

    @property
    def reference_activity(self) -> np.ndarray:
        """(N, y, x): the references."""
        found: np.ndarray = getattr(self._slices, REFERENCES[self._reference])
        return found

    @cached_property
    def means(self) -> dict[str, np.ndarray]:
        """(N,) of each tissue."""
        return self._means(self.activity)

    @cached_property
    def reference_means(self) -> dict[str, np.ndarray]:
        """(N,) of each tissue of the references."""
        return self._means(self.reference_activity)

    def _means(self, activity: np.ndarray) -> dict[str, np.ndarray]:
        means = metrics.tissue_means(activity, self._slices.labels)
        return dict(zip(TISSUES, means, strict=True))

    @property
    def draws(self) -> Tensor:
        """(N, K, y, x): samples."""
        if self._samples is None:
            raise ValueError("these images are no means of samples")
        return torch.from_numpy(self._samples)

    @cached_property
    def deviations(self) -> Tensor:
        """(N, 1, y, x): standard deviations of the samples."""
        return self.draws.std(dim=1, keepdim=True)

    @property
    def errors(self) -> Tensor:
        """(N, 1, y, x): absolute errors of the samples' mean."""
        mean = self.draws.mean(dim=1, keepdim=True)
        return (mean - torch.from_numpy(self.reference_activity)[:, None]).abs()


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


# --- activity in tissues ---------------------------------------------------------------------


def mean(compared: Compared, region: str) -> np.ndarray:
    """Mean activity of a tissue."""
    return compared.means[region]


def mean_error(compared: Compared, region: str) -> np.ndarray:
    """Mean activity of a tissue minus the reference's."""
    return compared.means[region] - compared.reference_means[region]


def contrast_recovery(compared: Compared, region: str) -> np.ndarray:
    """See `models.metrics.contrast_recovery`."""
    both = compared.means, compared.reference_means
    means, reference_means = ((found["grey"], found["white"]) for found in both)
    return metrics.contrast_recovery(means, reference_means)


# --- posterior samples -----------------------------------------------------------------------


def sd_mean(compared: Compared, region: str) -> Tensor:
    """Mean standard deviation of the samples."""
    return metrics.region_mean(compared.deviations, compared.mask(region))


def sd_error_correlation(compared: Compared, region: str) -> Tensor:
    """See `models.metrics.sd_error_correlation`."""
    mask = compared.mask(region)
    return metrics.sd_error_correlation(compared.deviations, compared.errors, mask)


def coverage(compared: Compared, region: str) -> dict[float, Tensor]:
    """See `models.metrics.interval_coverage`."""
    references = torch.from_numpy(compared.reference_activity)[:, None]
    return metrics.interval_coverage(compared.draws, references, compared.mask(region))
