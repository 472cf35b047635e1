from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.small_models import own_settings
from models.training.optim import (
    Weights,
    averaged,
    gradient_norm,
    learning_rate,
    make_optimiser,
)

SETTINGS = own_settings("PnPNet", learning_rate=2.0, warmup_steps=4, schedule="cosine")


def test_learning_rate_warms_up_and_falls_along_a_half_cosine():
    rates = [learning_rate(SETTINGS, step, 12) for step in range(12)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[8] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(SETTINGS, 12, 12) == pytest.approx(0.0)


def test_a_constant_learning_rate_stays():
    fixed = replace(SETTINGS, schedule="constant", warmup_steps=0)
    assert {learning_rate(fixed, step, 12) for step in range(12)} == {2.0}


def test_gradients_are_shortened_together_and_only_if_they_are_too_long():
    for largest, factor in ((0.0, 1.0), (10.0, 1.0), (1.0, 0.2)):
        network = nn.ParameterList([torch.zeros(2), torch.zeros(1)])
        weights = Weights(network)
        network[0].grad, network[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
        weights.take_gradients()
        assert gradient_norm(weights, largest) == 5.0
        found = torch.cat([row.grad for row in weights.rows])
        assert torch.allclose(found, factor * torch.tensor([3.0, 0.0, 4.0]), rtol=1e-4)


@pytest.mark.parametrize("gradients", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_and_gradients_may_lie_in_any_order(layout, gradients):
    def network():
        torch.manual_seed(0)
        layers = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 1, 3), nn.Linear(2, 2)
        return nn.Sequential(*layers).to(memory_format=layout)

    own = own_settings("PnPNet", optimiser="adamw", learning_rate=0.1, weight_decay=0.2)
    one, other = network(), network()
    weights = Weights(one)
    optimiser = make_optimiser(weights, own)
    expected = torch.optim.AdamW(
        other.parameters(), lr=0.1, betas=tuple(own.betas), weight_decay=0.2, foreach=False
    )
    for _ in range(3):
        weights.forget_gradients()
        assert all(parameter.grad is None for parameter in one.parameters())
        for each, wanted in zip(one.parameters(), other.parameters(), strict=True):
            wanted.grad = torch.randn_like(wanted)
            order = gradients if each.ndim == 4 else torch.contiguous_format
            each.grad = wanted.grad.clone(memory_format=order)
        weights.take_gradients()
        optimiser.step()
        expected.step()
    for each, wanted in zip(one.parameters(), other.parameters(), strict=True):
        assert each.stride() == wanted.stride()
        assert torch.allclose(each, wanted, rtol=1e-5, atol=1e-6)


def test_the_average_is_exponential_and_includes_buffers():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average, decay = averaged(network, 0.75), 0.75
    expected = None
    for value in (1.0, 5.0, -2.0):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(2 * value)
        average.update_parameters(network)
        # The first update copies.
        expected = value if expected is None else decay * expected + (1 - decay) * value
    found = average.module
    assert torch.allclose(found[0].weight, torch.full_like(found[0].weight, expected))
    assert torch.allclose(found[1].running_mean, torch.full((2,), 2 * expected))
    assert not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimisers_take_their_settings(name, kind):
    own = {"optimiser": name, "learning_rate": 0.1, "betas": [0.5, 0.9], "weight_decay": 0.2}
    optimiser = make_optimiser(Weights(nn.Linear(1, 1)), own_settings("PnPNet", **own))
    assert type(optimiser) is kind
    (group,) = optimiser.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.5, 0.9), 0.2)
