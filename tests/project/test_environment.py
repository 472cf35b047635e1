"""The two roads to an environment agree."""

import re
import tomllib
from importlib.metadata import distributions
from itertools import chain

import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.paths import ROOT

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
    cluster = PROJECT["project"]["optional-dependencies"]["cluster"]
    wanted = requirements(PROJECT["project"]["dependencies"] + cluster)
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


def locked():
    """Give the lock's entries: name, version, marker ("" for none), number of hashes."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    entry = re.compile(r"([\w.-]+)==([\w.+!-]+) (?:; (.+?) )?((?: *--hash=sha256:[0-9a-f]{64})+)")
    found = [entry.fullmatch(line) for line in lines]
    assert all(found), "not pinned, or without hashes"
    return [(m[1], m[2], m[3] or "", m[4].count("--hash")) for m in found]


def applying(entries):
    """Version by name of those entries whose marker holds here."""
    return {
        canonicalize_name(name): version
        for name, version, marker, _ in entries
        if not marker or Marker(marker).evaluate()
    }


def test_lock_satisfies_all_that_the_project_asks_for():
    versions = applying(locked())
    extras = PROJECT["project"]["optional-dependencies"].values()
    for text in (*PROJECT["project"]["dependencies"], *chain(*extras)):
        wanted = Requirement(text)
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), text
    assert versions["torch"] == "2.13.0"
    assert "torchvision" not in versions


def test_lock_lacks_nothing_that_its_packages_ask_for():
    """But what a CUDA build of torch asks for, which `make env` installs with it."""
    versions = applying(locked())
    for found in distributions():
        if canonicalize_name(found.name) not in versions.keys() - {"torch"}:
            continue
        for wanted in map(Requirement, found.requires or ()):
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                version = versions.get(canonicalize_name(wanted.name), "absent")
                assert wanted.specifier.contains(version), f"{found.name}: {wanted}"


def test_lock_names_no_place():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|^--?(?!hash)\w|^ +--(?!hash)", text, re.MULTILINE)
