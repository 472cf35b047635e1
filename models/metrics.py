"""Image quality per slice: PSNR, SSIM, NRMSE, and activity in grey and white matter.

Images are compared in normalised units (activity / the largest training activity), with a data
range of 1, over the whole image, without clipping or masking.
"""

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

GREY_MATTER, WHITE_MATTER = 2, 3  # BrainWeb classes

MIN_TRUE_CONTRAST = 0.5
"""Least GM/WM - 1 of a slice whose contrast recovery is worth stating.

Pure tissues have 3. At the ends of the brain a few pixels of mixed tissue have almost none, and
the quotient of two small numbers would dominate every mean.
"""


def psnr_db(images: Tensor, references: Tensor) -> Tensor:
    """Compute 10 log10(1 / MSE) of each image.

    Parameters
    ----------
    images, references : Tensor
        (N, 1, H, W), normalised.

    Returns
    -------
    Tensor
        (N,), dB; infinite where both are equal.
    """
    return torch.stack(
        [
            peak_signal_noise_ratio(image, reference, data_range=1.0)
            for image, reference in zip(images, references, strict=True)
        ]
    )


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Compute the structural similarity of each image (Wang et al. 2004).

    Gaussian window of sigma 1.5 pixels cut at 11 x 11, K1 = 0.01, K2 = 0.03, population
    covariance, mean over all pixels, the image mirrored at its border.

    Parameters
    ----------
    images, references : Tensor
        (N, 1, H, W), normalised.

    Returns
    -------
    Tensor
        (N,).
    """
    found = structural_similarity_index_measure(
        images,
        references,
        gaussian_kernel=True,
        sigma=1.5,
        data_range=1.0,
        k1=0.01,
        k2=0.03,
        reduction="none",
    )
    assert isinstance(found, Tensor)  # a tuple only on request
    return found.reshape(len(images))


def nrmse(images: Tensor, references: Tensor) -> Tensor:
    """Compute ||image - reference|| / ||reference|| (Euclidean norms) of each image, as (N,)."""
    error = (images - references).flatten(1).norm(dim=1)
    return error / references.flatten(1).norm(dim=1)


def tissue_means(image: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Average an image over grey and over white matter.

    Parameters
    ----------
    image : ndarray
        (y, x), activity units.
    labels : ndarray
        (y, x), BrainWeb classes.

    Returns
    -------
    grey, white : float
        Activity units; NaN where the slice has none of the tissue.
    """
    grey, white = (image[labels == tissue] for tissue in (GREY_MATTER, WHITE_MATTER))
    return (
        float(grey.mean(dtype=np.float64)) if grey.size else float("nan"),
        float(white.mean(dtype=np.float64)) if white.size else float("nan"),
    )


def contrast_recovery(image: tuple[float, float], truth: tuple[float, float]) -> float:
    """Compute (GM/WM - 1) of the image over (GM/WM - 1) of the noise-free truth.

    Parameters
    ----------
    image, truth : tuple of float
        Mean activity in grey and white matter.

    Returns
    -------
    float
        1 is full recovery; NaN where the truth has less contrast than `MIN_TRUE_CONTRAST` or lacks
        a tissue, or where the image's mean of white matter is zero.
    """
    if image[1] == 0 or truth[1] == 0:
        return float("nan")
    true_contrast = truth[0] / truth[1] - 1
    if not true_contrast >= MIN_TRUE_CONTRAST:  # NaN included
        return float("nan")
    return (image[0] / image[1] - 1) / true_contrast
