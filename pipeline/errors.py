"""The one exception for bad input: what is wrong, where, and what to do about it."""

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


def _shown(text: str | Path) -> str:
    return _shortened("".join(map(_printable, _shortened(str(text)))))


def _shortened(text: str) -> str:
    half = (LONGEST - len(GAP)) // 2
    return text if len(text) <= LONGEST else text[:half] + GAP + text[-half:]


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
