from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.small_models import NETWORK, SAMPLING, own_settings
from models.dataset import Batch, SliceKey
from models.methods.base import trainable_parameters as count
from models.methods.deeppet import DeepPET
from models.networks.deeppet import DeepPETNetwork

PAPER = own_settings("DeepPET", width=32, convolutions=[2, 2, 3, 3, 3])


def small(convolutions=(1, 2, 1)):
    torch.manual_seed(0)
    return DeepPETNetwork(width=4, convolutions=convolutions)


def method():
    torch.manual_seed(0)
    return DeepPET(NETWORK, replace(PAPER, width=4, convolutions=[1, 2, 1]))


def batch(slices=3):
    draw = torch.Generator().manual_seed(1)
    inputs, image = torch.rand(2, slices, 1, 16, 16, generator=draw)
    return Batch(inputs, image, [SliceKey("subject04", 0, n) for n in range(slices)])


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_parameter_count_of_the_paper():
    with torch.device("meta"):
        paper = DeepPET(NETWORK, PAPER)
    assert paper.parameter_count() == 11_019_553
    assert count(DeepPETNetwork()) == 11_019_553


def test_further_channels_are_seen_by_the_first_convolution_alone():
    with torch.device("meta"):
        one, two = (
            DeepPET(NETWORK, replace(PAPER, conditioning=conditioning))
            for conditioning in (["sinogram"], ["sinogram", "fbp"])
        )
        assert two.network(torch.zeros(2, 2, 256, 256)).shape == (2, 1, 256, 256)
    assert two.parameter_count() - one.parameter_count() == 7 * 7 * 32


def test_layers_of_the_paper():
    with torch.device("meta"):
        layers = convolutions(DeepPETNetwork())
    encoder = [32] * 2 + [64] * 2 + [128] * 3 + [256] * 3 + [512] * 3
    assert [c.out_channels for c in layers] == encoder + [256] * 3 + [128] * 3 + [64] * 2 + [1]
    assert [c.kernel_size[0] for c in layers] == [7] * 2 + [5] * 2 + [3] * 18
    assert [n for n, c in enumerate(layers) if c.stride == (2, 2)] == [2, 4, 7, 10]
    assert all(c.bias is not None for c in layers)


def test_resolutions_of_the_paper():
    with torch.device("meta"):
        network = DeepPETNetwork()
        seen = []
        for layer in convolutions(network):
            layer.register_forward_hook(lambda *a: seen.append(a[-1].shape[-1]))
        assert network(torch.zeros(2, 1, 256, 256)).shape == (2, 1, 256, 256)
    encoder = [256] * 2 + [128] * 2 + [64] * 3 + [32] * 3 + [16] * 3
    assert seen == encoder + [32] * 3 + [64] * 3 + [128] * 2 + [256]


@pytest.mark.parametrize("stages", [(2,), (1, 1), (1, 2, 3)])
def test_output_has_the_shape_of_the_input(stages):
    network = small(stages)
    assert network(torch.rand(3, 1, 8, 12)).shape == (3, 1, 8, 12)
    assert len(convolutions(network)) == sum(stages) + sum(stages[1:-1]) + 1


def test_pixels_must_fit_the_stages():
    for shape in ((16, 18), (18, 16)):
        with pytest.raises(ValueError, match="multiples of 4"):
            small()(torch.rand(1, 1, *shape))


def test_last_layer_is_linear():
    network = small().eval()
    x = torch.rand(2, 1, 16, 16)
    before = network(x)
    with torch.no_grad():
        network.head.weight.neg_()
        network.head.bias.neg_()
    assert before.any()
    assert torch.equal(network(x), -before)


def test_training_step_is_the_mean_squared_error():
    deeppet, data = method(), batch()
    (objective,) = deeppet.training_step(data, torch.Generator())
    assert objective.part == "network"
    assert list(deeppet.parts) == ["network"]
    assert set(objective.losses) == {"loss"}
    expected = (deeppet.network(data.inputs) - data.image).square().mean()
    assert torch.allclose(objective.losses["loss"], expected)


def test_loss_of_a_known_prediction():
    deeppet, data = method(), batch()
    with torch.no_grad():
        deeppet.network.head.weight.zero_()
        deeppet.network.head.bias.fill_(0.25)
    data = data._replace(image=torch.full_like(data.image, 0.75))
    (objective,) = deeppet.training_step(data, torch.Generator())
    assert objective.losses["loss"].item() == pytest.approx(0.25)


def test_gradient_reaches_every_parameter():
    # In eval mode: the norm of a training batch takes the biases before it away.
    deeppet = method()
    deeppet.network.eval()
    (objective,) = deeppet.training_step(batch(), torch.Generator())
    objective.losses["loss"].backward()
    for name, parameter in deeppet.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_training_lowers_the_loss():
    deeppet, data = method(), batch()
    optimiser = torch.optim.Adam(deeppet.network.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        for objective in deeppet.training_step(data, torch.Generator()):
            optimiser.zero_grad()
            objective.losses["loss"].backward()
            optimiser.step()
            losses.append(objective.losses["loss"].item())
    assert losses[-1] < losses[0] / 2


def test_prediction_does_not_depend_on_the_batch():
    deeppet, data = method(), batch()
    deeppet.network(data.inputs)  # running statistics other than those at the start
    deeppet.network.eval()
    together = deeppet.predict(data.inputs, data.keys, SAMPLING, 0)
    assert together.shape == data.image.shape
    assert torch.equal(together, deeppet.network(data.inputs))
    for n, key in enumerate(data.keys):
        alone = deeppet.predict(data.inputs[n : n + 1], [key], SAMPLING, 1)
        assert torch.allclose(together[n : n + 1], alone, atol=1e-6)
