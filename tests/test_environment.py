"""The two roads to an environment agree."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
CONDA_ONLY = {"python", "pip", "parallelproj", "libparallelproj"}


def requirements(lines):
    return dict(re.fullmatch(r"([\w.-]+)\s*([<>=!].*)?", line).groups() for line in lines)


def conda_requirements():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (entry["pip"] for entry in entries if isinstance(entry, dict))
    assert "--editable ." in pip, "both packages of the project must be installed"
    return requirements(
        [entry for entry in entries if isinstance(entry, str)]
        + [entry for entry in pip if not entry.startswith("--")]
    )


def test_conda_and_pip_ask_for_the_same_versions():
    wanted = requirements(PROJECT["project"]["dependencies"])
    wanted = {CONDA_NAMES.get(name, name): version for name, version in wanted.items()}
    conda = conda_requirements()
    assert {name: conda[name] for name in conda if name not in CONDA_ONLY} == wanted


def test_snakemakes_own_environment_is_the_same_without_the_project():
    whole = (ROOT / "environment.yml").read_text()
    bare = yaml.safe_load((ROOT / "workflow/envs/legopet.yaml").read_text())
    assert bare == {
        key: value
        for key, value in yaml.safe_load(whole.replace("      - --editable .\n", "")).items()
        if key != "name"
    }


def test_conda_brings_the_parallelproj_that_sees_grazing_rays():
    conda = conda_requirements()
    assert conda["parallelproj"] == ">=2.0"
    assert conda["libparallelproj"] == ">=2.0.7"


def test_lock_pins_everything_that_the_project_asks_for():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines)
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    extra = PROJECT["project"]["optional-dependencies"]["dev"]
    wanted = requirements(PROJECT["project"]["dependencies"] + extra)
    assert {name.lower() for name in wanted} <= locked
    assert "torch==2.13.0" in lines
