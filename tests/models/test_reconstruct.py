import math
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest

from helpers.small_models import GAN_SIZE, NETWORK, SAMPLING, job, make_shard, settings
from helpers.trainings import run, split
from models import checkpoints
from models.reconstruct import Reconstructor, reconstruct
from models.sections import frozen_of
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION, SHARD


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """PnPNet and LegoPET after two epochs, with averages and LegoPET's checkpoints; five slices."""
    folder = tmp_path_factory.mktemp("study")
    config = settings(methods__LegoPET__keep_every_epochs=1, training__ema_decay=0.5)
    features = run(folder, split(folder), "p", config=config)
    weights = run(folder, split(folder), "l", "LegoPET", features, config)
    return {
        "config": config,
        "shard": make_shard(folder / "s.h5", subject="subject42", seed=3),
        "PnPNet": (features, None),
        "LegoPET": (weights, features),
    }


def reconstructor(study, name, config=None):
    return Reconstructor(*study[name], job(config or study["config"], name), threads=1)


def images(study, name, indices=range(5), **sampling):
    model = reconstructor(study, name)
    return model.samples(model.slices([study["shard"]]), indices, replace(SAMPLING, **sampling))


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PnPNet", "LegoPET"])
def test_images_depend_neither_on_their_batch_nor_on_their_order(study, name):
    found = images(study, name)
    assert found.shape == (5, 1, 16, 16)
    assert found.dtype == np.float32
    tolerance = 1e-4 * found.max()
    assert np.allclose(images(study, name, batch_size=5), found, atol=tolerance)
    assert np.allclose(images(study, name, [4, 0, 2]), found[[4, 0, 2]], atol=tolerance)
    assert not np.allclose(found[0], found[1], atol=10 * tolerance)


def test_methods_that_do_not_sample_give_one_image_however_many_are_asked_for(study):
    assert np.array_equal(images(study, "PnPNet", samples=3), images(study, "PnPNet"))


def test_the_first_of_several_samples_is_the_single_one(study):
    single, three = images(study, "LegoPET"), images(study, "LegoPET", samples=3)
    assert three.shape == (5, 3, 16, 16)
    assert np.array_equal(three[:, :1], single)
    assert not np.allclose(three[:, 1], three[:, 2], atol=1e-2 * three.max())


def test_samples_are_those_of_the_models_seed(study):
    config = {**study["config"], "seed": 8}
    found = []
    for other in (study["config"], config):
        model = reconstructor(study, "LegoPET", other)
        found.append(model.samples(model.slices([study["shard"]]), [0], SAMPLING))
        assert model.facts(SAMPLING)["training_seed"] == 7
        assert model.facts(SAMPLING)["seed"] == other["seed"]
    assert not np.allclose(*found, atol=1e-2 * found[0].max())


def test_twins_of_a_draw_have_the_noise_of_their_samples_in_common(study, tmp_path):
    """Slice after slice twice without lesions and with them, of the same prompts."""
    arrays, attributes = hdf5.read(study["shard"], SHARD)
    copies = {name: values[[0, 0, 0, 0]] for name, values in arrays.items()}
    copies |= {"draw": np.array([0, 0, 1, 1], np.uint16)}
    copies |= {"present": np.array([0, 1, 0, 1], np.uint8)}
    kept = ("schema_version", "kind", "rule")
    facts = {name: value for name, value in attributes.items() if name not in kept}
    hdf5.write(tmp_path / "twins.h5", SHARD, copies, facts)
    weights, features = study["LegoPET"]
    output = tmp_path / "r.h5"
    own = job(study["config"], "LegoPET")
    reconstruct(weights, tmp_path / "twins.h5", output, own, features, threads=1)
    found, _ = hdf5.read(output, RECONSTRUCTION)
    for name in ("rotation", "slice_index", "draw", "present"):
        np.testing.assert_array_equal(found[name], copies[name])
    images_ = found["image"]
    tolerance = 1e-4 * images_.max()
    assert np.allclose(images_[0], images_[1], atol=tolerance)
    assert np.allclose(images_[2], images_[3], atol=tolerance)
    assert not np.allclose(images_[0], images_[2], atol=100 * tolerance)
    # The first draw's is the slice's own.
    assert np.allclose(images_[0], images(study, "LegoPET", [0])[0, 0], atol=tolerance)


def test_images_are_in_activity_units(study):
    """The network's own output, in [0, 1] units, times the largest activity of training."""
    model = reconstructor(study, "PnPNet")
    slices = model.slices([study["shard"]])
    scale = model.facts(SAMPLING)["activity_scale"]
    method, metadata = checkpoints.load(study["PnPNet"][0], NETWORK)
    assert scale == metadata.scales.activity
    expected = method.predict(slices[2]["inputs"][None], [slices[2]["key"]], SAMPLING, 7)
    found = model.samples(slices, [2], SAMPLING)
    assert np.allclose(found, expected.detach().numpy() * scale, rtol=1e-5)


@pytest.mark.parametrize("name", settings()["methods"])
def test_every_method_can_be_told_the_filtered_back_projection(tmp_path, name):
    """It is trained with both channels, and its images change with the second."""
    config = settings(network__size=GAN_SIZE)
    for own in config["methods"].values():
        own |= {"conditioning": ["sinogram", "fbp"], "epochs": 1}
    shard = make_shard(tmp_path / "s.h5", size=GAN_SIZE, slices=3)
    frozen = None
    if used := frozen_of(name, config["methods"][name]):
        frozen = run(tmp_path, ([shard], []), used, used, config=config)
    weights = run(tmp_path, ([shard], []), name, name, frozen, config)
    model = Reconstructor(weights, frozen, job(config, name), threads=1)
    assert model.facts(SAMPLING)["conditioning"] == "sinogram, fbp"
    before = model.samples(model.slices([shard]), range(3), SAMPLING)
    with h5py.File(shard, "r+") as file:
        file["fbp"][:] = 2 * file["fbp"][:]
    after = model.samples(model.slices([shard]), range(3), SAMPLING)
    assert before.shape == (3, 1, GAN_SIZE, GAN_SIZE)
    assert not any(map(np.array_equal, before, after))


def test_others_do_not_see_it(study, tmp_path):
    shard = tmp_path / "s.h5"
    shard.write_bytes(study["shard"].read_bytes())
    with h5py.File(shard, "r+") as file:
        file["fbp"][:] = np.nan
    model = reconstructor(study, "PnPNet")
    found = model.samples(model.slices([shard]), range(5), SAMPLING)
    assert np.array_equal(found, images(study, "PnPNet"))


# --- facts ---------------------------------------------------------------------------------------


def test_facts_of_a_model_that_samples(study):
    model = reconstructor(study, "LegoPET")
    weights, features = study["LegoPET"]
    facts = model.facts(replace(SAMPLING, samples=5))
    assert facts == {
        "model": "LegoPET",
        "method": "LegoPET",
        "conditioning": "sinogram",
        "condition_dropout": 0.2,
        "weights_sha256": checkpoints.sha256(weights),
        "frozen_sha256": checkpoints.sha256(features),
        "epoch": 2,
        "parameters": model.method.parameter_count(),
        "activity_scale": checkpoints.read_metadata(weights).scales.activity,
        "weights": "raw",
        "samples": 5,
        "sampler": "ddim",
        "steps": 4,
        "eta": 0.5,
        "guidance": 0.5,
        "antithetic": 0,
        "consistency_steps": 0,
        "consistency_strength": 0.0,
        "consistency_start": 0.0,
        "seed": 7,
        "training_seed": 7,
        "device": "cpu",
    }


def test_a_row_with_the_weights_of_another_has_its_own_name_and_sampling(study, tmp_path):
    weights, features = study["LegoPET"]
    variants = {"few": {"weights": "LegoPET", "sampling": {"steps": 2, "samples": 3}}}
    config = {**study["config"], "variants": variants}
    output = tmp_path / "r.h5"
    reconstruct(weights, study["shard"], output, job(config, "few"), features, threads=1)
    found, attributes = hdf5.read(output, RECONSTRUCTION)
    told = [attributes[name] for name in ("model", "method", "steps", "samples", "seed")]
    assert told == ["few", "LegoPET", 2, 3, 7]
    assert attributes["weights_sha256"] == checkpoints.sha256(weights)
    expected = images(study, "LegoPET", steps=2, samples=3)
    np.testing.assert_array_equal(found["samples"], expected)
    with pytest.raises(InputError, match="is of PnPNet, not LegoPET"):
        Reconstructor(features, None, job(config, "few"), threads=1)


def test_facts_of_a_model_that_does_not(study):
    facts = reconstructor(study, "PnPNet").facts(replace(SAMPLING, samples=5))
    assert (facts["samples"], facts["sampler"], facts["steps"], facts["seed"]) == (1, "", 1, -1)
    assert all(math.isnan(facts[name]) for name in ("condition_dropout", "eta", "guidance"))
    assert facts["frozen_sha256"] == ""


def test_kept_checkpoints_can_be_used_like_final_weights(study):
    weights, features = study["LegoPET"]
    settings_of = job(study["config"], "LegoPET")
    paths = sorted((weights.parent / "kept").iterdir())
    models = [Reconstructor(path, features, settings_of, threads=1) for path in paths]
    assert [model.facts(SAMPLING)["epoch"] for model in models] == [1, 2]
    first, last = (m.samples(m.slices([study["shard"]]), [0], SAMPLING) for m in models)
    assert np.array_equal(last, images(study, "LegoPET", [0]))
    assert not np.array_equal(first, last)


def test_averages_are_used_if_asked_for(study):
    sampling = replace(SAMPLING, weights="ema")
    config = {**study["config"], "sampling": asdict(sampling)}
    model = reconstructor(study, "PnPNet", config)
    assert model.facts(sampling)["weights"] == "ema"
    found = model.samples(model.slices([study["shard"]]), range(5), sampling)
    assert not np.array_equal(found, images(study, "PnPNet"))


def test_files_say_that_samples_are_antithetic(study, tmp_path):
    weights, features = study["LegoPET"]
    pairs = replace(SAMPLING, sampler="ddim", eta=0.0, samples=4, antithetic=True)
    config = {**study["config"], "sampling": asdict(pairs)}
    output = tmp_path / "r.h5"
    reconstruct(weights, study["shard"], output, job(config, "LegoPET"), features, threads=1)
    with hdf5.opened(output, RECONSTRUCTION) as file:
        samples = file["samples"][()]
        assert file.attrs["antithetic"] == 1
        # Around the mean of pairs, which is no estimate from as many independent ones.
        assert np.allclose(file["std"][()], samples.std(axis=1), rtol=1e-5, atol=1e-4)


def test_files_hold_samples_mean_spread_and_facts(study, tmp_path):
    weights, features = study["LegoPET"]
    sampling = replace(SAMPLING, samples=3)
    config = {**study["config"], "sampling": asdict(sampling)}
    output = tmp_path / "r.h5"
    reconstruct(weights, study["shard"], output, job(config, "LegoPET"), features, threads=1)
    expected = images(study, "LegoPET", samples=3)
    with hdf5.opened(output, RECONSTRUCTION) as file:
        assert np.array_equal(file["samples"][()], expected)
        assert np.allclose(file["image"][()], expected.mean(axis=1), rtol=1e-6)
        assert np.allclose(file["std"][()], expected.std(axis=1, ddof=1), rtol=1e-5, atol=1e-4)
        assert file["slice_index"][()].tolist() == [10, 11, 12, 13, 14]
        facts = reconstructor(study, "LegoPET").facts(sampling)
        assert {name: file.attrs[name] for name in facts} == facts
        assert file.attrs["subject"] == "subject42"


def test_files_of_a_single_image_hold_no_samples(study, tmp_path):
    settings_of = job(study["config"], "PnPNet")
    reconstruct(study["PnPNet"][0], study["shard"], tmp_path / "r.h5", settings_of, None, threads=1)
    with hdf5.opened(tmp_path / "r.h5", RECONSTRUCTION) as file:
        assert set(file) == {"image", "rotation", "slice_index"}
        assert np.array_equal(file["image"][()], images(study, "PnPNet")[:, 0])


# --- what is refused -----------------------------------------------------------------------------


def test_weights_of_another_model_are_refused(study):
    config = {**study["config"], "variants": {"PnPNet-x": {"method": "PnPNet", "seed": 8}}}
    with pytest.raises(InputError, match=r"PnPNet\.safetensors: is of PnPNet, not PnPNet-x"):
        Reconstructor(study["PnPNet"][0], None, job(config, "PnPNet-x"), threads=1)


def test_weights_of_another_network_are_refused(study):
    config = {**study["config"], "network": {**settings()["network"], "patch": 2}}
    with pytest.raises(InputError, match=r"network\.patch: 1 -> 2"):
        Reconstructor(study["PnPNet"][0], None, job(config, "PnPNet"), threads=1)


def test_missing_weights_are_named(study, tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors: does not exist"):
        Reconstructor(tmp_path / "none.safetensors", None, job(settings(), "PnPNet"), threads=1)


def test_missing_features_are_named(study):
    with pytest.raises(InputError, match="LegoPET: features: asks for PnPNet"):
        Reconstructor(study["LegoPET"][0], None, job(study["config"], "LegoPET"), threads=1)


def test_legopet_refuses_another_pnpnet(study, tmp_path):
    weights, features = study["LegoPET"]
    method, metadata = checkpoints.load(features, NETWORK)
    method.network.head.bias.data += 1
    other, output = tmp_path / "p.safetensors", tmp_path / "r.h5"
    checkpoints.save(other, method.network, None, metadata)
    settings_of = job(study["config"], "LegoPET")
    with pytest.raises(InputError, match="is not the file that this LegoPET was trained with"):
        reconstruct(weights, study["shard"], output, settings_of, other, threads=1)
    assert not output.exists()


def test_averages_that_were_not_made_are_named(tmp_path):
    weights = run(tmp_path, split(tmp_path), "x")
    config = settings(sampling__weights="ema")
    with pytest.raises(InputError, match="holds no moving average"):
        Reconstructor(weights, None, job(config, "PnPNet"), threads=1)


@pytest.mark.parametrize("split_of", ["test", "train"])
@pytest.mark.parametrize("volume", ["a" * 64, "b" * 64])
def test_a_test_shard_of_a_training_volume_is_refused(tmp_path, volume, split_of):
    shards = split(tmp_path)
    for path in shards[0]:
        with h5py.File(path, "r+") as file:
            file.attrs["labels_sha256"] = "a" * 64
    weights = run(tmp_path, shards, "p")
    assert checkpoints.read_metadata(weights).trained_on == ["a" * 64]
    model = Reconstructor(weights, None, job(settings(), "PnPNet"), threads=1)
    shard = make_shard(tmp_path / "s.h5", subject="subject42")
    with h5py.File(shard, "r+") as file:
        file.attrs["labels_sha256"], file.attrs["split"] = volume, split_of
    if (volume[0], split_of) == ("a", "test"):
        with pytest.raises(InputError, match=r"s\.h5: is for test, and .* was trained on the same"):
            model.slices([shard])
    else:
        assert len(model.slices([shard])) == 5
