import pytest
import torch
import torch.nn.functional as F

from models.methods.base import trainable_parameters as count
from models.networks import blocks
from models.networks.blocks import FullAttention, LinearAttention, RMSNorm, Upsample
from models.networks.unet import Features, UNet


def small(**options):
    torch.manual_seed(0)
    return UNet(width=8, multipliers=(1, 2, 3), heads=2, head_dim=4, **options)


def test_parameter_counts_of_the_paper():
    with torch.device("meta"):
        assert count(UNet(in_channels=1)) == 33_550_209
        assert count(UNet(in_channels=2, time_conditioned=True)) == 35_708_225


def conv_unit(low, high):
    return 9 * low * high + 2 * high  # bias and gain


def res_block(low, high, time_channels):
    shortcut = low * high + high if low != high else 0
    return conv_unit(low, high) + conv_unit(high, high) + shortcut + 2 * high * (time_channels + 1)


@pytest.mark.parametrize("blocks", [1, 3])
def test_every_block_is_one_in_each_down_and_up_stage(blocks):
    width = 8
    stages = [(width, width), (width, 2 * width), (2 * width, 3 * width)]
    a_block = sum(
        res_block(low, low, 4 * width) + res_block(low + high, high, 4 * width)
        for low, high in stages
    )
    two, other = (small(time_conditioned=True, blocks=n) for n in (2, blocks))
    assert count(other) - count(two) == (blocks - 2) * a_block


@pytest.mark.parametrize("patch", [2, 4])
def test_patches_add_weights_to_the_first_and_last_convolution_alone(patch):
    plain, patched = (small(in_channels=2, patch=p) for p in (1, patch))
    more = patch**2 - 1
    assert count(patched) - count(plain) == 49 * 2 * more * 8 + more * (8 + 1)
    names = {
        name
        for (name, one), two in zip(plain.named_parameters(), patched.parameters(), strict=True)
        if one.shape != two.shape
    }
    assert names == {"stem.weight", "head.weight", "head.bias"}


def test_patches_are_space_to_depth_around_a_network_of_more_channels():
    patched = small(in_channels=2, time_conditioned=True, patch=2)
    plain = small(in_channels=8, out_channels=4, time_conditioned=True)
    plain.load_state_dict(patched.state_dict())
    x, t = torch.rand(2, 2, 16, 24), torch.tensor([3, 700])
    expected = F.pixel_shuffle(plain(F.pixel_unshuffle(x, 2), t), 2)
    assert torch.equal(patched(x, t), expected)
    source, same = small(in_channels=1, patch=2), small(in_channels=4, out_channels=4)
    same.load_state_dict(source.state_dict())
    features = source.features(x[:, :1])
    assert features.down[0].shape == (2, 8, 8, 12)
    expected = same.features(F.pixel_unshuffle(x[:, :1], 2))
    assert all(map(torch.equal, features.down, expected.down))
    assert all(map(torch.equal, features.middle, expected.middle))


def test_feature_shapes_of_the_paper():
    with torch.device("meta"):
        features = UNet().features(torch.zeros(1, 1, 256, 256))
    assert [tuple(f.shape[1:]) for f in features.down] == [
        (64, 256, 256),
        (64, 128, 128),
        (128, 64, 64),
        (256, 32, 32),
    ]
    assert [tuple(f.shape[1:]) for f in features.middle] == [(512, 32, 32)] * 2


SHAPES = pytest.mark.parametrize(("blocks", "patch"), [(2, 1), (1, 1), (3, 1), (1, 2)])


@SHAPES
def test_output_has_the_shape_of_the_input(blocks, patch):
    network = small(in_channels=2, time_conditioned=True, blocks=blocks, patch=patch)
    assert network(torch.rand(3, 2, 8, 16), torch.tensor([0, 5, 999])).shape == (3, 1, 8, 16)


@SHAPES
def test_gradient_reaches_every_parameter(blocks, patch):
    network = small(time_conditioned=True, blocks=blocks, patch=patch)
    network(torch.rand(2, 1, 16, 16), torch.tensor([5, 500])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@SHAPES
def test_zero_features_change_nothing_and_others_do(blocks, patch):
    source = small(blocks=blocks, patch=patch)
    network = small(in_channels=2, time_conditioned=True, blocks=blocks, patch=patch)
    x, t = torch.rand(2, 2, 16, 16), torch.tensor([1, 500])
    features = source.features(x[:, :1])
    zeros = features.map(torch.zeros_like)
    plain = network(x, t)
    assert torch.equal(network(x, t, zeros), plain)
    for index in range(len(features.down)):
        down = _only(index, features.down, zeros.down)
        assert not torch.allclose(network(x, t, Features(down, zeros.middle)), plain)
    for index in range(2):
        middle = _only(index, features.middle, zeros.middle)
        assert not torch.allclose(network(x, t, Features(zeros.down, middle)), plain)


def _only(index, features, zeros):
    return (*zeros[:index], features[index], *zeros[index + 1 :])


def test_features_are_those_of_the_forward_pass():
    network = small()
    seen = {}
    network.middle.register_forward_hook(lambda *a: seen.update(middle=a[-1]))
    x = torch.rand(1, 1, 16, 16)
    network(x)
    assert all(map(torch.equal, network.features(x).middle, seen["middle"]))


def test_slices_of_a_batch_do_not_see_each_other():
    network = small(in_channels=1, time_conditioned=True)
    x, t = torch.rand(3, 1, 16, 16), torch.tensor([3, 400, 999])
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    assert torch.allclose(network(x, t), alone, atol=1e-5)
    order = [2, 0, 1]
    assert torch.allclose(network(x[order], t[order]), alone[order], atol=1e-5)


def test_time_matters():
    network = small(time_conditioned=True)
    x = torch.rand(1, 1, 16, 16)
    assert not torch.allclose(network(x, torch.tensor([0])), network(x, torch.tensor([999])))


def test_time_must_match_the_network():
    x = torch.rand(1, 1, 16, 16)
    with pytest.raises(ValueError, match="time-conditioned"):
        small()(x, torch.tensor([0]))
    with pytest.raises(ValueError, match="time-conditioned"):
        small(time_conditioned=True)(x)


def test_pixels_must_fit_the_stages():
    with pytest.raises(ValueError, match="multiples of 4"):
        small()(torch.rand(1, 1, 16, 18))
    with pytest.raises(ValueError, match="multiples of 8"):
        small(patch=2)(torch.rand(1, 1, 16, 20))


def test_rms_norm_gives_every_pixel_the_same_length():
    length = RMSNorm(9)(torch.randn(2, 9, 4, 4)).norm(dim=1)
    assert torch.allclose(length, torch.full_like(length, 3.0))


@pytest.mark.parametrize("kind", [LinearAttention, FullAttention])
def test_attention_has_no_notion_of_place(kind):
    torch.manual_seed(0)
    attention, x = kind(8, 2, 4, 4), torch.randn(1, 8, 4, 4)
    order = torch.randperm(16)
    shuffled = attention(x.flatten(2)[..., order].reshape(x.shape))
    expected = attention(x).flatten(2)[..., order].reshape(x.shape)
    assert torch.allclose(shuffled, expected, atol=1e-5)


def test_full_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    attention, x = FullAttention(8, 1, 4, 2), torch.randn(1, 8, 2, 2)
    pixels = attention.norm(x)[0].flatten(1).T  # (pixel, C)
    q, k, v = attention.qkv(pixels).chunk(3, dim=1)  # (pixel, D) each
    k, v = (torch.cat([m[0], z]) for m, z in zip(attention.memory, (k, v), strict=True))
    expected = x[0].flatten(1).T + attention.out((q @ k.T / 2).softmax(-1) @ v)
    assert torch.allclose(attention(x)[0].flatten(1).T, expected, atol=1e-5)


def test_linear_attention_is_a_product_of_softmaxes():
    torch.manual_seed(0)
    attention, x = LinearAttention(8, 1, 4, 2), torch.randn(1, 8, 2, 2)
    pixels = attention.norm(x)[0].flatten(1).T
    q, k, v = attention.qkv(pixels).chunk(3, dim=1)
    k, v = (torch.cat([m[0], z]) for m, z in zip(attention.memory, (k, v), strict=True))
    weights = q.softmax(-1) @ k.softmax(0).T / 2  # (pixel, memory + pixel)
    expected = x + attention.out_norm(attention.out(weights @ v).T.reshape(1, 8, 2, 2))
    assert torch.allclose(attention(x), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
def test_upsampling_is_nearest_neighbour_then_a_convolution(size):
    torch.manual_seed(0)
    upsample, x = Upsample(3, 5), torch.randn(2, 3, *size)
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    expected = F.conv2d(doubled, upsample.weight, upsample.bias, padding=1)
    assert torch.allclose(upsample(x), expected, atol=1e-5)


def test_downsampling_is_space_to_depth_then_a_1x1_convolution():
    torch.manual_seed(0)
    conv, x = small().down[0].resample, torch.randn(2, 8, 6, 4)
    expected = F.conv2d(F.pixel_unshuffle(x, 2), conv.weight.flatten(1)[..., None, None], conv.bias)
    assert torch.allclose(conv(x), expected, atol=1e-5)


def test_checkpointing_changes_no_gradient():
    network = small(in_channels=2, time_conditioned=True)
    source = small()
    x, t = torch.rand(2, 2, 16, 16), torch.tensor([1, 500])
    features = source.features(x[:, :1]).map(torch.Tensor.detach)
    gradients = []
    for network.checkpointing in (False, True):
        loss = network(x, t, features).square().sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    assert all(map(torch.equal, *gradients))


def test_full_attention_is_the_same_of_few_positions_and_of_many(monkeypatch):
    torch.manual_seed(0)
    attention, x = FullAttention(6, 2, 3, 4), torch.randn(2, 6, 4, 5)
    results = []
    for few in (0, 256):
        monkeypatch.setattr(blocks, "FEW_POSITIONS", few)
        y = attention(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), attention.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
