from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.small_models import NETWORK, SAMPLING, SIZE, own_settings
from models.dataset import Batch, SliceKey, to_signed
from models.draws import keyed_rng, normal_like
from models.methods.cdpm import CDPM
from models.methods.pmdm import PMDM
from models.registry import build

KEYS = [SliceKey("subject04", 0, n) for n in range(4)]
FEW = replace(SAMPLING, sampler="dpm-solver++", steps=5, guidance=0.0)
SOURCES = pytest.mark.parametrize("source", ["PnPNet", "DeepPET"])


def images(n=4, seed=0, channels=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, SIZE, SIZE, generator=draw)


def regression(name, **changes):
    torch.manual_seed(1)
    method = build(name, NETWORK, vars(own_settings(name, **changes)))
    for parameter in method.network.parameters():  # residual ones begin with zeros
        torch.nn.init.normal_(parameter, 0.01, 0.05)
    method.network.eval()
    return method


def pmdm(source="PnPNet", conditioning=("sinogram",), frozen=None, **changes):
    seen = list(conditioning)
    own = own_settings("PMDM", posterior_mean=source, conditioning=seen, **changes)
    torch.manual_seed(0)
    method = PMDM(NETWORK, own)
    method.use_frozen(frozen or regression(source, conditioning=seen))
    return method


def draws(*key):
    return [keyed_rng(*key, *k) for k in KEYS]


def loss_of(method, batch, *key):
    (objective,) = method.training_step(method.prepared(batch), draws(*key))
    assert objective.part == "network"
    return objective.losses["loss"]


def seen_by(method):
    """Have a method's denoiser note its inputs."""
    seen, plain = [], method.network.forward

    def spy(x, t, features):
        assert features is None
        seen.append(x)
        return plain(x, t, features)

    method.network.forward = spy
    return seen


def gives(method, image):
    """Have the frozen network give an image, whatever it sees; count how often."""
    calls = []
    method.frozen.forward = lambda x: calls.append(x) or image
    return calls


@SOURCES
def test_the_denoiser_sees_the_posterior_mean_and_nothing_else(source):
    conditioning = ["sinogram", "fbp"]
    method = pmdm(source, conditioning, condition_dropout=0.0)
    seen, inputs = seen_by(method), images(channels=2)
    with torch.no_grad():
        expected = regression(source, conditioning=conditioning).network(inputs)
    loss_of(method, Batch(inputs, images(seed=1), KEYS), 0)
    with torch.no_grad():
        method.reconstruct(inputs, KEYS, FEW, 1)
    assert len(seen) == 1 + FEW.steps
    for x in seen:
        assert x.shape == (4, 2, SIZE, SIZE)
        assert torch.equal(x[:, 1:], expected)


@pytest.mark.parametrize("residual", [False, True])
def test_other_measurements_with_the_same_mean_make_no_difference(residual):
    method = pmdm(residual=residual)
    gives(method, images(seed=2))
    found = []
    with torch.no_grad():
        for inputs in (images(), images(seed=3)):
            batch = Batch(inputs, images(seed=1), KEYS)
            found.append((loss_of(method, batch, 0), method.reconstruct(inputs, KEYS, FEW, 1)))
    assert all(map(torch.equal, *found))


def test_the_mean_is_a_whole_image():
    """Of a network that gives the difference to an image, the sum."""
    changes = {"conditioning": ["sinogram", "fbp"], "residual": True}
    frozen, inputs = regression("PnPNet", **changes), images(channels=2)
    found = pmdm(conditioning=changes["conditioning"], frozen=frozen).seen(inputs)
    with torch.no_grad():
        difference = frozen.network(inputs)
    assert difference.abs().max() > 0.01
    assert torch.equal(found, difference + inputs[:, 1:])


@pytest.mark.parametrize("residual", [False, True])
def test_it_is_computed_once(residual):
    method = pmdm(residual=residual)
    calls = gives(method, images(seed=2))
    loss_of(method, Batch(images(), images(seed=1), KEYS), 0)
    assert len(calls) == 1
    with torch.no_grad():
        method.reconstruct(images(), KEYS, replace(FEW, samples=3, guidance=0.5), 1)
    assert len(calls) == 2


@pytest.mark.parametrize("conditioning", [["sinogram"], ["line_integrals", "fbp"]], ids=len)
def test_without_a_difference_the_sample_is_the_mean_itself(conditioning):
    """Whatever the conditioning; bit for bit where 1/2 and the mean add up without rounding."""
    method = pmdm(conditioning=conditioning, residual=True, prediction="sample")
    mean = images(seed=2).mul(256).round() / 256
    gives(method, mean)
    method.network.forward = lambda x, t, features: torch.zeros_like(x[:, :1])
    with torch.no_grad():
        found = method.reconstruct(
            images(channels=len(conditioning)), KEYS, replace(FEW, samples=2), 1
        )
    assert found.shape == (4, 2, SIZE, SIZE)
    assert torch.equal(found, mean.expand_as(found))


@pytest.mark.parametrize("residual", [False, True])
def test_an_oracle_reconstructs_the_image(residual):
    method, image = pmdm(residual=residual, prediction="sample"), images(seed=1)
    gives(method, images(seed=2))
    batch = Batch(images(), image, KEYS)
    x0 = to_signed(method.prepared(batch).image)
    method.network.forward = lambda x, t, features: x0
    assert loss_of(method, batch, 0) == 0
    with torch.no_grad():
        found = method.reconstruct(batch.inputs, KEYS, FEW, 1)
    # Samples stay in [-1, 1]: differences are of at most half of the range of images.
    expected = image if not residual else images(seed=2) + (image - images(seed=2)).clamp(-0.5, 0.5)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("residual", [False, True])
def test_loss_of_a_network_that_gives_zeros(residual):
    """E |0 - x_0|^2, of the image or of its difference to the mean, in [-1, 1] units."""
    method = pmdm(residual=residual, prediction="sample")
    image, mean = images(seed=1), images(seed=2)
    gives(method, mean)
    method.network.forward = lambda x, t, features: torch.zeros_like(x[:, :1])
    x0 = 2 * (image - mean) if residual else 2 * image - 1
    found = loss_of(method, Batch(images(), image, KEYS), 0)
    torch.testing.assert_close(found, x0.square().mean())


def test_loss_is_that_of_cdpm_conditioned_on_the_mean():
    method = pmdm(condition_dropout=0.0)
    batch = method.prepared(Batch(images(), images(seed=1), KEYS))
    other = CDPM(NETWORK, own_settings("cDPM", condition_dropout=0.0))
    other.network = method.network
    (expected,) = other.training_step(batch, draws(3))
    (found,) = method.training_step(batch, draws(3))
    assert found.losses["loss"] == expected.losses["loss"] > 0
    # And by its own formula: of the noise, the third draw of each slice.
    given = draws(3)
    t = torch.cat([torch.randint(1000, (1,), generator=draw) for draw in given])
    for draw in given:
        torch.rand(1, generator=draw)
    noise = normal_like(batch.image, given)
    x_t = method.schedule.add_noise(to_signed(batch.image), noise, t)
    output = method.network(torch.cat([x_t, batch.inputs], dim=1), t)
    torch.testing.assert_close(found.losses["loss"], F.mse_loss(output, noise))


def test_dropout_hides_the_mean_but_not_what_is_differed_from():
    method = pmdm(residual=True, condition_dropout=0.999999)
    seen, mean = seen_by(method), images(seed=2)
    gives(method, mean)
    batch = Batch(images(), images(seed=1), KEYS)
    prepared = method.prepared(batch)
    loss_of(method, batch, 0)
    assert not seen[0][:, 1:].any()
    torch.testing.assert_close(prepared.image, batch.image - mean + 0.5)


def test_guidance_extrapolates_from_the_absent_mean():
    method = pmdm()
    mean = method.seen(images())
    x, t = images(seed=5), torch.tensor([100, 200, 500, 900])
    with torch.no_grad():
        with_mean = method.network(torch.cat([x, mean], dim=1), t)
        without = method.network(torch.cat([x, torch.zeros_like(x)], dim=1), t)
        found = method._guided(method.condition(mean), 0.5)(x, t)
    assert torch.allclose(found, 1.5 * with_mean - 0.5 * without, atol=1e-4)
    assert not torch.allclose(with_mean, without)


@SOURCES
def test_what_gives_the_mean_is_frozen_and_not_counted(source):
    method = pmdm(source)
    state = {name: tensor.clone() for name, tensor in method.frozen.state_dict().items()}
    assert list(method.parts) == ["network"]
    alone = CDPM(NETWORK, own_settings("cDPM"))
    assert method.parameter_count() == alone.parameter_count()
    assert method.network.state_dict().keys() == alone.network.state_dict().keys()
    assert not any(p.requires_grad for p in method.frozen.parameters())
    assert not method.frozen.training
    assert not method.seen(images()).requires_grad
    loss_of(method, Batch(images(), images(seed=1), KEYS), 0).backward()
    assert all(p.grad is None for p in method.frozen.parameters())
    assert all(p.grad is not None for p in method.network.parameters())
    assert all(torch.equal(tensor, state[n]) for n, tensor in method.frozen.state_dict().items())


def test_it_says_so_without_a_mean():
    method = PMDM(NETWORK, own_settings("PMDM"))
    for act in (method.seen, lambda x: method.reconstruct(x, KEYS, FEW, 1)):
        with pytest.raises(TypeError, match="PMDM needs use_frozen"):
            act(images())


def test_samples_are_no_mean():
    with pytest.raises(TypeError, match="CDPM samples, and gives no mean for PMDM"):
        pmdm(frozen=CDPM(NETWORK, own_settings("cDPM")))
