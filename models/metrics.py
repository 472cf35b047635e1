"""Image quality and posterior statistics per slice, for many slices at a time.

PSNR, SSIM and NRMSE compare images in normalised units (activity / the largest training activity),
with a data range of 1, over the whole image or the pixels of a mask, without clipping. Means are in
float64. A number that does not exist, as the mean over an empty mask, is NaN.
"""

import numpy as np
import torch
from torch import Tensor

from models.conformal import interval_levels

# --- quality of images -----------------------------------------------------------------------


def psnr_db(images: Tensor, references: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute 10 log10(1 / MSE) of each image.

    Parameters
    ----------
    images, references : Tensor
        (N, 1, H, W), normalised.
    mask : Tensor, optional
        (N, 1, H, W) bool: the pixels that count; all without it.

    Returns
    -------
    Tensor
        (N,), dB; infinite where both are equal.
    """
    return -10 * torch.log10(region_mean(_squared_error(images, references), mask))


def ssim(images: Tensor, references: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average `ssim_map` over all pixels, or those of a mask; parameters as `psnr_db`, gives (N,).

    Windows at the mask's border see the pixels beyond it.
    """
    return region_mean(ssim_map(images, references), mask)


def nrmse(images: Tensor, references: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute ||image - reference|| / ||reference|| (Euclidean norms); as `psnr_db`, gives (N,).

    NaN where the reference is zero.
    """
    power = region_mean(references.double() ** 2, mask)
    error = region_mean(_squared_error(images, references), mask)
    return torch.sqrt(error / torch.where(power > 0, power, torch.nan))


def ssim_map(images: Tensor, references: Tensor) -> Tensor:
    """Compute the structural similarity around each pixel (Wang et al. 2004, equation 13).

    Gaussian window of sigma 1.5 pixels cut at 11 x 11, K1 = 0.01, K2 = 0.03, population
    covariance, the image mirrored at its border, data range 1.

    Parameters
    ----------
    images, references : Tensor
        (N, 1, H, W), normalised; at least 6 pixels a side.

    Returns
    -------
    Tensor
        (N, 1, H, W).
    """
    # Here, for it brings matplotlib and half of SciPy, which reconstructions need not wait for.
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, similarity = structural_similarity_index_measure(
        images,
        references,
        gaussian_kernel=True,
        sigma=1.5,
        data_range=1.0,
        k1=0.01,
        k2=0.03,
        reduction="none",
        return_full_image=True,
    )
    return similarity


def region_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average each image over all pixels or those of a mask, both (N, 1, H, W), giving (N,)."""
    values = values.double()
    if mask is None:
        return values.flatten(1).mean(dim=1)
    return (values * mask).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1)


def _squared_error(images: Tensor, references: Tensor) -> Tensor:
    return (images.double() - references.double()) ** 2


# --- posterior samples -----------------------------------------------------------------------


def sd_error_correlation(deviations: Tensor, errors: Tensor, mask: Tensor | None = None) -> Tensor:
    """Correlate the posterior's standard deviation with the error of its mean, over pixels.

    Parameters
    ----------
    deviations : Tensor
        (N, 1, H, W): standard deviation of the samples.
    errors : Tensor
        (N, 1, H, W): |mean of the samples - reference|, in any unit.
    mask : Tensor, optional
        (N, 1, H, W) bool: the pixels that count; all without it.

    Returns
    -------
    Tensor
        (N,): Pearson's coefficient; NaN where either is constant.
    """
    x, y = (a - region_mean(a, mask)[:, None, None, None] for a in (deviations, errors))
    covariance = region_mean(x * y, mask)
    return covariance / torch.sqrt(region_mean(x * x, mask) * region_mean(y * y, mask))


def interval_coverage(
    samples: Tensor, references: Tensor, mask: Tensor | None = None, antithetic: bool = False
) -> dict[float, Tensor]:
    """Count the pixels whose reference lies inside central intervals of the samples.

    Samples of the true posterior cover the truth as often as the level says, which
    `models.conformal.interval_levels` gives.

    Parameters
    ----------
    samples : Tensor
        (N, K, H, W).
    references : Tensor
        (N, 1, H, W).
    mask : Tensor, optional
        (N, 1, H, W) bool: the pixels that count; all without it.
    antithetic : bool
        Whether the samples are pairs, the second opposite to the first.

    Returns
    -------
    dict of level to Tensor
        For j = 1, 2, ... K // 2 the share of pixels, (N,).
    """
    # The reference has at least j samples on either side, itself included.
    at_most = (samples <= references).sum(dim=1, keepdim=True)
    at_least = (samples >= references).sum(dim=1, keepdim=True)
    depth = torch.minimum(at_most, at_least)
    levels = interval_levels(samples.shape[1], antithetic)
    return {level: region_mean(depth >= j, mask) for j, level in enumerate(levels, 1)}


def interval_width(
    samples: Tensor, mask: Tensor | None = None, antithetic: bool = False
) -> dict[float, Tensor]:
    """Average the width of central intervals of the samples: their sharpness.

    Parameters
    ----------
    samples, mask, antithetic
        As of `interval_coverage`.

    Returns
    -------
    dict of level to Tensor
        For j = 1, 2, ... K // 2 the mean of the j-th largest sample minus the j-th smallest, (N,),
        in the samples' unit.
    """
    # Tensors are sorted with their 64-bit places, for which many samples are too many.
    ranked = torch.from_numpy(np.sort(samples.numpy(), axis=1))
    levels = interval_levels(samples.shape[1], antithetic)
    return {
        level: region_mean(ranked[:, -j, None] - ranked[:, j - 1, None], mask)
        for j, level in enumerate(levels, 1)
    }


# --- activity in tissues ---------------------------------------------------------------------


def tissue_mean(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Average images over a tissue.

    Parameters
    ----------
    images : ndarray
        (N, y, x), activity units.
    inside : ndarray
        (N, y, x) bool: the tissue's pixels.

    Returns
    -------
    ndarray
        (N,), activity units; NaN where a slice has none of the tissue.
    """
    pixels = inside.sum(axis=(1, 2))
    sums = images.sum(axis=(1, 2), dtype=np.float64, where=inside)
    return sums / np.where(pixels > 0, pixels, np.nan)
