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

RESULTS = ROOT / "docs" / "results" / "mini"
PAGES = (RESULTS / "README.md", ROOT / "README.md")
DEMO = ROOT / "docs" / "results" / "demo"
ALL_PAGES = (*PAGES, ROOT / "docs" / "results" / "mmr_head" / "README.md")
INTERVAL = re.compile(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]")


def test_files_are_those_of_the_record():
    recorded = json.loads((RESULTS / "provenance.json").read_text())["files"]
    found = {Path(name).name: digest for name, digest in recorded.items()}
    copied = [path for path in RESULTS.iterdir() if path.suffix in (".md", ".csv", ".tex", ".png")]
    for later in ("README.md", "classical.md"):
        copied.remove(RESULTS / later)
    assert len(copied) == 12
    for path in copied:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == found[path.name], path.name


def rows_of(text):
    """Rows of tables that have intervals, as lists of cells."""
    return [row.split(" | ") for row in text.splitlines() if INTERVAL.search(row)]


README = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The paper's experiment")


@pytest.mark.parametrize(
    "text",
    [(RESULTS / "README.md").read_text(encoding="utf-8"), README[2]],
    ids=["results", "readme"],
)
def test_rows_on_pages_are_those_of_the_table(text):
    """A row's name and its means with intervals stand side by side in one row of table1.md."""
    table = [row.split(" | ") for row in (RESULTS / "table1.md").read_text().splitlines()]
    rows = rows_of(text)
    assert len(rows) > 5
    for name, *cells in (row for row in rows if row[0].startswith("| ")):
        numbers = [cell.removesuffix(" |") for cell in cells if INTERVAL.match(cell)]
        assert any(
            name == cell[0] and set(numbers) <= {c.removesuffix(" |") for c in cell}
            for cell in table
        ), name


def test_rows_of_the_demonstration_are_those_of_its_tables():
    """Means with intervals are those of rows of the same name, against the truth or of lesions."""
    tables = (DEMO / "table1.md").read_text() + (DEMO / "lesions.md").read_text()
    rows = rows_of(README[0])
    assert len(rows) == 10
    for name, *cells in rows:
        numbers = {cell.removesuffix(" |") for cell in cells if INTERVAL.match(cell)}
        known = {c.removesuffix(" |") for cell in rows_of(tables) if cell[0] == name for c in cell}
        assert numbers
        assert numbers <= known, name


def test_figures_on_pages_exist():
    for page in ALL_PAGES:
        for name in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text()):
            assert (page.parent / name).is_file(), name


def test_the_configuration_is_still_that_of_the_study():
    recorded = yaml.safe_load((RESULTS / "config.yaml").read_text())
    now: dict[str, Any] = {}
    for name in ("config.yaml", "mini.yaml"):
        update_config(now, yaml.safe_load((ROOT / "config" / name).read_text()))

    def changed(old, new, name=""):
        for key, value in old.items():
            if isinstance(value, dict) and isinstance(new.get(key), dict):
                yield from changed(value, new[key], f"{name}{key}.")
            elif new.get(key) != value:
                yield f"{name}{key}: {value} -> {new.get(key)}"

    assert list(changed(recorded, now)) == []
