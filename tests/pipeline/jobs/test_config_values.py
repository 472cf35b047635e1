"""Texts that stand for numbers are numbers where the schema wants them."""

import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.configurations import ROOT, SCHEMA, changed, refusal
from pipeline.jobs.config import check


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """The configuration names its table of subjects relative to the project."""
    monkeypatch.chdir(ROOT)


def as_text(value):
    """As Snakemake reads a value within a section of its command line: every scalar is a text."""
    if isinstance(value, dict):
        return {key: as_text(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [as_text(entry) for entry in value]
    return str(value)


@pytest.mark.parametrize("overlay", ["config/demo.yaml", "config/mini.yaml", "tests/tiny.yaml"])
def test_a_configuration_of_texts_becomes_what_it_was(overlay):
    found = yaml.safe_load((ROOT / overlay).read_text(encoding="utf-8"))
    for plain in (changed(), {**changed(), "variants": found.get("variants", {})}):
        config = as_text(plain)
        config["evaluation"]["models"] = plain["evaluation"]["models"] = ["LegoPET"]
        config["evaluation"]["sweeps"] = plain["evaluation"]["sweeps"]
        for sweep in plain["evaluation"]["sweeps"].values():
            sweep["models"] = []
        check(config, SCHEMA)
        check(plain, SCHEMA)
        assert config == plain
        assert repr(config) == repr(plain)  # 1 and 1.0 and True are equal


@given(st.floats(1, 1e11) | st.integers(1, 1000))
@settings(max_examples=15)  # each checks whole configurations
def test_numbers_become_what_they_were(value):
    for text in {str(value), repr(value), f"{value:e}", f"+{value}"}:
        config = changed(simulation__prompts_per_slice=text)
        check(config, SCHEMA)
        assert config["simulation"]["prompts_per_slice"] == float(text)


VALUES = [
    ("simulation__prompts_per_slice", "5e6", 5e6),
    ("simulation__prompts_per_slice", "1.E2", 100.0),
    ("sampling__steps", "4", 4),
    ("simulation__attenuation", "False", False),
    ("simulation__attenuation", "true", True),
    ("methods__PnPNet__betas", ["0.9", "0.99"], [0.9, 0.99]),
    ("network__multipliers", ["1", "2"], [1, 2]),
    ("variants", {"P": {"method": "PnPNet", "learning_rate": "1e-3", "seed": "5"}}, None),
]


@pytest.mark.parametrize(("path", "text", "value"), VALUES, ids=str)
def test_texts_of_values_are_taken(path, text, value):
    config = changed(**{path: text}, evaluation__sweeps__guidance__models=[])
    check(config, SCHEMA)
    for name in path.split("__"):
        config = config[name]
    wanted = {"P": {"method": "PnPNet", "learning_rate": 1e-3, "seed": 5}}
    assert repr(config) == repr(wanted if value is None else value)


BAD = [
    ("sampling__steps", "4.0"),
    ("sampling__steps", "0x10"),
    ("sampling__steps", "1_0"),
    ("sampling__steps", "\u0664"),
    ("sampling__steps", " 4"),
    ("simulation__prompts_per_slice", "5e"),
    ("simulation__prompts_per_slice", "1e999"),
    ("simulation__prompts_per_slice", "nan"),
    ("simulation__prompts_per_slice", "2,5"),
    ("simulation__attenuation", "yes"),
    ("simulation__attenuation", "1"),
    ("seed", "9" * 200),
]


@pytest.mark.parametrize(("path", "text"), BAD)
def test_other_texts_are_refused(path, text):
    error = refusal(**{path: text})
    assert error.where == path.replace("__", ".")
    assert error.problem == f"is {text!r}"


def test_texts_stay_texts_where_they_are_wanted():
    config = changed(evaluation__models=["1"], variants={"P1": {"method": "PnPNet"}})
    assert refusal(evaluation__models=["1"]).problem.startswith("names '1'")
    assert config["evaluation"]["models"] == ["1"]


def test_values_within_sections_are_taken_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "--directory", tmp_path]
    command += ["--snakefile", ROOT / "Snakefile", "--configfile", ROOT / "config" / "demo.yaml"]
    (tmp_path / "config").symlink_to(ROOT / "config")
    (tmp_path / "data").mkdir()
    for table in (ROOT / "data").glob("*.tsv"):
        (tmp_path / "data" / table.name).symlink_to(table)

    def ends(value):
        found = subprocess.run(
            [*command, "--config", value], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return found.returncode, found.stdout + found.stderr

    code, said = ends("sampling={steps: 4, guidance: 1e0}")
    assert code == 0, said
    code, said = ends("sampling={steps: four}")
    assert code != 0
    assert "sampling.steps: is 'four'" in said
