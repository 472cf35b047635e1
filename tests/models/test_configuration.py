"""Commands beside the workflow take configurations as it does."""

from dataclasses import fields

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from helpers.configurations import ROOT, SCHEMA, changed
from models import summary
from models.configuration import read_configuration
from models.evaluation import recompute
from models.methods.base import Method
from models.registry import METHODS, build, load
from models.sections import frozen_of, frozen_setting
from models.settings import Network
from pipeline.storage.errors import InputError


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """The configuration names its table of subjects relative to the project."""
    monkeypatch.chdir(ROOT)


def command(module):
    app = typer.Typer()
    app.command()(module.main)
    return app


def summarised(*paths):
    return CliRunner().invoke(command(summary), list(map(str, paths)))


def recomputed(*paths):
    asked = ["--model", "LegoPET", "--subject", "subject41", "--slice", "60"]
    asked += [word for path in paths for word in ("--config", str(path))]
    return CliRunner().invoke(command(recompute), asked)


def test_overlays_replace_single_values(tmp_path):
    (tmp_path / "a.yaml").write_text("name: a\nsampling: {steps: 5}\n")
    (tmp_path / "b.yaml").write_text("name: b\n")
    plain = read_configuration([])
    found = read_configuration([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert (found["name"], found["sampling"]["steps"]) == ("b", 5)
    assert found["sampling"] == plain["sampling"] | {"steps": 5}


@pytest.mark.parametrize("name", ["demo", "mini"])
def test_an_overlay_is_summarised(name):
    found = summarised(ROOT / "config" / f"{name}.yaml")
    assert found.exit_code == 0, found.output
    count = int(found.output.splitlines()[0].removeprefix("PnPNet"))
    assert 1000 < count < 33_550_209


WRONG = {
    "no section": ("a word", "is no configuration, but str"),
    "a list": ("- 1\n- 2\n", "is no configuration, but list"),
    "nothing": ("", "is no configuration, but empty"),
    "broken YAML": ("sampling: {steps: 4\n", "is no configuration (while parsing"),
    "binary": ("\x00\x01", "is no configuration"),
    "misspelt": ("samplin: {steps: 4}\n", "samplin: is not a known key"),
    "another type": ("sampling: {steps: two}\n", "sampling.steps: is 'two'"),
    "no section there": ("sampling: 4\n", "sampling: is 4"),
    "contradiction": ("osem: {subsets: 20}\n", "osem.subsets: 20 subsets do not divide"),
}


@pytest.mark.parametrize("ends", [summarised, recomputed])
@pytest.mark.parametrize("name", WRONG)
def test_what_the_workflow_refuses_is_refused(tmp_path, ends, name):
    text, problem = WRONG[name]
    path = tmp_path / "overlay.yaml"
    path.write_text(text, encoding="utf-8")
    found = ends(path)
    assert found.exit_code == 1
    assert isinstance(found.exception, SystemExit)
    assert problem in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize("ends", [summarised, recomputed])
def test_a_missing_file_and_a_folder_are_named(tmp_path, ends):
    for path in (tmp_path / "missing.yaml", tmp_path):
        found = ends(path)
        assert found.exit_code == 1
        assert str(path) in found.stderr
        assert isinstance(found.exception, SystemExit)


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(InputError, match="is no configuration"):
        read_configuration([tmp_path / "a.yaml"])


# --- the schema and the methods ------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_settings_in_the_schema_are_the_methods_own(name):
    section, method = SCHEMA["properties"]["methods"]["properties"][name], load(name)
    assert {field.name for field in fields(method.Settings)} == section["properties"].keys()
    assert set(section["required"]) == section["properties"].keys()
    assert method.samples == ("timesteps" in section["properties"])
    assert (frozen_setting(name) is None) == (method.use_frozen is Method.use_frozen)
    assert method.Settings.training_alone < section["properties"].keys()


def test_the_schema_says_which_networks_are_used_frozen():
    found = {name: frozen_setting(name) for name in METHODS}
    assert {name: setting for name, setting in found.items() if setting} == {
        "LegoPET": ("features", ["PnPNet"]),
        "PMDM": ("posterior_mean", ["PnPNet", "DeepPET"]),
    }
    own = changed()["methods"]
    used = {name: frozen_of(name, own[name]) for name in METHODS}
    assert {name: other for name, other in used.items() if other} == {
        "LegoPET": "PnPNet",
        "PMDM": "PnPNet",
    }


@pytest.mark.parametrize("name", METHODS)
def test_the_schema_knows_batch_norms(name):
    section, config = SCHEMA["properties"]["methods"]["properties"][name], changed()
    with torch.device("meta"):
        parts = build(name, Network(**config["network"]), config["methods"][name]).parts
    norms = (isinstance(m, nn.BatchNorm2d) for part in parts.values() for m in part.modules())
    assert any(norms) == section.get("batch_norm", False)


def test_a_method_that_samples_has_timesteps(monkeypatch):
    monkeypatch.setattr(load("DeepPET"), "samples", True)
    config = changed()
    with pytest.raises(TypeError, match="DeepPET: methods that sample have the setting timesteps"):
        build("DeepPET", Network(**config["network"]), config["methods"]["DeepPET"])
