"""What a machine makes of the project: line ends that git converts, a home not to be written to."""

import os
import subprocess

import pytest

from helpers.configurations import ROOT
from helpers.workflow import snakemake, workplace

PARTS = (".gitattributes", ".ci", "Makefile", "Snakefile", "workflow", "profiles", "pipeline")
BINARY = {f"file.{kind}": b"\x89\r\n\n a\r\nb\n" for kind in ("h5", "gz", "safetensors", "pt")}
"""Data that look like text with all kinds of line ends."""


def git(folder, *arguments):
    who = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "core.autocrlf=false")
    command = ["git", "-C", folder, *who, *arguments]
    subprocess.run(command, check=True, capture_output=True)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != ".git"
    }


def repository(folder):
    """Commit a part of the project, as it is, and some binary files."""
    folder.mkdir()
    paths = (path for part in PARTS for path in [ROOT / part, *(ROOT / part).rglob("*")])
    for path in (*paths, ROOT / "docs/results/mini/epochs.png"):
        if path.is_file() and not {"__pycache__", ".snakemake"} & {*path.parts}:
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    for name, data in BINARY.items():
        (folder / name).write_bytes(data)
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "x")
    return contents(folder)


@pytest.mark.parametrize(
    "settings",
    [("core.autocrlf=true",), ("core.autocrlf=input",), ("core.autocrlf=false", "core.eol=crlf")],
)
def test_a_checkout_has_the_same_bytes_whatever_git_is_told(tmp_path, settings):
    committed = repository(tmp_path / "project")
    options = [word for setting in settings for word in ("-c", setting)]
    subprocess.run(
        ["git", *options, "clone", "-q", tmp_path / "project", tmp_path / "checkout"], check=True
    )
    assert contents(tmp_path / "checkout") == committed
    assert any(name.suffix == ".sh" for name in committed)


def test_a_file_edited_on_windows_is_committed_with_the_same_line_ends(tmp_path):
    repository(tmp_path / "project")
    script = tmp_path / "project/workflow/envs/legopet.post-deploy.sh"
    data = script.read_bytes()
    script.write_bytes(data.replace(b"\n", b"\r\n"))
    git(tmp_path / "project", "commit", "--allow-empty", "-am", "edited")
    subprocess.run(["git", "clone", "-q", tmp_path / "project", tmp_path / "checkout"], check=True)
    assert (tmp_path / "checkout/workflow/envs/legopet.post-deploy.sh").read_bytes() == data


def test_a_home_that_cannot_be_written_needs_another_cache_as_the_readme_says(
    tmp_path, monkeypatch
):
    (tmp_path / "home").touch()  # not even root can make folders in it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = workplace(tmp_path / "run")
    refused = snakemake(folder, "--dry-run")
    assert refused.returncode == 1
    assert f"{os.sep}.cache'" in refused.stdout
    (variable,) = [
        word for word in (ROOT / "README.md").read_text("utf-8").split("`") if "CACHE" in word
    ]
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    assert snakemake(folder, "--dry-run").returncode == 0
