import importlib.metadata
import tomllib

import pytest

from helpers.paths import ROOT
from pipeline.storage import versions as listed


def test_versions_are_those_installed():
    found = listed.versions()
    assert set(found) == {"python", *listed.PACKAGES}
    assert found["numpy"] == importlib.metadata.version("numpy")


def test_a_package_that_is_not_installed_is_absent(monkeypatch):
    monkeypatch.setattr(listed, "PACKAGES", ("numpy", "no-such-package"))
    assert listed.versions()["no-such-package"] == "absent"


@pytest.mark.parametrize("name", listed.PACKAGES)
def test_every_package_is_one_of_the_project(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    wanted = [*project["dependencies"], *environment.replace("- ", "").split()]
    assert any(entry.startswith(name.lower()) for entry in wanted)
