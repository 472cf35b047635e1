from collections import Counter
from pathlib import Path

import pytest

from helpers.paths import ROOT
from pipeline.sources.subjects import Subject, read_subjects
from pipeline.storage.errors import InputError

DATA = ROOT / "data"
HEADER = "subject\tsplit\tlabels_sha256"
GOOD = ["subject04\ttrain\t" + "0" * 64, "subject05\tvalidation\t-", "subject06\ttest\t-"]


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "subjects.tsv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_reads_subjects_in_order(tmp_path):
    subjects = read_subjects(write(tmp_path, *GOOD))
    assert list(subjects) == ["subject04", "subject05", "subject06"]
    assert subjects["subject04"] == Subject("subject04", "train", "0" * 64)
    assert subjects["subject05"] == Subject("subject05", "validation", None)


def test_accepts_files_saved_by_a_spreadsheet(tmp_path):
    path = tmp_path / "subjects.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([HEADER, *GOOD, ""]).encode())
    assert len(read_subjects(path)) == 3


def test_reads_very_many_subjects(tmp_path):
    names = [f"subject{n:05d}" for n in range(20_000)]
    rows = [f"{name}\ttrain\t{n:064x}" for n, name in enumerate(names)]
    table = write(tmp_path, *rows, "subject98765\tvalidation\t-", "subject98766\ttest\t-")
    assert list(read_subjects(table))[:-2] == names


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD, "subject4\ttrain\t-"], "line 5: 'subject4' is not a subject's name"),
        ([*GOOD, "Subject07\ttrain\t-"], "'Subject07' is not a subject's name"),
        ([*GOOD, "../subject07\ttrain\t-"], "'../subject07' is not a subject's name"),
        ([*GOOD, "subject07\tdev\t-"], "unknown split 'dev'"),
        ([*GOOD, "subject07\ttrain\t123abc"], "labels_sha256 of subject07, '123abc'"),
        ([*GOOD, "subject07\ttrain"], "labels_sha256 of subject07, ''"),
        ([*GOOD, "subject06\ttest\t-"], "subject06 occurs twice"),
        ([*GOOD, "subject06\ttrain\t-"], "subject06 is in two splits, test and train"),
        ([*GOOD, "subject07\ttest\t" + "0" * 64], "subject07 has the same labels_sha256"),
        (GOOD[1:], "no subject in the split 'train'"),
        (GOOD[:1] + GOOD[2:], "no subject in the split 'validation'"),
        (GOOD[:2], "no subject in the split 'test'"),
    ],
)
def test_refuses_bad_tables(tmp_path, rows, message):
    path = write(tmp_path, *rows)
    with pytest.raises(InputError) as caught:
        read_subjects(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_refuses_missing_columns(tmp_path):
    with pytest.raises(InputError, match="lacks the columns split, labels_sha256"):
        read_subjects(write(tmp_path, *GOOD, header="subject\tpart"))


@pytest.mark.parametrize("content", [None, b"", b"\x1f\x8b\x08\xff\xfe"])
def test_refuses_what_is_no_table(tmp_path, content):
    path = tmp_path / "subjects.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"subjects\.tsv"):
        read_subjects(path)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("subjects.tsv", {"train": 17, "validation": 1, "test": 2}),
        ("subjects.demo.tsv", {"train": 6, "validation": 1, "test": 1}),
    ],
)
def test_tables_of_the_repository(name, sizes):
    subjects = read_subjects(DATA / name)
    assert Counter(subject.split for subject in subjects.values()) == sizes


def test_every_brainweb_subject_has_a_hash():
    assert all(subject.labels_sha256 for subject in read_subjects(DATA / "subjects.tsv").values())
