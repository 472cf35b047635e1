"""Metrics that tables derive from the means of others, of the names that the catalogue has.

Each is given the means of its ``parts``, over the same images, and is a quotient of means. The mean
of the quotients of single images is another number, which a few images with a small denominator
decide. Nothing of this brings torch.
"""

import numpy as np


def contrast_recovery(
    grey: np.ndarray, grey_error: np.ndarray, white: np.ndarray, white_error: np.ndarray
) -> np.ndarray:
    """Compute (GM/WM - 1) of images over (GM/WM - 1) of the noise-free activity.

    Parameters
    ----------
    grey, white : ndarray
        Mean activity in grey and white matter, averaged over images; any shape.
    grey_error, white_error : ndarray
        The same minus the noise-free activity's.

    Returns
    -------
    ndarray
        1 is full recovery; NaN where the activity has no contrast or no white matter, or the images
        have no activity in it.
    """
    recovered = _contrast(grey, white)
    true_contrast = _contrast(grey - grey_error, white - white_error)
    return recovered / np.where(true_contrast == 0, np.nan, true_contrast)


def _contrast(grey: np.ndarray, white: np.ndarray) -> np.ndarray:
    return grey / np.where(white == 0, np.nan, white) - 1
