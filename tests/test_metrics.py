import numpy as np
import pytest
import torch
from skimage.metrics import (
    normalized_root_mse,
    peak_signal_noise_ratio,
    structural_similarity,
)

from models import metrics


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    reference = rng.random((3, 40, 32)).astype(np.float32)
    image = np.clip(reference + rng.normal(0, 0.2, reference.shape), -0.1, 1.2).astype(np.float32)
    return image, reference


def tensors(pair):
    return (torch.from_numpy(a)[:, None] for a in pair)


def each(function, pair):
    return [function(r, i) for i, r in zip(*pair, strict=True)]


def test_psnr_agrees_with_scikit_image(pair):
    expected = each(lambda r, i: peak_signal_noise_ratio(r, i, data_range=1.0), pair)
    assert np.allclose(metrics.psnr_db(*tensors(pair)), expected, atol=1e-4)


def test_ssim_agrees_with_scikit_image(pair):
    # Gaussian window, sigma 1.5, truncated at 3.5 sigma: 11 x 11 pixels. scikit-image's own mean
    # leaves the border out, where both mirror the image differently; on a margin of zeros, which
    # scanner images have, they agree.
    pair = [np.pad(a, ((0, 0), (8, 8), (8, 8))) for a in pair]
    expected = each(
        lambda r, i: structural_similarity(
            r,
            i,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1].mean(),
        pair,
    )
    assert np.allclose(metrics.ssim(*tensors(pair)), expected, atol=1e-4)


def test_nrmse_agrees_with_scikit_image(pair):
    expected = each(lambda r, i: normalized_root_mse(r, i, normalization="euclidean"), pair)
    assert np.allclose(metrics.nrmse(*tensors(pair)), expected, rtol=1e-5)


def test_closed_forms():
    reference = torch.zeros(1, 1, 16, 16)
    assert torch.allclose(metrics.psnr_db(reference + 0.1, reference), torch.tensor(20.0))
    assert torch.isinf(metrics.psnr_db(reference, reference))
    assert torch.allclose(metrics.ssim(reference + 0.5, reference + 0.5), torch.tensor(1.0))
    assert torch.allclose(metrics.nrmse(reference + 1.1, reference + 1.0), torch.tensor(0.1))


def test_tissue_means_and_contrast():
    labels = np.array([[0, 1, 2], [2, 3, 3]])
    image = np.array([[9.0, 9.0, 4.0], [6.0, 2.0, 3.0]])
    assert metrics.tissue_means(image, labels) == (5.0, 2.5)
    assert metrics.contrast_recovery((5.0, 2.5), (128.0, 32.0)) == pytest.approx(1 / 3)
    assert metrics.contrast_recovery((128.0, 32.0), (128.0, 32.0)) == 1.0


def test_missing_tissue_has_no_contrast():
    means = metrics.tissue_means(np.ones((2, 2)), np.full((2, 2), 2))
    assert means[0] == 1
    assert np.isnan(means[1])
    assert np.isnan(metrics.contrast_recovery(means, (128.0, 32.0)))
    assert np.isnan(metrics.contrast_recovery((1.0, 0.0), (128.0, 32.0)))
    assert np.isnan(metrics.contrast_recovery((1.0, 1.0), (32.0, 32.0)))
    assert np.isnan(metrics.contrast_recovery((40.0, 32.0), (47.0, 32.0)))
