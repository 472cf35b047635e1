import pytest
import torch
import torch.nn.functional as F

from benchmarks import small_unet, unet
from helpers.configurations import ROOT


def test_ratios_are_taken_turn_by_turn():
    times = {"reference": [2.0, 8.0, 6.0], "fp32": [1.0, 2.0, 2.0], "bf16": [1.0, 1.0, 6.0]}
    assert unet.ratios(times) == {"reference": 1.0, "fp32": 3.0, "bf16": 2.0}


def test_without_the_reference_there_are_no_ratios():
    assert unet.ratios({"fp32": [1.0], "bf16": [2.0]}) == {}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    {
        "time_mlp.3.bias": "time.mlp.2.bias",
        "downs.2.0.block1.norm.g": "down.2.blocks.0.unit1.norm.gain",
        "downs.3.3.weight": "down.3.resample.weight",
        "ups.0.3.1.bias": "up.0.resample.bias",
        "ups.1.2.to_out.0.bias": "up.1.attention.out.bias",
        "ups.1.2.to_out.1.g": "up.1.attention.out_norm.gain",
        "mid_attn.to_out.bias": "middle.attention.out.bias",
        "mid_block2.mlp.1.weight": "middle.block2.time.1.weight",
        "final_res_block.res_conv.weight": "head_block.shortcut.weight",
    }.items(),
)
def test_names_of_weights(theirs, ours):
    assert unet.renamed(theirs) == ours


@pytest.mark.parametrize("name", ["extra.weight", "downs.0.4.weight", "mid_attn.scale"])
def test_a_weight_without_counterpart_is_refused(name):
    with pytest.raises(KeyError, match="no counterpart"):
        unet.weights_from({name: torch.zeros(1)})


def test_two_weights_for_one_are_refused():
    twice = {"downs.0.3.weight": torch.zeros(1), "downs.0.3.1.weight": torch.zeros(1, 4, 1, 1)}
    with pytest.raises(KeyError, match="not the only"):
        unet.weights_from(twice)


def test_a_1x1_convolution_after_space_to_depth_becomes_a_strided_one():
    x, weight = torch.randn(1, 3, 8, 8), torch.randn(5, 12, 1, 1)
    (mapped,) = unet.weights_from({"downs.0.3.1.weight": weight}).values()
    expected = F.conv2d(F.pixel_unshuffle(x, 2), weight)
    torch.testing.assert_close(F.conv2d(x, mapped, stride=2), expected)


def test_shapes_of_attention():
    memory, out = torch.randn(2, 4, 32, 6), torch.randn(8, 128, 1, 1)
    linear = {"downs.0.2.mem_kv": memory, "downs.0.2.to_out.0.weight": out}
    full = {"mid_attn.mem_kv": memory, "mid_attn.to_out.weight": out}
    mapped = unet.weights_from(linear | full)
    assert torch.equal(mapped["down.0.attention.memory"], memory.mT)
    assert torch.equal(mapped["middle.attention.memory"], memory)
    assert torch.equal(mapped["down.0.attention.out.weight"], out[:, :, 0, 0])
    assert torch.equal(mapped["middle.attention.out.weight"], out[:, :, 0, 0])


def test_the_network_is_that_of_the_reference():
    if not (unet.REFERENCE / unet.PACKAGE).is_dir():
        pytest.skip(f"{unet.PACKAGE} is not installed: `make bench` does it")
    errors = unet.apart(unet.compare, 32, 1, 8)  # 32 x 32 pixels, one thread, 8 channels
    assert errors.pop("output") < unet.TOLERANCE
    assert max(errors.values()) < 1e-3


def test_the_small_network_of_another_checkout_is_compared():
    here, there = unet.apart(small_unet.outcome, None), unet.apart(small_unet.outcome, str(ROOT))
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_the_small_network_competes():
    contestant = small_unet.competitor(small_unet.NOW, None)
    before = [p.detach().clone() for p in contestant.network.parameters()]
    contestant.train()
    moved = zip(before, contestant.network.parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in moved)
    assert contestant.predict().shape == (small_unet.BATCH, 1, small_unet.SIZE, small_unet.SIZE)
