import pytest
import torch

from models.methods.pnpnet import dwt_loss, regression_loss


def images(n=3, size=16):
    draw = torch.Generator().manual_seed(1)
    return torch.rand(2, n, 1, size, size, generator=draw).unbind()


@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym4"])
def test_equal_images_and_constant_shifts_cost_nothing(wavelet):
    image, _ = images(size=32)
    assert dwt_loss(image, image, wavelet, 2) == 0
    assert dwt_loss(image + 0.3, image, wavelet, 2) < 1e-10


def test_haar_details_and_approximation_add_up_to_the_mean_squared_error():
    a, b = images()
    mse = (a - b).square().mean()
    for levels in (1, 2, 3):
        block = 2**levels
        means = torch.nn.functional.avg_pool2d(a - b, block)
        approximation = means.square().sum() * block**2 / a.numel()
        assert torch.allclose(dwt_loss(a, b, "haar", levels) + approximation, mse, rtol=1e-4)


def test_one_pixel_checkerboard_is_all_detail():
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = ((-1.0) ** (rows + columns))[None, None]
    assert torch.allclose(dwt_loss(board, torch.zeros_like(board), "haar", 1), torch.tensor(1.0))


def test_regression_loss_is_the_weighted_sum_of_its_terms():
    a, b = images()
    terms = regression_loss(a, b, 0.1, "haar", 2)
    assert torch.allclose(terms["mse"], (a - b).square().mean())
    assert torch.allclose(terms["loss"], terms["mse"] + 0.1 * terms["dwt"])
