"""The table of subjects: who is trained on, validated on and tested on."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.storage.system_errors import unreadable

SPLITS = ("train", "validation", "test")
COLUMNS = ("subject", "split", "labels_sha256")
NOT_VERIFIED = "-"
"""In place of a hash: the subject's labels are not compared with anything."""

MAX_BYTES = 2**24  # some 190,000 subjects


@dataclass(frozen=True)
class Subject:
    """One subject: its name, the split it belongs to, and the hash of its labels (or None)."""

    name: str
    split: str
    labels_sha256: str | None


def read_subjects(path: str | Path) -> dict[str, Subject]:
    """Read a table of subjects.

    Parameters
    ----------
    path : path
        Tab-separated, with the columns of `COLUMNS`: a name as in ``subject04``, one of `SPLITS`,
        and `pipeline.sources.labels.labels_sha256` of the label volume or `NOT_VERIFIED`.

    Returns
    -------
    dict of name to Subject
        In the order of the table.

    Raises
    ------
    InputError
        If the file or a column is missing, a value is malformed, a subject or a hash occurs twice
        (the same head in two splits would make the test worthless), or a split is empty.
    """
    path = Path(path)
    subjects: dict[str, Subject] = {}
    owners: dict[str | None, str] = {}  # name by hash
    for line, row in _rows(path):
        subject = _subject(row, f"{path}, line {line}")
        _refuse_twice(subject, subjects, owners, f"{path}, line {line}")
        subjects[subject.name] = subject
        if subject.labels_sha256 is not None:
            owners[subject.labels_sha256] = subject.name
    for split in SPLITS:
        if not any(subject.split == split for subject in subjects.values()):
            raise InputError(path, f"has no subject in the split '{split}'", "add one")
    return subjects


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    check_readable(path, "table", "correct its path in the configuration")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(path, f"has {size} bytes, more than any table of subjects", "replace it")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", restval="")
            missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
            rows = [(table.line_num, row) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, error, f"cannot be read ({error})", "replace it") from error
    if missing:
        raise InputError(
            path,
            f"lacks the columns {', '.join(missing)}",
            f"let its first line be {', '.join(COLUMNS)}, separated by tabs",
        )
    return rows


def _subject(row: dict[str, str], where: str) -> Subject:
    name, split, sha256 = (row[column].strip() for column in COLUMNS)
    if not re.fullmatch(r"subject[0-9]{2,}", name):
        raise InputError(where, f"'{name}' is not a subject's name", "write it like subject04")
    if split not in SPLITS:
        raise InputError(
            where, f"{name} is in the unknown split '{split}'", f"choose from {', '.join(SPLITS)}"
        )
    if sha256 != NOT_VERIFIED and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InputError(
            where,
            f"the labels_sha256 of {name}, '{sha256}', is not a SHA-256",
            f"give its 64 lower-case hexadecimal digits, or '{NOT_VERIFIED}' to skip the check",
        )
    return Subject(name, split, None if sha256 == NOT_VERIFIED else sha256)


def _refuse_twice(
    subject: Subject, earlier: Mapping[str, Subject], owners: Mapping[str | None, str], where: str
) -> None:
    if subject.name in earlier:
        first = earlier[subject.name].split
        problem = f"{subject.name} occurs twice"
        if first != subject.split:
            problem = f"{subject.name} is in two splits, {first} and {subject.split}"
        raise InputError(where, problem, "keep one of the lines")
    if subject.labels_sha256 in owners:
        raise InputError(
            where,
            f"{subject.name} has the same labels_sha256 as {owners[subject.labels_sha256]}",
            "correct the hash of one of them",
        )
