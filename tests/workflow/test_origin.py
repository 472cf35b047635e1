"""Another project's `models` or `pipeline` on the path is named before anything runs."""

import shutil
import subprocess
import sys

import pytest

from helpers.configurations import ROOT
from helpers.workflow import snakemake, workplace

ORIGIN = ROOT / "workflow" / "origin.py"


def package(folder, name):
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    return folder / name


def folder_alone(folder, name):
    (folder / name).mkdir()
    return folder / name


def module(folder, name):
    (folder / f"{name}.py").touch()
    return folder / f"{name}.py"


def other_checkout(folder, name):
    shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / name


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A folder of another project, which stands first on PYTHONPATH."""
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    return tmp_path / "other"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (package, "models"),
        (folder_alone, "models"),
        (module, "pipeline"),
        (other_checkout, "pipeline"),
    ],
)
def test_the_workflow_says_whose_folder_is_in_the_way(tmp_path, other, make, name):
    found = make(other, name)
    result = snakemake(workplace(tmp_path / "run"), "--dry-run")
    assert result.returncode == 1
    assert f"{name}: would be imported from {found}, and not from {ROOT / name}" in result.stdout
    assert f"-> take {other} off PYTHONPATH" in result.stdout
    assert "Traceback" not in result.stdout


def origin(*arguments):
    command = [sys.executable, "-P", *arguments, str(ORIGIN), str(ROOT)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def test_both_packages_may_be_in_the_way(other):
    package(other, "models")
    package(other, "pipeline")
    assert origin().count("would be imported from") == 2


def test_nothing_is_said_where_nothing_is_in_the_way(other, monkeypatch):
    package(other, "networks")
    package(other, "models2")
    assert origin() == ""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{package(other, 'models').parent}")
    assert origin() == ""
    folder_alone(other, "pipeline")
    assert origin() == ""


def test_a_project_that_is_not_installed_is_found_beside_the_snakefile(tmp_path):
    assert origin("-S") == ""
    command = [sys.executable, "-P", "-S", str(ORIGIN), str(tmp_path)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said.startswith("pipeline: is not installed\n  -> call make env")
