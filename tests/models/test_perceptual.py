"""Perceptual quality: the papers' definitions taken literally, closed forms, the right order."""

import numpy as np
import pytest
import torch
from scipy import ndimage, signal
from skimage import data, transform
from torchmetrics.functional.image import visual_information_fidelity

from models import perceptual

METRICS = (perceptual.vif, perceptual.gmsd, perceptual.haarpsi, perceptual.power_ratio)


def camera(height=64, width=64):
    return transform.resize(data.camera() / 255, (height, width), anti_aliasing=True)


def head(size=64):
    """Something like activity in a head, with a margin of zeros: grey matter around white."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y / 1.2, x) * (1 + 0.1 * np.sin(9 * np.arctan2(y, x)))
    return np.select([radius < 0.2 * size, radius < 0.3 * size], [0.2, 0.8], 0.0)


def noisy(image, sigma, seed=0):
    return image + np.random.default_rng(seed).normal(0, sigma, image.shape)


def found(metric, image, reference):
    (value,) = metric(*(torch.from_numpy(each)[None, None] for each in (image, reference)))
    return float(value)


# --- as their papers say, literally ----------------------------------------------------------


def conv2(image, kernel):
    """MATLAB's conv2(image, kernel, 'same')."""
    full = signal.convolve2d(image, kernel)
    (top, left), (height, width) = (np.array(kernel.shape) // 2, image.shape)
    return full[top : top + height, left : left + width]


def literal_gmsd(image, reference):
    # Their code: averaged, every second pixel, Prewitt / 3, of a data range of 255.
    average = np.full((2, 2), 0.25)
    first, second = (conv2(255 * each, average)[::2, ::2] for each in (image, reference))
    dx = np.array([[1, 0, -1]] * 3) / 3
    m1, m2 = (np.sqrt(conv2(each, dx) ** 2 + conv2(each, dx.T) ** 2) for each in (first, second))
    return ((2 * m1 * m2 + 170) / (m1**2 + m2**2 + 170)).std()


def literal_haarpsi(image, reference):
    average = np.full((2, 2), 0.25)
    coefficients = []
    for each in (image, reference):
        small = conv2(255 * each, average)[::2, ::2]
        kernels = []
        for scale in (1, 2, 3):
            kernel = 2.0**-scale * np.ones((2**scale, 2**scale))
            kernel[: 2**scale // 2] *= -1
            kernels.append(kernel)
        filters = (kernels, [kernel.T for kernel in kernels])
        coefficients.append([[conv2(small, kernel) for kernel in each] for each in filters])
    total, weights = 0.0, 0.0
    for first, second in zip(*coefficients, strict=True):
        weight = np.maximum(abs(first[2]), abs(second[2]))
        pairs = [(abs(first[j]), abs(second[j])) for j in (0, 1)]
        similarity = sum((2 * a * b + 30) / (a**2 + b**2 + 30) for a, b in pairs) / 2
        total += (weight / (1 + np.exp(-4.2 * similarity))).sum()
        weights += weight.sum()
    share = total / weights
    return (np.log(share / (1 - share)) / 4.2) ** 2


def literal_power_ratio(image, reference):
    height, width = image.shape
    size = max(height, width)
    powers = [abs(np.fft.fft2(each)) ** 2 for each in (image, reference)]
    first = size / 8  # a quarter of Nyquist, in steps
    sums = np.zeros((2, int(size / 2 - first)))
    for y in range(height):
        for x in range(width):
            along = [min(n, side - n) / side for n, side in ((y, height), (x, width))]
            steps = round(size * np.hypot(*along), 9)
            if first <= steps <= size / 2:
                ring = min(int(steps - first), sums.shape[1] - 1)
                sums[:, ring] += [power[y, x] for power in powers]
    return (sums[0] / sums[1]).mean()


@pytest.mark.parametrize("shape", [(64, 64), (48, 40), (33, 47)])
@pytest.mark.parametrize(
    ("metric", "literal"),
    [
        (perceptual.gmsd, literal_gmsd),
        (perceptual.haarpsi, literal_haarpsi),
        (perceptual.power_ratio, literal_power_ratio),
    ],
)
def test_a_literal_implementation_agrees(metric, literal, shape):
    reference = camera(*shape)
    for image in (ndimage.gaussian_filter(reference, 1), noisy(reference, 0.1), 0.8 * reference):
        assert found(metric, image, reference) == pytest.approx(literal(image, reference), rel=1e-9)


def test_vif_is_torchmetrics_at_a_range_of_255_where_images_end_in_zeros():
    reference = np.pad(head(), 24)
    disturbed = np.pad(noisy(head(), 0.1), 24)
    for image in (ndimage.gaussian_filter(reference, 1), disturbed):
        pair = (torch.from_numpy(255 * each)[None, None] for each in (image, reference))
        expected = float(visual_information_fidelity(*pair))  # in float64
        assert found(perceptual.vif, image, reference) == pytest.approx(expected, abs=5e-4)


# --- closed forms ----------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [camera(), head(), head(16)], ids=["camera", "head", "small"])
def test_the_reference_itself_is_perfect(reference):
    for metric, perfect in zip(METRICS, (1, 0, 1, 1), strict=True):
        assert found(metric, reference, reference) == pytest.approx(perfect, abs=1e-6)


def test_power_goes_with_the_square_of_an_image():
    for factor in (0.5, 3.0):
        ratio = found(perceptual.power_ratio, factor * head(), head())
        assert ratio == pytest.approx(factor**2)


def test_power_of_a_blurred_image_is_that_of_the_kernels_transfer_function():
    """In one dimension: an image that varies along x alone has its power on that axis."""
    reference = np.tile(np.random.default_rng(2).normal(size=64), (64, 1))
    image = ndimage.convolve1d(reference, [0.25, 0.5, 0.25], mode="wrap")
    steps = np.arange(8, 33)
    transfer = (0.5 + 0.5 * np.cos(2 * np.pi * steps / 64)) ** 2
    # One frequency a ring, but two in the last, of which Nyquist's has no twin.
    power = abs(np.fft.fft(reference[0])[steps]) ** 2
    last = np.average(transfer[-2:], weights=power[-2:] * [2, 1])
    expected = np.mean([*transfer[:-2], last])
    assert found(perceptual.power_ratio, image, reference) == pytest.approx(expected)


def test_power_of_added_white_noise_is_the_references_and_its_own():
    size, sigma = 128, 0.3
    reference = noisy(np.zeros((size, size)), 1.0, 5)
    ratio = found(perceptual.power_ratio, noisy(reference, sigma, 6), reference)
    assert ratio == pytest.approx(1 + sigma**2, abs=0.01)


def test_the_similarities_are_symmetric_and_do_not_depend_on_orientation():
    reference = camera()
    image = noisy(reference, 0.1)
    for metric in (perceptual.gmsd, perceptual.haarpsi):
        value = found(metric, image, reference)
        assert found(metric, reference, image) == pytest.approx(value)
        assert found(metric, image.T.copy(), reference.T.copy()) == pytest.approx(value)
        # Haar's windows of even size lie differently about a pixel of a mirrored image.
        mirrored = [each[::-1].copy() for each in (image, reference)]
        assert found(metric, *mirrored) == pytest.approx(value, abs=0.01)


def test_similarities_do_not_depend_on_where_the_head_lies():
    reference, image = (np.pad(each, 32) for each in (head(), ndimage.gaussian_filter(head(), 1)))
    moved = [np.roll(each, (8, -16), axis=(0, 1)) for each in (image, reference)]
    for metric in METRICS:
        assert found(metric, *moved) == pytest.approx(found(metric, image, reference), rel=1e-5)


# --- the right order -------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [camera(), head()], ids=["camera", "head"])
def test_the_more_blur_or_noise_the_worse(reference):
    blurred = [ndimage.gaussian_filter(reference, sigma) for sigma in (0.5, 1, 2, 4)]
    noised = [noisy(reference, sigma) for sigma in (0.02, 0.05, 0.1, 0.2)]
    for worse in (blurred, noised):
        for metric, sign in ((perceptual.vif, 1), (perceptual.gmsd, -1), (perceptual.haarpsi, 1)):
            values = [sign * found(metric, image, reference) for image in worse]
            assert values == sorted(values, reverse=True), metric.__name__
            assert values[0] < sign * found(metric, reference, reference)


def test_blur_takes_power_and_noise_adds_it():
    # Without a margin of zeros, as photographs, the border's own power would hide what blur takes.
    blurred = [ndimage.gaussian_filter(head(), sigma) for sigma in (0.5, 1, 2, 4)]
    noised = [noisy(head(), sigma) for sigma in (0.02, 0.05, 0.1, 0.2)]
    ratio = [found(perceptual.power_ratio, image, head()) for image in (*blurred[::-1], *noised)]
    assert ratio == sorted(ratio)
    assert 0 < ratio[3] < 1 < ratio[4]


def test_more_contrast_is_more_information():
    assert found(perceptual.vif, 1.3 * camera(), camera()) > 1
    assert found(perceptual.vif, 0.7 * camera(), camera()) < 1


def test_unrelated_images_share_no_information():
    assert found(perceptual.vif, noisy(np.zeros((64, 64)), 0.3, 3), head()) < 0.05


# --- many at a time --------------------------------------------------------------------------


def test_slices_are_measured_each_by_itself():
    references = np.stack([camera(), head(), camera()[::-1]])
    images = np.stack([noisy(each, 0.1, n) for n, each in enumerate(references)])
    tensors = [torch.from_numpy(each)[:, None] for each in (images, references)]
    for metric in METRICS:
        alone = [found(metric, *pair) for pair in zip(images, references, strict=True)]
        assert metric(*tensors).tolist() == pytest.approx(alone)


def test_numbers_that_do_not_exist_are_nan():
    image, constant = camera(), np.full((64, 64), 0.3)
    assert np.isnan(found(perceptual.vif, image, constant))
    assert np.isnan(found(perceptual.power_ratio, image, 0 * constant))
    assert np.isnan(found(perceptual.haarpsi, 0 * constant, 0 * constant))
    assert found(perceptual.gmsd, 0 * constant, 0 * constant) == 0
    for metric in METRICS:
        assert np.isnan(found(metric, np.full((64, 64), np.nan), image))
