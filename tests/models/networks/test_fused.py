"""The fused operations against the same formulas in plain PyTorch, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.testing import assert_close

from models.networks import fused

# Chunks of a few rows, so that every image here has several.
CHUNKS = (16, 2**19)


def random(*shape, seed=0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


def compare(function, plain, inputs, rtol=1e-4):
    """Compare values and all gradients."""
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    found, expected = function(*inputs), plain(*doubles)
    assert_close(found, expected.float(), rtol=rtol, atol=1e-5)
    weights = random(*found.shape, seed=99).detach()
    gradients = torch.autograd.grad(found, inputs, weights)
    references = torch.autograd.grad(expected, doubles, weights.double())
    for gradient, reference in zip(gradients, references, strict=True):
        scale = float(reference.abs().max())
        assert_close(gradient, reference.float(), rtol=rtol, atol=1e-5 * max(scale, 1))


def plain_norm(x, gain, shift=None):
    z = F.normalize(x, dim=1) * gain[..., None, None]
    return z if shift is None else F.silu(z + shift[..., None, None])


@pytest.fixture(params=CHUNKS)
def chunk(request, monkeypatch):
    monkeypatch.setattr(fused, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("rows", [1, 2])
def test_norm_silu_is_its_formula(rows):
    inputs = [random(2, 6, 4, 5), random(rows, 6, seed=1), random(rows, 6, seed=2)]
    compare(fused.norm_silu, plain_norm, inputs)


@pytest.mark.usefixtures("chunk")
def test_no_shift_is_a_shift_of_zero():
    x, gain = random(2, 6, 4, 5), random(1, 6, seed=1)
    compare(fused.norm_silu, lambda x, g: plain_norm(x, g, torch.zeros_like(g)), [x, gain])


@pytest.mark.usefixtures("chunk")
def test_a_residual_is_added_after_the_activation():
    inputs = [random(2, 6, 4, 5), random(1, 6, seed=1), random(2, 6, 4, 5, seed=2)]
    compare(
        lambda x, g, r: fused.norm_silu(x, g, residual=r),
        lambda x, g, r: plain_norm(x, g, torch.zeros_like(g)) + r,
        inputs,
    )
    compare(fused.norm, lambda x, g, r: plain_norm(x, g) + r, inputs)


def test_a_pixel_without_signal_stays_finite():
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    y = fused.norm_silu(x, torch.ones(1, 3))
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def plain_attention(x, qkv, memory, out, bias):
    heads, dim = memory.shape[1], memory.shape[3]
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (tokens @ qkv.T).unflatten(-1, (3, heads, dim)).permute(2, 0, 3, 1, 4)
    k, v = (
        torch.cat([m.expand(len(x), -1, -1, -1), image], dim=2)
        for m, image in zip(memory, (k, v), strict=True)
    )
    weights = q.softmax(-1) @ k.softmax(2).transpose(-1, -2) / dim**0.5
    tokens = (weights @ v).transpose(1, 2).flatten(2) @ out.T + bias
    return tokens.transpose(1, 2).unflatten(-1, x.shape[2:])


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_linear_attention_is_its_formula(scale):
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
    compare(fused.linear_attention, plain_attention, inputs, rtol=1e-3)


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


@pytest.mark.parametrize("height", [8, 7])  # with and without strips
def test_a_convolutions_gradient_does_not_depend_on_strips(monkeypatch, height):
    x = random(2, 4, height, 8).detach().bfloat16().requires_grad_()
    inputs = [x, *(p.detach().bfloat16().requires_grad_() for p in (random(3, 4, 3, 3), random(3)))]
    dy = random(2, 3, height, 8, seed=5).detach().bfloat16()
    expected = torch.autograd.grad(F.conv2d(*inputs, padding=1), inputs, dy)
    monkeypatch.setattr(fused, "CHUNK", 4 * 8 * 2)
    found = torch.autograd.grad(fused.conv3x3(*inputs), inputs, dy)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_precision_follows_autocast():
    inputs = random(1, 4, 4, 4), random(3, 4, 3, 3), random(3)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.conv3x3(*inputs).dtype == torch.bfloat16
        x = inputs[0].bfloat16()
        y = fused.norm_silu(x, torch.ones(1, 4))
        assert y.dtype == torch.bfloat16
        assert_close(
            y.float(),
            plain_norm(x.float(), torch.ones(1, 4), torch.zeros(1, 4)),
            rtol=1e-2,
            atol=1e-2,
        )
        attention = random(24, 4), random(2, 2, 3, 4), random(4, 8), random(4)
        out = fused.linear_attention(x, *attention)
        assert out.dtype == torch.bfloat16
        expected = plain_attention(x.float(), *attention)
        assert float(((out - expected).norm() / expected.norm()).detach()) < 2e-2
        torch.autograd.grad(out.float().sum(), attention)
