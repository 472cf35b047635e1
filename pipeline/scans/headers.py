"""Headers of the Interfile family: lines of ``key := value``, which name a file of raw numbers."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.storage.system_errors import unreadable

MAX_BYTES = 2**20
"""Of a header; those of real scanners have 2 to 20 kB."""

END = "end of interfile"

WHOLE = re.compile(r"[-+]?\d{1,15}")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)

CORRECT = "correct the header, or export the data anew"


@dataclass(frozen=True)
class Header:
    """The keys of a header, and typed access to their values.

    Parameters
    ----------
    path : Path
        Its file.
    values : mapping of key to text
        Keys as `plain_key` gives them; empty values are left out.
    """

    path: Path
    values: Mapping[str, str]

    def refusal(self, problem: str, remedy: str = CORRECT) -> InputError:
        """Error about this header, to be raised."""
        return InputError(self.path, problem, remedy)

    def text(self, *keys: str) -> str:
        """Value of the first of some keys that is there; InputError if none is."""
        found = next((key for key in keys if key in self.values), None)
        if found is None:
            raise self.refusal(f"lacks the key '{keys[0]}'", "add it, or export the data anew")
        return self.values[found]

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """Value of a key, in lower case, that must be one of some; InputError if it is not."""
        if default is not None and key not in self.values:
            return default
        found = " ".join(self.text(key).lower().split())
        if found not in allowed:
            raise self.refusal(f"has {found!r} as '{key}', not one of {', '.join(allowed)}")
        return found

    def words(self, key: str) -> tuple[str, ...]:
        """Values of a list ``{a, b}``, or one value, in lower case; none if the key is absent."""
        items = self.values.get(key, "").strip("{} \t").split(",")
        return tuple(" ".join(item.lower().split()) for item in items if item.strip())

    def wholes(self, key: str) -> tuple[int, ...]:
        """Whole numbers of a list; InputError if there is none, or anything else."""
        self.text(key)
        found = self.words(key)
        if not found or not all(map(WHOLE.fullmatch, found)):
            raise self.refusal(f"has '{self.values[key]}' as '{key}', not whole numbers")
        return tuple(map(int, found))

    def whole(self, key: str, least: int = 1, default: int | None = None) -> int:
        """Whole number, not below the least; InputError if it is none, or there is no default."""
        if default is not None and key not in self.values:
            return default
        found = self.wholes(key)
        if len(found) != 1 or found[0] < least:
            problem = f"has {self.values[key]} as '{key}', not a whole number from {least} up"
            raise self.refusal(problem)
        return found[0]

    def optional_whole(self, key: str) -> int | None:
        """Whole number from 1 up; None if the key is absent."""
        return self.whole(key) if key in self.values else None

    def numbers(self, key: str) -> tuple[float, ...]:
        """Finite numbers of a list, or one; none if the key is absent."""
        found = self.words(key)
        if not all(NUMBER.fullmatch(word) and math.isfinite(float(word)) for word in found):
            raise self.refusal(f"has '{self.values[key]}' as '{key}', not finite numbers")
        return tuple(map(float, found))

    def number(self, key: str) -> float | None:
        """Finite number; None if the key is absent."""
        found = self.numbers(key)
        if len(found) > 1:
            raise self.refusal(f"has '{self.values[key]}' as '{key}', not one number")
        return found[0] if found else None

    def length(self, key: str, least: float = 0.0) -> float | None:
        """Number above the least; None if the key is absent."""
        found = self.number(key)
        if found is not None and found <= least:
            problem = f"has {found:g} as '{key}', not a positive number"
            raise self.refusal(problem, "correct it, or delete that line if it is not known")
        return found


def plain_key(text: str) -> str:
    """Key in lower case with single blanks, without ``!`` or ``%``, its index as ``[1]``.

    STIR and Siemens write the same keys with and without these marks, blanks and capitals.
    """
    text = " ".join(text.replace("_", " ").lower().lstrip("!% \t").split())
    return re.sub(r" ?\[ ?(\d+) ?\]$", r"[\1]", text)


def read_header(path: str | Path, to_the_end: bool) -> Header:
    """Read a header.

    Parameters
    ----------
    path : path
    to_the_end : bool
        Refuse a header without ``END OF INTERFILE``, of which a part may be missing; not all
        programs write it.

    Raises
    ------
    InputError
        If it is missing, not a header, or says different things under one key.
    """
    path = Path(path)
    lines = [line.split(";")[0].strip() for line in _text(path).split("\n")]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    if not numbered or not plain_key(numbered[0][1]).startswith("interfile"):
        raise InputError(path, "does not begin with '!INTERFILE :='", "give an Interfile header")
    values: dict[str, str] = {}
    for number, line in numbered[1:]:
        key, colon, value = line.partition(":=")
        key, value = plain_key(key), value.strip()
        if key == END:
            return Header(path, values)
        if not colon:
            raise InputError(path, f"has no ':=' in line {number}, '{line}'", CORRECT)
        if value and values.setdefault(key, value) != value:
            problem = f"has both '{values[key]}' and '{value}' as '{key}'"
            raise InputError(path, problem, "delete one of the two lines")
    if to_the_end:
        problem = "ends without '!END OF INTERFILE :='; some of it may be missing"
        raise InputError(path, problem, "copy it anew, or add that line if all of it is there")
    return Header(path, values)


def named_file(path: Path) -> Path | None:
    """File of numbers that a header names; None if the header is none, or that file is not there.

    Cheap, and never an error: for those who need to know the files before they are read.
    """
    try:
        named = data_path(read_header(path, to_the_end=False))
    except InputError:
        return None
    return named if os.path.isfile(named) else None  # noqa: PTH113  (Path.is_file raises)


def data_path(header: Header) -> Path:
    """Path of the file of numbers, relative to its header; InputError if it does not name one."""
    return header.path.parent / header.text("name of data file")


def _text(path: Path) -> str:
    check_readable(path, "Interfile header", "correct its path")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error, f"cannot be read ({error})", "correct its path") from error
    if len(data) > MAX_BYTES:
        problem = f"is longer than the {MAX_BYTES} bytes of any Interfile header"
        raise InputError(path, problem, "give the header, not the data beside it")
    # A file's name may be in any encoding, and is needed as it is.
    text = data.decode("utf-8", errors="surrogateescape")
    return text.replace("\r\n", "\n").replace("\\\n", "")
