from pathlib import Path

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from helpers.small_models import NETWORK, job, make_shard, settings
from models import checkpoints
from models.dataset import Scales, SliceKey
from models.evaluation.catalogue import IMAGES, ordered
from models.evaluation.evaluate import evaluate
from models.evaluation.recompute import main, recompute
from models.reconstruct import reconstruct
from models.registry import build
from pipeline.storage.errors import InputError

SCALES = Scales(60.0, 150.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Folder of a study of two untrained networks and one test subject, and its configuration."""
    folder = tmp_path_factory.mktemp("study")
    variants = {"LegoPET-few": {"weights": "LegoPET", "sampling": {"steps": 2}}}
    models = ["PnPNet", "LegoPET", "LegoPET-few"]
    config = settings(sampling__samples=2, variants=variants)
    config |= {"name": "tiny", "evaluation": {"models": models}}
    results = folder / "results" / "tiny"
    for name in ("weights", "reconstructions"):
        (results / name).mkdir(parents=True)
    shards = folder / "data" / "tiny" / "shards"
    shards.mkdir(parents=True)
    shard = make_shard(shards / "subject41.h5", subject="subject41")
    files, features = {}, None
    for name in ("PnPNet", "LegoPET"):
        weights, own = results / "weights" / f"{name}.safetensors", config["methods"][name]
        torch.manual_seed(3)
        method = build(name, NETWORK, own)
        digest = checkpoints.sha256(features) if features else None
        metadata = checkpoints.Metadata(
            model=name,
            method=name,
            network=config["network"],
            settings=own,
            seed=config["seed"],
            scales=SCALES,
            step=0,
            epoch=0,
            frozen_sha256=digest,
        )
        checkpoints.save(weights, method.network, None, metadata)
        files[name] = results / "reconstructions" / f"{name}.h5"
        reconstruct(weights, shard, files[name], job(config, name), features, threads=1)
        features = weights if name == "PnPNet" else features
    own = results / "reconstructions" / "LegoPET-few.h5"
    reconstruct(weights, shard, own, job(config, "LegoPET-few"), features, threads=1)
    evaluate(shard, files | {"LegoPET-few": own}, SCALES, results / "metrics.csv.gz")
    return folder, config


@pytest.fixture
def config(study, monkeypatch):
    monkeypatch.chdir(study[0])
    return study[1]


@pytest.mark.parametrize("model", ["PnPNet", "LegoPET", "LegoPET-few"])
def test_lines_are_those_of_the_table(config, model):
    lines = recompute(config, model, SliceKey("subject41", 0, 12))
    assert lines.notna().all(axis=None)
    keys = set(lines.reset_index()[["metric", "reference", "region"]].itertuples(index=False))
    of_images = {key for metric, key in ordered() if metric.of == IMAGES}
    assert of_images <= keys
    assert (of_images == keys) == (model == "PnPNet")
    assert lines.xs("psnr_db", level="metric")["difference"].abs().max() < 1e-3
    assert np.allclose(lines["recomputed"], lines["table"], rtol=1e-3, atol=1e-3)


def test_what_the_study_does_not_have_is_named(config):
    with pytest.raises(InputError, match="is no model of this study"):
        recompute(config, "FBP", SliceKey("subject41", 0, 12))
    with pytest.raises(InputError, match="has no subject41, rotation 1, slice 12"):
        recompute(config, "PnPNet", SliceKey("subject41", 1, 12))


def test_a_model_that_the_table_has_no_lines_of_is_named_as_such(config):
    other = config | {"evaluation": {"models": ["PnPNet"]}}
    with pytest.raises(InputError, match=r"is not in evaluation\.models: (.|\n)*from PnPNet"):
        recompute(other, "LegoPET", SliceKey("subject41", 0, 12))


def test_a_subject_that_the_table_has_no_lines_of_is_named_as_such(config):
    shards = Path("data") / "tiny" / "shards"
    make_shard(shards / "subject04.h5", subject="subject04")
    with pytest.raises(
        InputError, match=r"has no lines of subject04, .* by PnPNet\n.*test subject"
    ):
        recompute(config, "PnPNet", SliceKey("subject04", 0, 12))


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("samples", 3, "samples 2.*not 3"),
        ("eta", 0.25, "eta 0.5, not 0.25"),
        ("sampler", "ddpm", "sampler ddim, not ddpm"),
    ],
)
def test_another_configuration_than_the_studys_is_named_as_such(config, key, value, wanted):
    other = config | {"sampling": config["sampling"] | {key: value}}
    with pytest.raises(InputError, match=f"is of images with {wanted}(.|\n)*by --config"):
        recompute(other, "LegoPET", SliceKey("subject41", 0, 12))


def test_weights_other_than_the_tables_are_refused(config, monkeypatch):
    monkeypatch.setattr(checkpoints, "sha256", lambda path: "f" * 64)
    with pytest.raises(InputError, match=r"has no lines of .* by these weights of PnPNet"):
        recompute(config, "PnPNet", SliceKey("subject41", 0, 12))


def test_command_compares_and_fails_where_a_psnr_differs(config, monkeypatch):
    monkeypatch.setattr("models.evaluation.recompute.read_configuration", lambda overlays: config)
    app = Typer()
    app.command()(main)
    asked = ["--model", "PnPNet", "--subject", "subject41"]
    result = CliRunner().invoke(app, [*asked, "--slice", "12"])
    assert result.exit_code == 0, result.output
    assert "psnr_db" in result.output
    assert "largest difference in PSNR" in result.output
    missing = CliRunner().invoke(app, [*asked, "--slice", "99"])
    assert missing.exit_code == 1
    assert "has no subject41, rotation 0, slice 99" in missing.output
    monkeypatch.setattr("models.evaluation.recompute.TOLERANCE_DB", -1.0)
    assert CliRunner().invoke(app, [*asked, "--slice", "12"]).exit_code == 1
