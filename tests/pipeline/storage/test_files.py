"""Where files may be written; what is refused is in test_hostile.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import hostile_files as files
from helpers.hostile import link as make_link
from pipeline.storage.errors import LONGEST, InputError
from pipeline.storage.files import atomic_file, make_folder


@pytest.mark.parametrize(
    ("link", "to"),
    [("data", "../disk"), ("data/toy", "data/other"), ("data/toy/shards", "data/toy/old")],
)
def test_links_of_the_user_are_followed(tmp_path, monkeypatch, link, to):
    """The first folder may lie elsewhere; links below it may lead to other places in it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for path in (to, f"{to}/toy/shards", f"{to}/shards"):
        Path(path).mkdir(parents=True, exist_ok=True)
    make_link(link, to)()
    files.write()
    files.read()
    assert Path(link).is_symlink()
    assert len(list(Path(to).rglob("subject04.h5"))) == 1


def test_folders_that_the_user_named_may_be_links(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "mine").symlink_to("disk")
    with atomic_file(tmp_path / "mine" / "file") as temporary:
        temporary.write_text("text")
    assert (tmp_path / "disk" / "file").read_text() == "text"


def test_what_a_killed_process_left_is_deleted(tmp_path):
    """Of the same file, and of no other whose name begins alike."""
    command = (
        "import os, sys; from pathlib import Path; from pipeline.storage.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    for name in ("a.h5", "a.h5.gz"):
        subprocess.run([sys.executable, "-c", command, str(tmp_path / name)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_file(tmp_path / "a.h5") as temporary:
        temporary.write_text("whole")
    kept, left = sorted(tmp_path.iterdir(), reverse=True)
    assert (kept.name, kept.read_text()) == ("a.h5", "whole")
    assert left.name.startswith(".a.h5.gz.")


def test_a_folder_is_made_with_those_above_it_and_left_alone_if_there(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_messages_fit_a_screen_and_hold_no_control_characters():
    error = InputError("a\x1b[2J\nb", "\u202e" * 10**6, "remedy")
    assert error.where == r"a\x1b[2J b"
    assert LONGEST - 1 <= len(error.problem) <= LONGEST
    assert error.problem.startswith(r"\u202e\u202e")
    assert " [...] " in error.problem
    again = InputError(error.where, error.problem, error.remedy)
    assert str(again) == str(error)
