"""Networks that give the difference to an image that they see."""

import numpy as np
import pytest
import torch

from helpers.small_models import GAN_SIZE, NETWORK, SAMPLING, SETTINGS
from models.dataset import Batch, SliceKey
from models.registry import METHODS, build, load
from models.sections import frozen_of

SEEN = ["sinogram", "osem_input", "fbp"]
FROM_INPUTS = [name for name in METHODS if name != "PMDM"]  # whose image is another network's
KEYS = [SliceKey("subject04", 0, n) for n in (10, 11)]


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(0)
    inputs, image = (torch.rand(2, n, GAN_SIZE, GAN_SIZE, generator=draw) for n in (3, 1))
    return Batch(inputs, image, KEYS)


def method(name, **changes):
    own = {**SETTINGS["methods"][name], "conditioning": SEEN, **changes}
    torch.manual_seed(0)
    found = build(name, NETWORK, own)
    if used := frozen_of(name, own):
        found.use_frozen(method(used))
    return found


@pytest.mark.parametrize("name", METHODS)
def test_what_is_learnt_and_what_is_added_cancel(name, batch, monkeypatch):
    """A network that gives exactly what it was to learn reconstructs the image."""
    own = method(name, residual=True)
    learnt = own.prepared(batch)
    monkeypatch.setattr(own, "predict", lambda *_: learnt.image)
    images = own.reconstruct(batch.inputs, KEYS, SAMPLING, 0)
    torch.testing.assert_close(images, batch.image)
    difference = learnt.image - own.middle
    torch.testing.assert_close(difference, batch.image - own.base_image(learnt.inputs))


@pytest.mark.parametrize("name", FROM_INPUTS)
def test_it_differs_from_the_first_image_among_the_inputs(name, batch):
    own = method(name, residual=True)
    assert own.prepared(batch).inputs is batch.inputs
    assert torch.equal(own.base_image(batch.inputs), batch.inputs[:, 1:2])


@pytest.mark.parametrize("name", METHODS)
def test_without_it_nothing_is_added(name, batch, monkeypatch):
    own = method(name)
    assert own.prepared(batch).image is batch.image
    assert (own.prepared(batch).inputs is batch.inputs) == (name in FROM_INPUTS)
    monkeypatch.setattr(own, "predict", lambda *_: batch.image)
    assert own.reconstruct(batch.inputs, KEYS, SAMPLING, 0) is batch.image


@pytest.mark.parametrize("name", ["PnPNet", "DeepPET"])
def test_zeros_mean_the_image_itself(name, batch, monkeypatch):
    own = method(name, residual=True)
    monkeypatch.setattr(own, "predict", lambda *_: torch.zeros_like(batch.image))
    images = own.reconstruct(batch.inputs, KEYS, SAMPLING, 0)
    np.testing.assert_array_equal(images, batch.inputs[:, 1:2])


def test_zeros_of_the_range_of_diffusion_do_too():
    for name in ("cDPM", "LegoPET", "PMDM", "cGAN", "Pix2Pix"):
        assert method(name).middle == 0.5  # [-1, 1] and [0, 1] meet there


@pytest.mark.parametrize("name", [name for name in METHODS if not load(name).samples])
def test_networks_begin_with_the_image_that_they_see(name, batch):
    own = method(name, residual=True)
    own.network.eval()
    with torch.no_grad():
        images = own.reconstruct(batch.inputs, KEYS, SAMPLING, 0)
        other = method(name).reconstruct(batch.inputs, KEYS, SAMPLING, 0)
    torch.testing.assert_close(images, batch.inputs[:, 1:2])
    assert (other - batch.inputs[:, 1:2]).abs().max() > 0.1
