"""The committed results: nothing in them or on their pages is typed by hand."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from helpers.configurations import ROOT

RESULTS = ROOT / "docs" / "results"
MINI, LOWDOSE, DEMO = (RESULTS / name for name in ("mini", "lowdose", "demo"))
PAGES = [ROOT / "README.md", *RESULTS.glob("*/README.md")]
LATER = {MINI: {"README.md"}, LOWDOSE: {"README.md", "compared.png"}}
"""Of a study's folder what its call did not make."""

INTERVAL = re.compile(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]")


@pytest.mark.parametrize("folder", LATER, ids=lambda folder: folder.name)
def test_files_are_those_of_the_record(folder):
    recorded = json.loads((folder / "provenance.json").read_text())["files"]
    found = {Path(name).name: digest for name, digest in recorded.items()}
    copied = [path for path in folder.iterdir() if path.suffix in (".md", ".csv", ".tex", ".png")]
    made = [path for path in copied if path.name not in LATER[folder]]
    assert len(made) >= 12
    for path in made:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == found[path.name], path.name


def rows_of(text):
    """Rows of tables that have intervals, as lists of cells."""
    return [row.split(" | ") for row in text.splitlines() if INTERVAL.search(row)]


README = (ROOT / "README.md").read_text(encoding="utf-8")
TRIAL, _, EXPERIMENT = README.partition("## The paper's experiment")
HEAD, _, TRIAL = TRIAL.partition("## Try it")
PARTS = {
    "head of readme": (HEAD, LOWDOSE),
    "trial in readme": (TRIAL, DEMO),
    "experiment in readme": (EXPERIMENT, MINI),
    "mini": ((MINI / "README.md").read_text(encoding="utf-8"), MINI),
    "lowdose": ((LOWDOSE / "README.md").read_text(encoding="utf-8"), LOWDOSE),
}
"""Parts of pages with rows of tables, and the folder of these."""


def cells_of(path, first):
    """Cells of each row of that name in a file of tables, which need not exist."""
    rows = rows_of(path.read_text()) if path.exists() else []
    return [{cell.removesuffix(" |") for cell in row} for row in rows if row[0] == first]


@pytest.mark.parametrize("name", PARTS)
def test_rows_on_pages_are_those_of_tables(name):
    """A row's means with intervals stand in one row of its name, or in lesions' tables."""
    text, folder = PARTS[name]
    rows = [row for row in rows_of(text) if row[0].startswith("| ")]
    assert len(rows) > 3
    for first, *cells in rows:
        numbers = {cell.removesuffix(" |") for cell in cells if INTERVAL.match(cell)}
        of_lesions: set[str] = set().union(*cells_of(folder / "lesions.md", first))
        assert numbers
        assert numbers <= of_lesions or any(
            numbers <= row for row in cells_of(folder / "table1.md", first)
        ), first


def test_figures_on_pages_exist():
    for page in PAGES:
        for name in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text()):
            assert (page.parent / name).is_file(), name


@pytest.mark.parametrize("folder", LATER, ids=lambda folder: folder.name)
def test_the_configuration_is_still_that_of_the_study(folder):
    recorded = yaml.safe_load((folder / "config.yaml").read_text())
    now: dict[str, Any] = {}
    for name in ("config.yaml", f"{folder.name}.yaml"):
        update_config(now, yaml.safe_load((ROOT / "config" / name).read_text()))

    def changed(old, new, name=""):
        for key, value in old.items():
            if isinstance(value, dict) and isinstance(new.get(key), dict):
                yield from changed(value, new[key], f"{name}{key}.")
            elif new.get(key) != value:
                yield f"{name}{key}: {value} -> {new.get(key)}"

    assert list(changed(recorded, now)) == []
