"""What is measured of images of slices without and with lesions: formulas alone.

Arrays of images of one slice begin with the axes (draw, twin): noise draws, and the slice without
and with its lesions.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.tomography.forward_model import FWHM_PER_SIGMA

EXCEEDED = 0.01
"""Part of the pixels in which OSEM + filter has false structure, which sets its threshold."""


def contrast_recovery(difference: np.ndarray, true_difference: np.ndarray) -> np.ndarray:
    """Ratio of means: of what lesions change in an image, over what they change in the truth.

    1 where images follow the truth; that of every lesion is 1 if all are.
    """
    ratio: np.ndarray = difference / true_difference
    return ratio


def area_under_curve(present: np.ndarray, absent: np.ndarray) -> float:
    """Area under the ROC curve by Mann and Whitney's statistic.

    The part of the pairs in which the value with a lesion is the larger; equal ones count half.
    Pairs of one noise draw, whose noise is the same in both, are left out.

    Parameters
    ----------
    present, absent : arrays (draw,)
        Values of an observer; of the same draws, two at least.
    """
    difference = present[:, None] - absent[None, :]
    larger = np.where(difference == 0, 0.5, difference > 0)
    return float(larger[~np.eye(len(present), dtype=bool)].mean())


def observed(images: np.ndarray, disc: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Observer of hot lesions: mean in the disc less mean in the ring around it, (...).

    Parameters
    ----------
    images : array (..., y, x)
    disc, ring : arrays (y, x), bool
    """
    values: np.ndarray = images[..., disc].mean(axis=-1) - images[..., ring].mean(axis=-1)
    return values


def noise_variance(images: np.ndarray, disc: np.ndarray) -> float:
    """Variance (K - 1) over draws of each pixel in a disc, its mean over these pixels.

    Parameters
    ----------
    images : array (draw, y, x)
        Without lesions.
    """
    return float(images[:, disc].astype(np.float64).var(axis=0, ddof=1).mean())


def relative_noise(variance: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Root of the mean variance over lesions, over the mean true activity in their discs."""
    noise: np.ndarray = np.sqrt(variance) / level
    return noise


def false_structure(
    images: np.ndarray, truth: np.ndarray, fwhm_mm: float, pixel_mm: float
) -> np.ndarray:
    """Magnitude of what is wrong in images, both smoothed by a Gaussian: (..., y, x).

    Parameters
    ----------
    images : array (..., y, x)
    truth : array (y, x)
    fwhm_mm : float
        Full width at half maximum: of what is smaller nothing remains.
    """
    sigma = fwhm_mm / FWHM_PER_SIGMA / pixel_mm
    # Smoothing is linear: the difference of the smoothed is the smoothed difference.
    wrong = gaussian_filter(images - truth, sigma, mode="constant", axes=(-2, -1))
    return np.abs(wrong)


def threshold_of(slices: Sequence[np.ndarray]) -> float:
    """Smallest of the values that at most the part `EXCEEDED` is above, in the mean over slices."""
    values = np.concatenate([part.ravel() for part in slices])
    weights = np.concatenate([np.full(part.size, 1 / part.size) for part in slices])
    return float(np.quantile(values, 1 - EXCEEDED, weights=weights, method="inverted_cdf"))
