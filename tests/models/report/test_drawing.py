"""What figures have in common: how tables are read, how lines look."""

import gzip

import pytest

from models.report import drawing
from pipeline.storage.errors import InputError


def test_twenty_lines_differ_without_colours():
    styles = [drawing.style(n) for n in range(20)]
    assert len({(style["linestyle"], style["marker"]) for style in styles}) == 20


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        (b"", "is not a readable CSV table"),
        (gzip.compress(b"model,metric\n" * 99, mtime=0)[:-20], "is not a readable CSV table"),
        (gzip.compress(b"model,metric\n", mtime=0), "lacks the columns reference, region, value"),
    ],
)
def test_bad_tables_are_named_with_a_remedy(tmp_path, content, problem):
    path = tmp_path / "metrics.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as error:
        drawing.read(path, ("model", "reference", "region", "value"))
    assert f"snakemake --cores all -- {path}" in error.value.remedy
