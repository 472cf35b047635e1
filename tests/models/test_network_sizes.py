"""Sizes of networks, by formulas or traced, against the networks themselves."""

from dataclasses import replace

import pytest
import torch

from benchmarks.memory import configuration
from models.dataset import Batch, SliceKey
from models.draws import keyed_rng
from models.methods.pnpnet import PnPNet
from models.network_sizes import SIZES, size_of
from models.registry import METHODS, build
from models.sections import frozen_of
from models.settings import Network
from pipeline.jobs.experiment import models_of
from pipeline.storage.errors import InputError

MODELS = [
    (name, method)
    for name in ("small", "large", "mini")
    for method in configuration(name)["methods"]
]


@pytest.mark.parametrize(("name", "method"), MODELS)
def test_weights_of_the_networks_are_counted(name, method):
    config = configuration(name)
    model = models_of(config)[method]
    size = size_of(config, model)
    parts = build(method, Network(**config["network"]), model.settings).parts
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    assert size.weights == pytest.approx(counts.pop("network"), rel=0.05)
    assert size.others == pytest.approx(sum(counts.values()), rel=0.05)


@pytest.mark.parametrize("method", SIZES)
@pytest.mark.parametrize("name", ["small", "mini"])
def test_activations_of_a_training_step_are_counted(name, method):
    config = configuration(name)
    model, network = models_of(config)[method], config["network"]
    asked = Network(**network)
    made = build(method, asked, model.settings)
    if used := frozen_of(method, model.settings):
        made.use_frozen(build(used, asked, config["methods"][used]))
    found = kept_numbers(made, network["size"], len(model.settings["conditioning"]))
    assert found == pytest.approx(size_of(config, model).kept, rel=0.35)


def kept_numbers(method, size, channels, slices=4):
    """Numbers that a step keeps for its backward passes, a slice: storages, but for weights."""
    modules = [*method.parts.values(), *filter(None, [method.frozen])]
    weights = {p.data_ptr() for module in modules for p in module.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor  # which nothing else can take the place of then
        return tensor

    keys = [SliceKey("subject04", 0, number) for number in range(slices)]
    inputs, image = torch.rand(slices, channels, size, size), torch.rand(slices, 1, size, size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        draws = [keyed_rng(0, *key) for key in keys]
        batch = method.prepared(Batch(inputs, image, keys))
        for objective in method.training_step(batch, draws):
            objective.losses["loss"].backward(retain_graph=True)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 4 / slices


# --- without a formula ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["small", "mini"])
def test_what_has_no_formula_is_counted_without_memory(monkeypatch, name, method):
    config = configuration(name)
    model, network = models_of(config)[method], Network(**config["network"])
    monkeypatch.delitem(SIZES, method, raising=False)
    size = size_of(config, model)
    made = build(method, network, model.settings)
    counts = {part: sum(p.numel() for p in m.parameters()) for part, m in made.parts.items()}
    assert size.weights == counts.pop("network")
    assert size.others == sum(counts.values())
    if used := frozen_of(method, model.settings):
        made.use_frozen(build(used, network, config["methods"][used]))
    found = kept_numbers(made, config["network"]["size"], len(model.settings["conditioning"]))
    assert 0.95 * found <= size.kept <= 1.25 * found


def test_what_cannot_be_laid_out_without_memory_is_named(monkeypatch):
    def training_step(self, batch, draws):
        if batch.image.sum().item() > 0:
            yield None

    monkeypatch.setattr(PnPNet, "training_step", training_step)
    monkeypatch.delitem(SIZES, "PnPNet")
    config = configuration("small")
    with pytest.raises(InputError, match=r"(?s)methods\.PnPNet: cannot .*network_sizes"):
        size_of(config, replace(models_of(config)["PnPNet"], name="other"))
