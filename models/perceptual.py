"""Perceptual quality without learned weights, per slice, for many slices at a time.

All compare images in normalised units (activity / the largest training activity), a data range of
1, without clipping, over the whole image. Constants that their papers give for a data range of 255
are scaled with it: a constant that is added to squares by 1 / 255^2. Outside an image there is no
activity: where a window leaves it, it sees zeros. A number that does not exist, as the information
in a constant reference, is NaN.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

VIF_MARGIN = 16
"""Zeros around images, in pixels, so that the windows of VIF see all of an image, small ones too.

A multiple of 8: its four scales sample the same pixels as without.
"""

GMSD_C = 170 / 255**2
HAARPSI_C, HAARPSI_ALPHA = 30 / 255**2, 4.2
POWER_BAND = (0.25, 1.0)
"""Spatial frequencies over the pixels' Nyquist frequency, 0.5 cycles a pixel."""


def vif(images: Tensor, references: Tensor) -> Tensor:
    """Compute the visual information fidelity in the pixel domain (Sheikh and Bovik 2006).

    The information about the reference's details that an image still has, over what the reference
    has, in the model of the paper: details are Gaussian, the eye adds noise of variance 2 at a data
    range of 255 (of images times 255, as `torchmetrics` computes it, in float32; good to 1e-3).
    1 for the reference itself, 0 for an image without any relation to it; above 1 for a reference
    with more contrast.

    Parameters
    ----------
    images, references : Tensor
        (N, 1, H, W), normalised; at least 9 pixels a side.

    Returns
    -------
    Tensor
        (N,); NaN where the reference is constant.
    """
    from torchmetrics.functional.image import visual_information_fidelity  # slow to import

    both = (pad(255 * each.float(), (VIF_MARGIN,) * 4) for each in (images, references))
    # One at a time: it would give a mean.
    slices = zip(*(each.split(1) for each in both), strict=True)
    found = torch.stack([visual_information_fidelity(*pair) for pair in slices])
    # Of a constant that is not zero the margin's edge would be all details.
    varied = (references.amax(dim=(1, 2, 3)) > references.amin(dim=(1, 2, 3))).to(found.device)
    return torch.where(varied, found.double(), torch.nan)


def gmsd(images: Tensor, references: Tensor) -> Tensor:
    """Compute the gradient magnitude similarity deviation (Xue et al. 2014).

    Images are averaged over 2 x 2 pixels, to half the size; gradients are Prewitt's, c is 0.0026.

    Parameters
    ----------
    images, references : Tensor
        (N, 1, H, W), normalised.

    Returns
    -------
    Tensor
        (N,): 0 for the reference itself; the more a distortion varies over the image, the larger.
    """
    first, second = (_prewitt_magnitude(_halved(each)) for each in (images, references))
    return _similarity(first, second, GMSD_C).flatten(1).std(dim=1, correction=0)


def haarpsi(images: Tensor, references: Tensor) -> Tensor:
    """Compute the Haar wavelet-based perceptual similarity index (Reisenhofer et al. 2018).

    Of images averaged over 2 x 2 pixels, to half the size: similarities of the horizontal and
    vertical Haar coefficients of scales 1 and 2, weighted with the larger of both images'
    coefficients of scale 3. C is 30 at a data range of 255, alpha is 4.2.

    Parameters
    ----------
    images, references : Tensor
        (N, 1, H, W), normalised.

    Returns
    -------
    Tensor
        (N,), in [0, 1]: 1 for the reference itself; NaN where both are zero everywhere.
    """
    halved = [_halved(each) for each in (images, references)]
    weighted, weights = torch.zeros(2, len(images), dtype=torch.float64, device=images.device)
    for vertical in (False, True):
        first, second = ([_haar(each, j, vertical) for j in (1, 2, 3)] for each in halved)
        alike = [_similarity(first[j], second[j], HAARPSI_C) for j in (0, 1)]
        weight = torch.maximum(first[2], second[2])
        seen = weight * torch.sigmoid(HAARPSI_ALPHA * (alike[0] + alike[1]) / 2)
        weighted += seen.flatten(1).sum(dim=1)
        weights += weight.flatten(1).sum(dim=1)
    return (torch.logit(weighted / weights) / HAARPSI_ALPHA) ** 2


def power_ratio(images: Tensor, references: Tensor) -> Tensor:
    """Compare the power spectra of images with the references' at high spatial frequencies.

    The plane of spatial frequencies is cut into rings, each as wide as one step of the discrete
    Fourier transform along the longer side, between `POWER_BAND` of the Nyquist frequency. The
    ratio of the image's power to the reference's is averaged over the rings, all with the same
    weight: low frequencies, where the power is, would else decide alone.

    Parameters
    ----------
    images, references : Tensor
        (N, 1, H, W), in any unit.

    Returns
    -------
    Tensor
        (N,): 1 is right, less is too smooth, more is noise or false detail; NaN where the reference
        has no power in a ring.
    """
    first, second = (_power_in_rings(each) for each in (images, references))
    return (first / torch.where(second > 0, second, torch.nan)).mean(dim=1)


# --- parts of them ---------------------------------------------------------------------------


def _similarity(first: Tensor, second: Tensor, constant: float) -> Tensor:
    return (2 * first * second + constant) / (first**2 + second**2 + constant)


def _halved(images: Tensor) -> Tensor:
    """Average (N, 1, H, W) over 2 x 2 pixels; of odd sides the last pixel goes with zeros."""
    height, width = images.shape[2:]
    return avg_pool2d(pad(images.double(), (0, width % 2, 0, height % 2)), 2)


def _prewitt_magnitude(images: Tensor) -> Tensor:
    kernel = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=images.dtype, device=images.device) / 3
    kernels = torch.stack([kernel, kernel.T])[:, None]
    return conv2d(images, kernels, padding=1).square().sum(dim=1, keepdim=True).sqrt()


def _haar(images: Tensor, scale: int, vertical: bool) -> Tensor:
    """Give the absolute Haar coefficients of a scale at every pixel, (N, 1, H, W)."""
    if vertical:
        return _haar(images.mT, scale, False).mT
    size = 2**scale
    smooth = torch.ones(1, 1, size, 1, dtype=images.dtype, device=images.device) / size
    step = torch.ones(1, 1, 1, size, dtype=images.dtype, device=images.device)
    step[..., : size // 2] = -1
    # As MATLAB's conv2(..., 'same'): of an even window the pixel is left of the middle.
    margins = (size // 2 - 1, size // 2) * 2
    return conv2d(conv2d(pad(images, margins), smooth), step).abs()


def _power_in_rings(images: Tensor) -> Tensor:
    """Give the power (N, rings) of (N, 1, H, W) at the frequencies of `power_ratio`."""
    height, width = images.shape[2:]
    power = torch.fft.fft2(images[:, 0].double()).abs().square().flatten(1)
    across, along = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    steps = torch.hypot(across[:, None], along).flatten() * max(height, width)
    steps = steps.round(decimals=9)  # else it is chance in which ring a whole number lies
    first, last = (end * max(height, width) / 2 for end in POWER_BAND)
    inside = (steps >= first) & (steps <= last)
    # The last ring has its outer edge, too.
    count = max(1, int(last - first))
    ring = (steps[inside] - first).long().clamp(max=count - 1)
    rings = torch.zeros(len(images), count, dtype=power.dtype, device=power.device)
    return rings.index_add_(1, ring.to(power.device), power[:, inside.to(power.device)])
