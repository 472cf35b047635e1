"""The one exception for bad input: what is wrong, where, and what to do about it."""

from pathlib import Path


class InputError(Exception):
    """Input that the user can mend.

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
        self.where, self.problem, self.remedy = str(where), problem, remedy
        super().__init__(f"{where}: {problem}\n  -> {remedy}")
