"""The fused operations against the plain ones in float64, and which of them are chosen where."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.testing import assert_close

from models.networks import convolution, fused, plain
from models.networks.blocks import operations
from models.networks.unet import UNet

# Chunks of a few rows, so that every image here has several.
CHUNKS = (16, 2**19)


def random(*shape, seed=0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


def compare(operation, *inputs, rtol=1e-4):
    """Compare values and all gradients of a fused operation with the plain one's."""
    doubles = [x if x is None else x.detach().double().requires_grad_() for x in inputs]
    found, expected = getattr(fused, operation)(*inputs), getattr(plain, operation)(*doubles)
    assert expected.dtype == torch.float64
    assert_close(found, expected.float(), rtol=rtol, atol=1e-5)
    weights = random(*found.shape, seed=99).detach()
    gradients = torch.autograd.grad(found, [x for x in inputs if x is not None], weights)
    doubles = [x for x in doubles if x is not None]
    references = torch.autograd.grad(expected, doubles, weights.double())
    for gradient, reference in zip(gradients, references, strict=True):
        scale = float(reference.abs().max())
        assert_close(gradient, reference.float(), rtol=rtol, atol=1e-5 * max(scale, 1))


@pytest.fixture(params=CHUNKS)
def chunk(request, monkeypatch):
    monkeypatch.setattr(fused, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("rows", [1, 2])
def test_norm_silu_is_the_plain_one(rows):
    x, gain, shift = random(2, 6, 4, 5), random(rows, 6, seed=1), random(rows, 6, seed=2)
    compare("norm_silu", x, gain, shift)
    compare("norm_silu", x, gain)
    compare("norm_silu", x, gain, shift, random(2, 6, 4, 5, seed=3))


def test_the_plain_norm_is_its_formula():
    x, gain, shift = random(1, 3, 1, 1), random(1, 3, seed=1), random(1, 3, seed=2)
    vector = x.detach().flatten()
    z = gain * vector / vector.square().sum().sqrt()
    assert_close(plain.norm(x, gain, x).flatten(), z[0] + vector)
    expected = (z + shift) / (1 + (-z - shift).exp())
    assert_close(plain.norm_silu(x, gain, shift).flatten(), expected[0])


@pytest.mark.usefixtures("chunk")
def test_a_residual_is_added_after_the_activation():
    x, gain, residual = random(2, 6, 4, 5), random(1, 6, seed=1), random(2, 6, 4, 5, seed=2)
    compare("norm_silu", x, gain, None, residual)
    compare("norm", x, gain, residual)
    assert_close(plain.norm_silu(x, gain, None, residual), plain.norm_silu(x, gain) + residual)


@pytest.mark.parametrize("module", [fused, plain])
def test_a_pixel_without_signal_stays_finite(module):
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    y = module.norm_silu(x, torch.ones(1, 3))
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_linear_attention_is_the_plain_one(scale):
    """Also where a few keys dominate, late ones among them."""
    with torch.no_grad():
        qkv = random(3 * 2 * 4, 6, seed=1) * scale
    inputs = [
        random(2, 6, 5, 7),
        qkv.requires_grad_(),
        random(2, 2, 3, 4, seed=2),
        random(6, 2 * 4, seed=3),
        random(6, seed=4),
    ]
    compare("linear_attention", *inputs, rtol=1e-3)


def test_plain_linear_attention_is_its_formula():
    """Of a single head, a sum over the pixels and memory entries for each pixel."""
    x, qkv, memory = random(1, 3, 2, 2), random(6, 3, seed=1), random(2, 1, 1, 2, seed=2)
    out, bias = random(3, 2, seed=3), random(3, seed=4)
    pixels = x[0].flatten(1).T
    queries, keys, values = (pixels @ weights.T for weights in qkv.chunk(3))
    keys, values = torch.cat([memory[0, 0], keys]), torch.cat([memory[1, 0], values])
    rows = []
    for query in queries:
        shares = [key.exp() / keys.exp().sum(0) for key in keys]
        q = query.exp() / query.exp().sum() / 2**0.5
        rows.append(out @ sum((q @ k) * v for k, v in zip(shares, values, strict=True)) + bias)
    found = plain.linear_attention(x, qkv, memory, out, bias)
    assert_close(found[0].flatten(1).T, torch.stack(rows))


@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 5),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    chunk=st.integers(1, 64),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_chunks_change_nothing(n, channels, height, width, chunk):
    x, gain = random(n, channels, height, width).detach(), random(1, channels, seed=1).detach()
    whole = fused.norm_silu(x, gain, gain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "CHUNK", chunk)
        assert_close(fused.norm_silu(x, gain, gain), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("few", [0, 200])  # a batch has 112 or 128 pixels
@pytest.mark.parametrize("height", [8, 7])  # with and without strips
def test_a_convolutions_gradient_does_not_depend_on_how_it_is_computed(monkeypatch, height, few):
    x = random(2, 4, height, 8).detach().bfloat16().requires_grad_()
    inputs = [x, *(p.detach().bfloat16().requires_grad_() for p in (random(3, 4, 3, 3), random(3)))]
    dy = random(2, 3, height, 8, seed=5).detach().bfloat16()
    expected = torch.autograd.grad(F.conv2d(*inputs, padding=1), inputs, dy)
    monkeypatch.setattr(convolution, "STRIP", 4 * 8 * 2)
    monkeypatch.setattr(convolution, "FEW_PIXELS", few)
    found = torch.autograd.grad(fused.conv3x3(*inputs), inputs, dy)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=2e-2, atol=2e-2)
    frozen = [x, *(p.detach() for p in inputs[1:])]
    (of_input,) = torch.autograd.grad(fused.conv3x3(*frozen), x, dy)
    assert torch.equal(of_input, found[0])


@pytest.mark.parametrize("module", [fused, plain])
def test_precision_follows_autocast(module):
    inputs = random(1, 4, 4, 4), random(3, 4, 3, 3), random(3)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.conv3x3(*inputs).dtype == torch.bfloat16
        x = inputs[0].bfloat16()
        y = module.norm_silu(x, torch.ones(1, 4), residual=x)
        attention = random(24, 4), random(2, 2, 3, 4), random(4, 8), random(4)
        out = module.linear_attention(x, *attention)
    for found, name, others in (
        (y, "norm_silu", (torch.ones(1, 4), None, x.double())),
        (out, "linear_attention", [t.double() for t in attention]),
    ):
        assert found.dtype == torch.bfloat16
        expected = getattr(plain, name)(x.double(), *others)
        assert float(((found - expected).norm() / expected.norm()).detach()) < 2e-2
    torch.autograd.grad(out.float().sum(), attention)


def test_a_norm_is_computed_in_float32_whatever_the_precision():
    """The sum of squares of a thousand channels has more digits than bfloat16."""
    x, gain = random(1, 1000, 1, 1).bfloat16(), torch.ones(1, 1000)
    expected = plain.norm(x.double(), gain.double()).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain.norm(x, gain), expected)
        assert torch.equal(fused.norm(x, gain), expected)


def test_processors_compute_with_the_fused_ones_in_float32_and_shorter():
    """And so are memory and sizes counted, without a device; GPUs take the plain ones."""
    x = torch.zeros(1, 1, 1, 1)
    assert operations(x) is operations(x.bfloat16()) is operations(x.to("meta")) is fused
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert operations(x.double()) is operations(on_gpu) is plain


@pytest.mark.parametrize("multipliers", [(1, 2), (1, 1, 2)])
def test_a_network_in_float64_is_the_same(multipliers):
    torch.manual_seed(0)
    network = UNet(8, multipliers, time_conditioned=True, heads=2, head_dim=4)
    x, t = random(2, 1, 16, 16), torch.tensor([3, 900])
    found = network(x, t).detach()
    expected = network.double()(x.double(), t).detach()
    assert expected.dtype == torch.float64
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_plain_operations_are_one_graph_for_torch_compile():
    x, gain, attention = random(1, 4, 4, 4), random(1, 4), (random(24, 4), random(2, 2, 3, 4))
    weights = *attention, random(4, 8), random(4), random(4, 4, 3, 3)

    def block(x, gain, qkv, memory, out, bias, kernel):
        y = plain.norm_silu(plain.conv3x3(x, kernel, bias), gain, gain, x)
        return plain.norm(plain.linear_attention(y, qkv, memory, out, bias), gain, y)

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    found, expected = compiled(x, gain, *weights), block(x, gain, *weights)
    assert_close(found, expected)
    inputs = (x, gain, *weights)
    assert_close(
        torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), inputs)
    )
