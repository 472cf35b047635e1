"""Which files and which reader projection data have, known before any is read."""

import pytest

from helpers import interfile
from pipeline.scans.registry import READERS, files_of, reader_of

HEADER = "!INTERFILE :=\nname of data file := {}\n!END OF INTERFILE :=\n"

BROKEN = {
    "missing": None,
    "text": "no header",
    "half": "!INTERFILE :=\nname of data file",
    "nameless": "!INTERFILE :=\n!END OF INTERFILE :=\n",
    "nowhere": HEADER.format("none.s"),
    "a folder": HEADER.format("."),
    "no name": HEADER.format("a\0b.s"),
    "too long a name": HEADER.format("a" * 5000),
    "too long": HEADER.format("scan.s") + " " * 2**20,
}
"""Headers that name no file of numbers."""


@pytest.mark.parametrize("name", ["scan.hs", "SCAN.HS", "scan.s.hdr", "scan.S.hdr"])
def test_behind_a_header_lies_the_file_that_it_names(tmp_path, name):
    header = tmp_path / name
    header.write_text(HEADER.format("there/scan.s"), encoding="utf-8")
    numbers = tmp_path / "there" / "scan.s"
    numbers.parent.mkdir()
    numbers.touch()
    assert files_of(header) == files_of(str(header)) == [header, numbers]
    header.write_text(HEADER.format(numbers), encoding="utf-8")
    assert files_of(header) == [header, numbers]


def test_siemens_headers_have_no_end(tmp_path):
    segments, _ = interfile.toy_segments([(-1, 1)], 4, 32, 31)
    header = interfile.write_siemens(tmp_path, segments)
    assert files_of(header) == [header, tmp_path / "scan.s"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_header_is_left_to_its_reader(tmp_path, name):
    header = tmp_path / "scan.hs"
    if (text := BROKEN[name]) is not None:
        header.write_text(text, encoding="utf-8")
    (tmp_path / "scan.s").touch()
    assert files_of(header) == [header]


@pytest.mark.parametrize("name", ["scan.npz", "scan.petsird", "scan.txt"])
def test_other_files_are_all_there_is(tmp_path, name):
    (tmp_path / name).write_text(HEADER.format("scan.s"), encoding="utf-8")
    (tmp_path / "scan.s").touch()
    assert files_of(tmp_path / name) == [tmp_path / name]


def test_readers_go_by_the_suffix():
    for suffix, entry in READERS.items():
        assert reader_of(f"folder.hs/scan{suffix}") == entry
    assert reader_of("scan.txt") is None
