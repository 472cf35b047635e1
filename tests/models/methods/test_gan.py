import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from helpers.small_models import NETWORK, SAMPLING, own_settings
from models.dataset import Batch, SliceKey, to_signed
from models.methods.base import trainable_parameters as count
from models.methods.gan import CGAN, GAN, Pix2Pix
from models.networks.patchgan import PatchDiscriminator
from models.networks.resnet_generator import ResidualBlock, ResNetGenerator

PAPER = {"width": 64, "blocks": 9, "discriminator_width": 64}
SMALL = {"width": 4, "blocks": 2, "discriminator_width": 4}
SIZE = 24  # the least that the discriminator takes
BOTH = pytest.mark.parametrize("kind", [CGAN, Pix2Pix])


def own(kind, **changes):
    return own_settings({CGAN: "cGAN", Pix2Pix: "Pix2Pix"}[kind], **changes)


def method(kind=Pix2Pix, **changes):
    torch.manual_seed(0)
    return kind(NETWORK, own(kind, **{**SMALL, **changes}))


def batch(slices=2):
    draw = torch.Generator().manual_seed(1)
    inputs, image = torch.rand(2, slices, 1, SIZE, SIZE, generator=draw)
    return Batch(inputs, image, [SliceKey("subject04", 0, n) for n in range(slices)])


def constant(discriminator, logit):
    """Have a discriminator give the same verdict on everything."""
    with torch.no_grad():
        discriminator.layers[-1].weight.zero_()
        discriminator.layers[-1].bias.fill_(logit)


def objectives(gan, data):
    """Both objectives of a step without updates."""
    return list(gan.training_step(data, torch.Generator()))


def requires_grad(module):
    return [parameter.requires_grad for parameter in module.parameters()]


# --- networks ----------------------------------------------------------------------------------


def test_parameter_counts_of_the_paper():
    with torch.device("meta"):
        assert count(ResNetGenerator()) == 11_370_881
        assert count(PatchDiscriminator()) == 2_764_609


@BOTH
def test_generator_alone_counts(kind):
    with torch.device("meta"):
        gan = kind(NETWORK, own(kind, **PAPER))
    assert gan.parameter_count() == 11_370_881
    assert count(gan.parts["discriminator"]) == 2_764_609


def test_shapes_of_the_paper():
    with torch.device("meta"):
        image = ResNetGenerator()(torch.zeros(2, 1, 256, 256))
        assert image.shape == (2, 1, 256, 256)
        assert PatchDiscriminator()(torch.zeros_like(image), image).shape == (2, 1, 30, 30)


@BOTH
def test_further_channels_are_seen_by_both_first_convolutions(kind):
    with torch.device("meta"):
        one, two = (
            kind(NETWORK, own(kind, **PAPER, conditioning=conditioning))
            for conditioning in (["sinogram"], ["sinogram", "fbp"])
        )
        inputs, image = torch.zeros(2, 2, 256, 256), torch.zeros(2, 1, 256, 256)
        assert two.network(inputs).shape == image.shape
        assert two.discriminator(inputs, image).shape == (2, 1, 30, 30)
    assert two.parameter_count() - one.parameter_count() == 7 * 7 * 64
    assert count(two.discriminator) - count(one.discriminator) == 4 * 4 * 64


def test_generator_keeps_the_shape_and_stays_within_one():
    torch.manual_seed(0)
    generator = ResNetGenerator(width=4, blocks=2)
    with torch.no_grad():
        generator.head.weight.mul_(1000)
    image = generator(torch.rand(3, 1, 8, 20))
    assert image.shape == (3, 1, 8, 20)
    assert 0.99 < image.abs().max() <= 1


def test_residual_block_adds_to_the_identity():
    torch.manual_seed(0)
    block, x = ResidualBlock(4), torch.randn(2, 4, 8, 8)
    assert torch.allclose(block(x) - x, block.layers(x))
    nn.init.zeros_(block.layers[-1].weight)
    assert torch.equal(block(x), x)


def test_discriminator_sees_patches_of_70_by_70():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=4).eval()
    pair = torch.rand(2, 1, 1, 128, 128).requires_grad_()
    logits = discriminator(*pair)
    assert logits.shape == (1, 1, 14, 14)
    logits[0, 0, 7, 6].backward()
    for gradient in pair.grad[:, 0, 0]:
        y, x = gradient.nonzero().unbind(1)
        # 8 pixels from one output to the next; the paddings amount to 1 + 2 + 4 + 8 + 8 pixels.
        assert (y.min(), y.max() + 1) == (7 * 8 - 23, 7 * 8 - 23 + 70)
        assert (x.min(), x.max() + 1) == (6 * 8 - 23, 6 * 8 - 23 + 70)
        assert len(y) > 0.99 * 70**2  # few of them cancel


def test_no_bias_before_a_norm():
    for network in (ResNetGenerator(4, 1), PatchDiscriminator(4)):
        layers = [m for m in network.modules() if not list(m.children())]
        for layer, following in pairwise(layers):
            if isinstance(following, nn.BatchNorm2d):
                assert layer.bias is None
        assert layers[-1].bias is not None


def test_weights_start_as_in_isola_et_al():
    torch.manual_seed(0)
    for network in (ResNetGenerator(16, 2), PatchDiscriminator(16)):
        kinds = {nn.Conv2d: 0.0, nn.ConvTranspose2d: 0.0, nn.BatchNorm2d: 1.0}
        for kind, mean in kinds.items():
            layers = [m for m in network.modules() if isinstance(m, kind)]
            if not layers:
                continue
            weights = torch.cat([layer.weight.flatten() for layer in layers])
            error = 5 * 0.02 / math.sqrt(len(weights))
            assert weights.mean().item() == pytest.approx(mean, abs=error)
            assert weights.std().item() == pytest.approx(0.02, abs=error)
            assert all(layer.bias is None or not layer.bias.any() for layer in layers)


def test_same_seed_gives_the_same_weights_and_another_does_not():
    first, again = (method().parts for _ in range(2))
    torch.manual_seed(1)
    other = Pix2Pix(NETWORK, own(Pix2Pix, **SMALL)).parts
    for name in first:
        weights = [nn.utils.parameters_to_vector(p[name].parameters()) for p in (first, again)]
        assert torch.equal(*weights)
        assert not torch.equal(weights[0], nn.utils.parameters_to_vector(other[name].parameters()))


def test_pixels_must_fit():
    for shape in ((16, 18), (18, 16), (4, 16)):
        with pytest.raises(ValueError, match="multiples of 4"):
            ResNetGenerator(4, 1)(torch.rand(1, 1, *shape))
    discriminator = PatchDiscriminator(4).eval()
    assert discriminator(*torch.rand(2, 1, 1, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="needs 24"):
        discriminator(*torch.rand(2, 1, 1, 24, 20))
    with pytest.raises(ValueError, match="differ"):
        discriminator(torch.rand(1, 1, 24, 24), torch.rand(1, 1, 24, 28))
    with pytest.raises(ValueError, match="differ"):
        discriminator(torch.rand(2, 1, 24, 24), torch.rand(1, 1, 24, 24))


# --- training ----------------------------------------------------------------------------------


def test_what_they_share_is_not_a_method():
    with pytest.raises(TypeError, match="adversarial_loss"):
        GAN({"size": SIZE}, SMALL)


@BOTH
def test_discriminator_comes_first_then_the_generator(kind):
    gan = method(kind)
    first, second = objectives(gan, batch())
    assert list(gan.parts) == ["network", "discriminator"]
    assert (first.part, second.part) == ("discriminator", "network")
    assert set(first.losses) == {"loss", "discriminator"}
    terms = {"l1"} if kind is Pix2Pix else set()
    assert set(second.losses) == {"loss", "adversarial"} | terms
    for losses in (first.losses, second.losses):
        assert all(loss.shape == () and loss.dtype == torch.float32 for loss in losses.values())
    assert torch.equal(first.losses["loss"], first.losses["discriminator"])


@BOTH
def test_gradients_stay_within_their_part(kind):
    gan = method(kind)
    step = gan.training_step(batch(), torch.Generator())
    next(step).losses["loss"].backward()
    assert all(p.grad is None for p in gan.network.parameters())
    _check_all_nonzero(gan.discriminator)
    gan.discriminator.zero_grad(set_to_none=True)
    next(step).losses["loss"].backward()
    assert all(p.grad is None for p in gan.discriminator.parameters())
    _check_all_nonzero(gan.network)


def _check_all_nonzero(module):
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@BOTH
def test_generator_is_judged_by_the_updated_discriminator(kind):
    gan, data = method(kind), batch()
    step = gan.training_step(data, torch.Generator())
    next(step)
    constant(gan.discriminator, 0.75)
    adversarial = next(step).losses["adversarial"]
    expected = math.log1p(math.exp(-0.75)) if kind is CGAN else 0.25**2
    assert adversarial.item() == pytest.approx(expected)


@BOTH
def test_discriminator_is_fixed_only_while_the_generator_learns(kind):
    gan = method(kind)
    step = gan.training_step(batch(), torch.Generator())
    next(step)
    assert all(requires_grad(gan.discriminator))
    next(step)
    assert not any(requires_grad(gan.discriminator))
    assert all(requires_grad(gan.network))
    assert next(step, None) is None
    assert all(requires_grad(gan.discriminator))


def test_a_step_that_is_given_up_frees_the_discriminator():
    gan = method()
    for yields in range(3):
        step = gan.training_step(batch(), torch.Generator())
        for _ in range(yields):
            next(step)
        step.close()
        assert all(requires_grad(gan.discriminator))


def test_a_parameter_that_was_fixed_before_stays_so():
    gan = method()
    gan.discriminator.layers[0].requires_grad_(False)
    before = requires_grad(gan.discriminator)
    objectives(gan, batch())
    assert requires_grad(gan.discriminator) == before


def test_modes_are_left_to_the_caller():
    gan = method()
    gan.network.eval()
    objectives(gan, batch())
    assert not any(module.training for module in gan.network.modules())
    assert all(module.training for module in gan.discriminator.modules())


def test_discriminator_is_given_the_inputs_and_signed_images():
    gan, data, seen = method(), batch(), []
    gan.discriminator.register_forward_pre_hook(lambda _, pair: seen.append(pair))
    objectives(gan, data)
    fake = gan.network(data.inputs)
    conditions, images = zip(*seen, strict=True)
    assert all(torch.equal(condition, data.inputs) for condition in conditions)
    real_seen, fake_seen, judged = images
    assert torch.equal(real_seen, 2 * data.image - 1)
    assert torch.allclose(fake_seen, fake, atol=1e-6)
    assert not fake_seen.requires_grad
    assert judged.requires_grad
    assert torch.equal(judged, fake_seen)


def test_cross_entropy_of_no_opinion_is_log_2():
    gan = method(CGAN)
    constant(gan.discriminator, 0.0)
    for objective in objectives(gan, batch()):
        assert objective.losses["loss"].item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("logit", [-2.0, 0.5])
def test_cross_entropy_of_a_constant_verdict(logit):
    gan = method(CGAN)
    constant(gan.discriminator, logit)
    for_discriminator, for_generator = (o.losses for o in objectives(gan, batch()))
    real, fake = math.log1p(math.exp(-logit)), math.log1p(math.exp(logit))
    assert for_discriminator["loss"].item() == pytest.approx((real + fake) / 2)
    assert for_generator["loss"].item() == pytest.approx(real)
    assert torch.equal(for_generator["loss"], for_generator["adversarial"])


@pytest.mark.parametrize("logit", [-2.0, 0.25])
def test_least_squares_of_a_constant_verdict(logit):
    gan = method(l1_weight=0.0)
    constant(gan.discriminator, logit)
    for_discriminator, for_generator = (o.losses for o in objectives(gan, batch()))
    expected = ((logit - 1) ** 2 + logit**2) / 2
    assert for_discriminator["loss"].item() == pytest.approx(expected)
    assert for_generator["loss"].item() == pytest.approx((logit - 1) ** 2)


@BOTH
def test_real_and_fake_are_told_apart(kind):
    gan = method(kind)
    sure = torch.tensor([20.0]) if kind is CGAN else torch.tensor([1.0])
    unsure = -sure if kind is CGAN else 1 - sure
    assert gan.adversarial_loss(sure, real=True) < 1e-6 < gan.adversarial_loss(unsure, real=True)
    assert gan.adversarial_loss(unsure, real=False) < 1e-6 < gan.adversarial_loss(sure, real=False)


def test_l1_is_weighted_and_in_signed_units():
    gan, data = method(l1_weight=3.0), batch()
    constant(gan.discriminator, 0.5)
    with torch.no_grad():  # a generator of zeros, which are images of 0.5
        gan.network.head.weight.zero_()
    losses = objectives(gan, data)[1].losses
    l1 = to_signed(data.image).abs().mean().item()
    assert losses["l1"].item() == pytest.approx(l1)
    assert losses["adversarial"].item() == pytest.approx(0.25)
    assert losses["loss"].item() == pytest.approx(0.25 + 3 * l1)


@BOTH
def test_losses_are_in_float32_under_autocast(kind):
    gan, data = method(kind), batch()
    step = gan.training_step(data, torch.Generator())
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            losses = next(step).losses
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        losses["loss"].backward()


def test_training_lowers_the_error():
    gan, data = method(), batch()
    optimisers = {
        name: torch.optim.Adam(part.parameters(), lr=1e-2, betas=(0.5, 0.999))
        for name, part in gan.parts.items()
    }
    l1 = []
    for _ in range(15):
        for part, losses in gan.training_step(data, torch.Generator()):
            optimisers[part].zero_grad()
            losses["loss"].backward()
            optimisers[part].step()
        l1.append(losses["l1"].item())
    assert l1[-1] < 0.9 * l1[0]


# --- prediction --------------------------------------------------------------------------------


@BOTH
def test_prediction_does_not_depend_on_the_batch(kind):
    gan, data = method(kind), batch(3)
    gan.network(data.inputs)  # running statistics other than those at the start
    gan.network.eval()
    together = gan.predict(data.inputs, data.keys, SAMPLING, 0)
    assert together.shape == data.image.shape
    assert torch.allclose(together, (gan.network(data.inputs) + 1) / 2)
    for n, key in enumerate(data.keys):
        alone = gan.predict(data.inputs[n : n + 1], [key], SAMPLING, 1)
        assert torch.allclose(together[n : n + 1], alone, atol=1e-6)


@BOTH
@pytest.mark.parametrize(("bias", "expected"), [(-1e3, 0.0), (0.0, 0.5), (1e3, 1.0)])
def test_prediction_is_within_0_and_1(kind, bias, expected):
    gan, data = method(kind), batch()
    with torch.no_grad():
        gan.network.head.weight.zero_()
        gan.network.head.bias.fill_(bias)
    image = gan.predict(data.inputs, data.keys, SAMPLING, 0)
    assert torch.equal(image, torch.full_like(image, expected))
