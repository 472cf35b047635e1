"""LegoPET that sees the image of its PnPNet, too."""

from dataclasses import replace

import pytest
import torch

from helpers.small_models import NETWORK, SAMPLING, SIZE, own_settings
from models.dataset import Batch, SliceKey
from models.draws import keyed_rng
from models.methods.legopet import LegoPET
from models.registry import build

KEYS = [SliceKey("subject04", 0, n) for n in range(4)]
FEW = replace(SAMPLING, sampler="dpm-solver++", steps=5, guidance=0.0)


def images(n=4, seed=0, channels=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, SIZE, SIZE, generator=draw)


def pnpnet(**changes):
    torch.manual_seed(1)
    method = build("PnPNet", NETWORK, vars(own_settings("PnPNet", **changes)))
    for parameter in method.network.parameters():  # residual ones begin with zeros
        torch.nn.init.normal_(parameter, 0.01, 0.05)
    return method


def legopet(frozen, conditioning=("sinogram",), **changes):
    torch.manual_seed(0)
    own = own_settings("LegoPET", conditioning=list(conditioning), regression_image=True, **changes)
    method = LegoPET(NETWORK, own)
    method.use_frozen(frozen)
    return method


def loss_of(method, batch):
    (objective,) = method.training_step(
        method.prepared(batch), [keyed_rng(0, *key) for key in batch.keys]
    )
    return objective.losses["loss"]


def spied(method):
    """Have a method's denoiser note what it is given."""
    seen, plain = [], method.network.forward

    def spy(x, t, features):
        seen.append((x, features))
        return plain(x, t, features)

    method.network.forward = spy
    return seen


def test_it_sees_the_image_before_the_measurement_and_the_features_of_the_measurement():
    changes = {"conditioning": ["sinogram", "fbp"], "residual": True}
    frozen, inputs = pnpnet(**changes), images(channels=2)
    method = legopet(frozen, changes["conditioning"], condition_dropout=0.0)
    seen = spied(method)
    with torch.no_grad():
        image = frozen.network(inputs) + inputs[:, 1:]  # a whole one
        features = frozen.network.features(inputs)
        method.reconstruct(inputs, KEYS, FEW, 1)
    loss_of(method, Batch(inputs, images(seed=1), KEYS))
    assert len(seen) == FEW.steps + 1
    for x, found in seen:
        torch.testing.assert_close(x[:, 1:], torch.cat([image, inputs], dim=1))
        for one, other in zip(
            found.down + found.middle, features.down + features.middle, strict=True
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("conditioning", [["sinogram"], ["osem_input"]])
def test_differences_are_to_the_image(conditioning):
    """Who gives none gives PnPNet's image, whatever else there is to differ from."""
    frozen, inputs = pnpnet(conditioning=conditioning), images()
    method = legopet(frozen, conditioning, residual=True, prediction="sample")
    method.network.forward = lambda x, t, features: torch.zeros_like(x[:, :1])
    with torch.no_grad():
        found = method.reconstruct(inputs, KEYS, FEW, 1)
        image = frozen.network(inputs)
    torch.testing.assert_close(found, image, atol=2e-3, rtol=0)
    assert float(loss_of(method, Batch(inputs, image, KEYS))) == pytest.approx(0, abs=1e-10)


def test_dropout_hides_the_image_and_differences_are_to_it_all_the_same():
    frozen = pnpnet()
    method = legopet(frozen, residual=True, prediction="sample", condition_dropout=0.5)
    keys = [SliceKey("subject04", 0, n) for n in range(40)]
    inputs, seen = images(40) + 0.1, spied(method)
    batch = method.prepared(Batch(inputs, images(40, seed=1), keys))
    with torch.no_grad():
        torch.testing.assert_close(batch.image, images(40, seed=1) - frozen.network(inputs) + 0.5)
    list(method.training_step(batch, [keyed_rng(3, *key) for key in keys]))
    ((x, _),) = seen
    dropped = x[:, 2].flatten(1).eq(0).all(dim=1)
    assert 5 < dropped.sum() < 35
    assert torch.equal(x[:, 1].flatten(1).eq(0).all(dim=1), dropped)


def test_without_a_pnpnet_it_says_so():
    method = LegoPET(NETWORK, own_settings("LegoPET", regression_image=True))
    with pytest.raises(TypeError, match="use_frozen"):
        method.seen(images())


def test_weights_from_before_see_no_image():
    old = {k: v for k, v in vars(own_settings("LegoPET")).items() if k != "regression_image"}
    assert not build("LegoPET", NETWORK, old).settings.regression_image
