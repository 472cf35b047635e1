import numpy as np
import pytest
import torch
import torchmetrics.functional.image as torchmetrics
from skimage import data, filters, transform
from skimage.metrics import (
    normalized_root_mse,
    peak_signal_noise_ratio,
    structural_similarity,
)

from models import metrics


def noisy(references, seed):
    rng = np.random.default_rng(seed)
    images = references + rng.normal(0, 0.2, references.shape)
    return np.clip(images, -0.1, 1.2).astype(np.float32), references.astype(np.float32)


def photograph():
    """A real image with a smooth copy beside a noisy one."""
    camera = transform.resize(data.camera() / 255, (64, 48), anti_aliasing=True)
    images, references = noisy(np.stack([camera] * 2), 4)
    images[0] = filters.gaussian(camera, 1.0)
    return images, references


@pytest.fixture(params=["random", "photograph"])
def pair(request):
    """Images and references, (N, y, x) float32, around a data range of 1."""
    if request.param == "photograph":
        return photograph()
    return noisy(np.random.default_rng(3).random((3, 40, 32)), 3)


def tensors(pair):
    return [torch.from_numpy(a)[:, None] for a in pair]


def disc(pair):
    """Mask (N, 1, y, x) of a disc whose radius differs between images."""
    count, height, width = pair[0].shape
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - height / 2, x - width / 2)
    return torch.from_numpy(np.stack([radius < 9 + n for n in range(count)]))[:, None]


def each(function, pair):
    return [function(r, i) for i, r in zip(*pair, strict=True)]


def skimage_ssim_map(reference, image):
    # Gaussian window, sigma 1.5, truncated at 3.5 sigma: 11 x 11 pixels.
    return structural_similarity(
        reference.astype(np.float64),
        image.astype(np.float64),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1]


def test_psnr_agrees_with_scikit_image(pair):
    expected = each(lambda r, i: peak_signal_noise_ratio(r, i, data_range=1.0), pair)
    assert np.allclose(metrics.psnr_db(*tensors(pair)), expected, atol=1e-4)


def test_ssim_agrees_with_scikit_image(pair):
    # The two mirror the image differently at its border; on a margin of zeros, which scanner
    # images have, they agree.
    pair = [np.pad(a, ((0, 0), (8, 8), (8, 8))) for a in pair]
    expected = np.stack(each(skimage_ssim_map, pair))
    doubles = [tensor.double() for tensor in tensors(pair)]
    assert np.allclose(metrics.ssim_map(*doubles)[:, 0], expected, atol=1e-6)
    assert np.allclose(metrics.ssim(*tensors(pair)), expected.mean(axis=(1, 2)), atol=1e-5)


def test_ssim_and_psnr_agree_with_torchmetrics(pair):
    images, references = tensors(pair)
    expected = torchmetrics.structural_similarity_index_measure(
        images, references, data_range=1.0, sigma=1.5, reduction="none"
    )
    assert np.allclose(metrics.ssim(images, references), expected, atol=1e-5)
    expected = torchmetrics.peak_signal_noise_ratio(images[0], references[0], data_range=1.0)
    assert np.allclose(metrics.psnr_db(images, references)[0], expected, atol=1e-4)


def test_nrmse_agrees_with_scikit_image(pair):
    expected = each(lambda r, i: normalized_root_mse(r, i, normalization="euclidean"), pair)
    assert np.allclose(metrics.nrmse(*tensors(pair)), expected, rtol=1e-5)


def test_masked_metrics_agree_with_scikit_image_on_the_masks_pixels(pair):
    mask = disc(pair)
    for n, (image, reference) in enumerate(zip(*pair, strict=True)):
        inside = mask[n, 0].numpy()
        psnr_db = peak_signal_noise_ratio(reference[inside], image[inside], data_range=1.0)
        nrmse = normalized_root_mse(reference[inside], image[inside], normalization="euclidean")
        ssim = skimage_ssim_map(reference, image)[inside].mean()
        assert float(metrics.psnr_db(*tensors(pair), mask)[n]) == pytest.approx(psnr_db, abs=1e-4)
        assert float(metrics.nrmse(*tensors(pair), mask)[n]) == pytest.approx(nrmse, rel=1e-5)
        assert float(metrics.ssim(*tensors(pair), mask)[n]) == pytest.approx(ssim, abs=1e-5)


def test_pixels_outside_the_mask_do_not_matter(pair):
    images, references = tensors(pair)
    mask = disc(pair)
    changed = torch.where(mask, images, images + 5)
    for metric in (metrics.psnr_db, metrics.nrmse):
        assert torch.equal(metric(changed, references, mask), metric(images, references, mask))


def test_a_mask_of_everything_changes_nothing(pair):
    everything = torch.ones_like(disc(pair))
    for metric in (metrics.psnr_db, metrics.ssim, metrics.nrmse):
        assert np.allclose(metric(*tensors(pair), everything), metric(*tensors(pair)))


def test_closed_forms():
    reference = torch.zeros(1, 1, 16, 16)
    assert float(metrics.psnr_db(reference + 0.1, reference)) == pytest.approx(20.0)
    assert torch.isinf(metrics.psnr_db(reference, reference))
    assert float(metrics.ssim(reference + 0.5, reference + 0.5)) == pytest.approx(1.0)
    assert float(metrics.nrmse(reference + 1.1, reference + 1.0)) == pytest.approx(0.1)
    # Two constants: luminance alone, (2 a b + K1^2) / (a^2 + b^2 + K1^2).
    luminance = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    assert float(metrics.ssim(reference + 0.5, reference + 0.25)) == pytest.approx(luminance)


def test_numbers_that_do_not_exist_are_nan():
    images, references = torch.rand(2, 2, 1, 16, 16)
    nothing = torch.zeros_like(images, dtype=torch.bool)
    for metric in (metrics.psnr_db, metrics.ssim, metrics.nrmse):
        assert torch.isnan(metric(images, references, nothing)).all()
    assert torch.isnan(metrics.nrmse(images, torch.zeros_like(images))).all()
    constant = torch.full_like(images, 0.3)
    assert torch.isnan(metrics.sd_error_correlation(constant, images, ~nothing)).all()


def test_correlation_is_pearsons_over_the_mask(pair):
    deviations, errors = (a.abs() for a in tensors(pair))
    mask = disc(pair)
    found = metrics.sd_error_correlation(deviations, errors, mask)
    for n in range(len(found)):
        expected = np.corrcoef(deviations[n][mask[n]], errors[n][mask[n]])[0, 1]
        assert float(found[n]) == pytest.approx(expected, abs=1e-6)
    assert np.allclose(metrics.sd_error_correlation(errors, 3 * errors + 1, mask), 1)
    assert np.allclose(metrics.sd_error_correlation(errors, 1 - errors, mask), -1)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_coverage_of_a_gaussian_posterior_is_nominal(count):
    rng = torch.Generator().manual_seed(count)
    draws = torch.randn(2, count + 1, 200, 200, generator=rng) * 3 + 7
    mask = torch.rand(2, 1, 200, 200, generator=rng) < 0.8
    found = metrics.interval_coverage(draws[:, 1:], draws[:, :1], mask)
    levels = [(count + 1 - 2 * j) / (count + 1) for j in range(1, count // 2 + 1)]
    assert list(found) == levels
    for level, share in found.items():
        assert np.allclose(share, level, atol=0.012)  # 4 standard deviations of 32,000 pixels


def test_coverage_of_a_posterior_that_is_too_narrow_is_below_nominal():
    rng = torch.Generator().manual_seed(1)
    samples, reference = torch.randn(1, 9, 64, 64, generator=rng) / 2, torch.randn(1, 1, 64, 64)
    everything = torch.ones_like(reference, dtype=torch.bool)
    for level, share in metrics.interval_coverage(samples, reference, everything).items():
        assert float(share) < level - 0.05


def test_coverage_counts_between_the_jth_smallest_and_largest():
    samples = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1).expand(1, 4, 1, 6)
    reference = torch.tensor([0.0, 1.0, 1.5, 2.5, 4.0, 5.0]).view(1, 1, 1, 6)
    everything = torch.ones_like(reference, dtype=torch.bool)
    found = metrics.interval_coverage(samples, reference, everything)
    assert {level: float(share) for level, share in found.items()} == pytest.approx(
        {3 / 5: 4 / 6, 1 / 5: 1 / 6}
    )


def test_tissue_means():
    labels = np.array([[[0, 1, 2], [2, 3, 3]], [[2, 2, 2], [0, 3, 1]]])
    images = np.array([[[9.0, 9.0, 4.0], [6.0, 2.0, 3.0]], [[1.0, 2.0, 3.0], [9.0, 0.5, 9.0]]])
    grey, white = (metrics.tissue_mean(images, labels == tissue) for tissue in (2, 3))
    assert grey.tolist() == [5.0, 2.0]
    assert white.tolist() == [2.5, 0.5]


def test_a_missing_tissue_has_no_mean():
    everywhere = np.ones((1, 2, 2), bool)
    assert metrics.tissue_mean(np.ones((1, 2, 2)), everywhere) == 1
    assert np.isnan(metrics.tissue_mean(np.ones((1, 2, 2)), ~everywhere))
