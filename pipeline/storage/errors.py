"""The one exception for bad input: what is wrong, where, and what to do about it."""

import io
import sys
from pathlib import Path

LONGEST = 700
"""Characters of each part of a message: all three together fit one screen."""

GAP = " [...] "


class InputError(Exception):
    """Input that the user can mend.

    What a file holds may be quoted as it is: control characters come out escaped, and of a long
    text the middle is left out.

    Parameters
    ----------
    where : str or Path
        The file, folder or configuration key at fault.
    problem : str
        What was found there, with the offending value.
    remedy : str
        What to do about it.
    """

    def __init__(self, where: str | Path, problem: str, remedy: str):
        self.where, self.problem, self.remedy = map(_shown, (where, problem, remedy))
        super().__init__(f"{self.where}: {self.problem}\n  -> {self.remedy}")


def escape_printing() -> None:
    """Let what is printed from here on escape characters that the terminal's encoding lacks.

    Names and texts of files may come from a machine with another encoding.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _shown(text: str | Path) -> str:
    return _shortened("".join(map(_printable, _shortened(str(text)))))


def _shortened(text: str) -> str:
    half = (LONGEST - len(GAP)) // 2
    return text if len(text) <= LONGEST else text[:half] + GAP + text[-half:]


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
