import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.small_models import NETWORK
from helpers.small_weights import CONFIG, saved
from models import checkpoints
from models.dataset import Scales
from models.registry import build
from pipeline.storage.errors import InputError
from pipeline.tomography.physics import Physics


def test_weights_survive_the_round_trip(tmp_path):
    path = tmp_path / "w.safetensors"
    method, metadata = saved(path)
    loaded, found = checkpoints.load(path, NETWORK)
    assert found == metadata
    for name, tensor in method.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)
    first = path.read_bytes()
    checkpoints.save(path, loaded.network, None, found)
    assert path.read_bytes() == first


def test_the_moving_average_travels_with_the_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    raw, metadata = saved(path)
    with pytest.raises(InputError, match=r"no moving average .*\n.*training\.ema_decay above 0"):
        checkpoints.load(path, NETWORK, "ema")
    torch.manual_seed(5)
    average = build("PnPNet", NETWORK, CONFIG["methods"]["PnPNet"])
    checkpoints.save(path, raw.network, average.network, metadata)
    for weights, expected in (("raw", raw), ("ema", average)):
        found, _ = checkpoints.load(path, NETWORK, weights)
        for name, tensor in expected.network.state_dict().items():
            assert torch.equal(found.network.state_dict()[name], tensor)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"w\.safetensors: does not exist"):
        checkpoints.load(tmp_path / "w.safetensors", NETWORK)


@pytest.mark.parametrize("keep", [0, 4, 100, 2000])
def test_a_truncated_file(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    saved(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="is damaged"):
        checkpoints.load(path, NETWORK)


def test_a_changed_seed_is_noticed_as_a_changed_weight_is(tmp_path):
    path = tmp_path / "w.safetensors"
    saved(path)
    data = path.read_bytes()
    assert data.count(b'seed\\": 7') == 1
    path.write_bytes(data.replace(b'seed\\": 7', b'seed\\": 8'))
    with pytest.raises(InputError, match=r"is damaged .*\n.*train again"):
        checkpoints.load(path, NETWORK)


def test_weights_without_a_checksum(tmp_path):
    path = tmp_path / "w.safetensors"
    method, metadata = saved(path)
    described = {checkpoints.METADATA_KEY: json.dumps(asdict(metadata))}
    tensors = {name: t.contiguous() for name, t in method.network.state_dict().items()}
    save_file(tensors, path, metadata=described)
    with pytest.raises(InputError, match="sha256"):
        checkpoints.load(path, NETWORK)


PHYSICS = Physics({"geometry": "ring"}, 16, 2.0, 3.0, False, 0.0, 0.25, 1e6, 4.0)


def test_what_they_were_trained_for_travels_with_them(tmp_path):
    path = tmp_path / "w.safetensors"
    method, metadata = saved(path)
    before = load_file(path)
    checkpoints.save(path, method.network, None, replace(metadata, physics=PHYSICS))
    assert checkpoints.read_metadata(path).physics == PHYSICS
    after = load_file(path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_so_does_how_fbp_images_were_filtered(tmp_path):
    path = tmp_path / "w.safetensors"
    physics = replace(PHYSICS, fbp={"window": "hann", "cutoff": 0.8})
    _, metadata = saved(path)
    method, _ = checkpoints.load(path, NETWORK)
    checkpoints.save(path, method.network, None, replace(metadata, physics=physics))
    assert checkpoints.read_metadata(path).physics == physics


def write_described(path, method, described):
    tensors = {name: t.contiguous() for name, t in method.network.state_dict().items()}
    checkpoints._write(path, described, tensors)


def test_weights_of_an_earlier_version(tmp_path):
    path = tmp_path / "w.safetensors"
    method, metadata = saved(path)
    described = asdict(metadata)
    del described["physics"]
    write_described(path, method, described)
    _, found = checkpoints.load(path, NETWORK)
    assert found == metadata
    assert found.physics is None


@pytest.mark.parametrize(
    "changes",
    [
        {"geometry": {"geometry": ["ring"]}},
        {"geometry": "ring"},
        {"pixels": True},
        {"pixel_mm": 0.0},
        {"slice_mm": float("inf")},
        {"attenuation": None},
        {"counts_per_activity": "4"},
        {"colour": "red"},
        {"fbp": "hann"},
        {"fbp": {"window": "hann", "cutoff": 0}},
    ],
    ids=str,
)
def test_facts_that_no_training_writes(tmp_path, changes):
    path = tmp_path / "w.safetensors"
    method, metadata = saved(path)
    write_described(path, method, {**asdict(metadata), "physics": asdict(PHYSICS) | changes})
    with pytest.raises(InputError, match="metadata"):
        checkpoints.load(path, NETWORK)


def test_a_foreign_file(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="metadata"):
        checkpoints.load(path, NETWORK)


def test_another_width_is_named(tmp_path):
    saved(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"network\.width: 8 -> 16"):
        checkpoints.load(tmp_path / "w.safetensors", replace(NETWORK, width=16))


def test_weights_that_contradict_their_metadata(tmp_path):
    path = tmp_path / "w.safetensors"
    method, metadata = saved(path)
    method.network.head = torch.nn.Conv2d(9, 1, 1)
    checkpoints.save(path, method.network, None, metadata)
    with pytest.raises(InputError, match="does not hold the weights of PnPNet"):
        checkpoints.load(path, NETWORK)


def test_an_unknown_method():
    with pytest.raises(InputError, match=r"methods\.Nope: is not a method"):
        build("Nope", NETWORK, {})


def test_what_is_used_frozen_is_checked_in_every_way(tmp_path):
    features, lego = tmp_path / "p.safetensors", tmp_path / "l.safetensors"
    saved(features)
    digest = checkpoints.sha256(features)
    method, metadata = saved(lego, "LegoPET", frozen_sha256=digest)
    assert checkpoints.attach_frozen(method, metadata, features) == replace(
        metadata, frozen_method="PnPNet"
    )
    with pytest.raises(InputError, match="asks for PnPNet, and the weights given are None"):
        checkpoints.attach_frozen(method, metadata, None)
    with pytest.raises(InputError, match="is of LegoPET, not PnPNet"):
        checkpoints.attach_frozen(method, metadata, lego)
    saved(features, model="PnPNet-seed2")
    with pytest.raises(InputError, match="is of PnPNet-seed2, not PnPNet"):
        checkpoints.attach_frozen(method, metadata, features)
    saved(features, scales=Scales(1.0, 2.0))
    with pytest.raises(InputError, match="was trained at"):
        checkpoints.attach_frozen(method, metadata, features)
    saved(features)  # other weights
    with pytest.raises(InputError, match="is not the file"):
        checkpoints.attach_frozen(method, metadata, features)


def test_a_posterior_mean_of_another_method_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    method, metadata = saved(tmp_path / "m.safetensors", "PMDM")
    saved(path, "cDPM", model="PnPNet")
    with pytest.raises(InputError, match="is a cDPM, not a PnPNet or DeepPET"):
        checkpoints.attach_frozen(method, metadata, path)
    with pytest.raises(InputError, match="PMDM: posterior_mean: asks for PnPNet"):
        checkpoints.attach_frozen(method, metadata, None)


def test_a_posterior_mean_may_be_deeppets(tmp_path):
    path = tmp_path / "x.safetensors"
    method, metadata = saved(tmp_path / "m.safetensors", "PMDM")
    saved(path, "DeepPET")
    own = replace(metadata, settings={**metadata.settings, "posterior_mean": "DeepPET"})
    found = checkpoints.attach_frozen(method, own, path)
    assert (found.frozen_method, found.frozen_sha256) == ("DeepPET", checkpoints.sha256(path))


def test_weights_from_before_the_name_was_changed_are_read(tmp_path):
    path = tmp_path / "l.safetensors"
    _, metadata = saved(path, "LegoPET", frozen_sha256="a" * 64)
    found = asdict(metadata) | {"features_sha256": metadata.frozen_sha256}
    del found["frozen_sha256"], found["frozen_method"]
    checkpoints._write(path, found, load_file(path))
    assert checkpoints.load(path, NETWORK)[1] == metadata


def test_a_network_for_a_method_that_uses_none(tmp_path):
    method, metadata = saved(tmp_path / "p.safetensors")
    assert checkpoints.attach_frozen(method, metadata, None) is metadata
    with pytest.raises(InputError, match="asks for None"):
        checkpoints.attach_frozen(method, metadata, tmp_path / "p.safetensors")
