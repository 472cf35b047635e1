"""What the operating system says of a file is not about what the file holds.

A good file that is busy, or on a disk that does not answer, must not be taken for a damaged one.
"""

import errno
import os
from pathlib import Path

from pipeline.storage.errors import InputError

BLAMED: tuple[tuple[tuple[int, ...], str, str], ...] = (
    (
        (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY, errno.EDEADLK, errno.ETXTBSY),
        "another program has it open",
        "wait until that program ends, or end it",
    ),
    (
        (errno.EMFILE, errno.ENFILE),
        "there are more open files than allowed",
        "raise the limit (ulimit -n), or end other programs",
    ),
    (
        (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP),
        "its disk cannot lock files",
        "set HDF5_USE_FILE_LOCKING=FALSE in the environment",
    ),
    (
        (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        "its network disk has changed or does not answer",
        "see whether that disk is mounted and its server runs",
    ),
    (
        (errno.EIO, errno.ENXIO, errno.ENODEV),
        "its disk fails",
        "see what the system's log says about that disk",
    ),
    ((errno.ENOMEM,), "memory is short", "give the job more memory"),
)
"""Numbers of errors, who is to blame, and what to do before the same is tried again."""

DENIED = (errno.EACCES, errno.EPERM)
"""Refused to this user."""


def number_of(error: Exception) -> int | None:
    """Give the system's number of an error; some libraries keep its words alone, in their own."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, FileNotFoundError):  # what safetensors raises whyever it cannot open one
        return errno.ENOENT
    if isinstance(error.__context__, OSError):  # zipfile says "not a zip file" of any
        return error.__context__.errno
    known = (*DENIED, *(number for numbers, *_ in BLAMED for number in numbers))
    found = [number for number in known if os.strerror(number) in str(error)]
    # "Too many open files" begins "Too many open files in system".
    return max(found, key=lambda number: len(os.strerror(number)), default=None)


def blame(error: Exception) -> tuple[str, str] | None:
    """Say who is to blame for an error and what to do, if no file's content can be."""
    number = number_of(error)
    for numbers, blamed, remedy in BLAMED:
        if number in numbers:
            return f"{blamed}: {os.strerror(number)}", f"{remedy}, then try again"
    return None


def unreadable(path: str | Path, error: Exception, problem: str, remedy: str) -> InputError:
    """Say why a file could not be read.

    Parameters
    ----------
    path : path
    error : Exception
        What reading it raised, in whatever library.
    problem, remedy : str
        What that means, and what to do, if the system is not to blame: "is damaged", "delete it".

    Returns
    -------
    InputError
        To be raised.
    """
    number = number_of(error)
    if number in DENIED:
        what = f"cannot be read ({os.strerror(number)})"
        return InputError(path, what, "correct its path, or allow reading it")
    if number == errno.ENOENT and isinstance(error, OSError) and error.errno:
        what = f"does not exist ({os.strerror(number)})"
        return InputError(path, what, "correct its path, or make it again")
    if number == errno.ENOENT:
        remedy = "restore it, or raise the limit of open files (ulimit -n), then try again"
        return InputError(path, "has gone, or cannot be opened any more", remedy)
    if found := blame(error):
        return InputError(path, f"cannot be read now ({found[0]})", found[1])
    return InputError(path, problem, remedy)
