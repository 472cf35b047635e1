"""Where files of any format may be written and read: never half, never where links lead astray."""

import errno
import io
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.storage.errors import InputError
from pipeline.storage.system_errors import blame, unreadable


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it on success, delete it on failure.

    What a killed process left of the same file is deleted first: of two processes that write it at
    once one fails, and neither's file is half the other's.

    Raises
    ------
    InputError
        As `writing`.
    """
    path = Path(path)
    with writing(path):
        _delete_leftovers(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _delete_leftovers(path: Path) -> None:
    named = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]+\.tmp")  # as mkstemp names them
    for other in path.parent.iterdir():
        if named.fullmatch(other.name):
            other.unlink(missing_ok=True)


class Sink(io.FileIO):
    """Existing file that a library writes into; a failed write is raised by `close`, not `write`.

    After a failed write (a full disk), libhdf5 leaves the file half open and may crash the
    interpreter at its end, and torch raises an error that does not say what happened; so they never
    learn of one.
    """

    def __init__(self, path: Path):
        super().__init__(path, "r+")
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``, or nothing once a write has failed."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view) and not self.failed:
                written += super().write(view[written:])
        except OSError as error:
            self.failed = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length, as `io.FileIO.truncate`."""
        try:
            return 0 if self.failed else super().truncate(size)
        except OSError as error:
            self.failed = error
            return 0

    def close(self) -> None:
        """Close the file, then raise the failure, if there was one."""
        super().close()
        if self.failed:
            error, self.failed = self.failed, None
            raise error


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Refuse to write where that is not safe, and say why where it fails.

    Nothing is written through a symbolic link that may have come with somebody's files:

    - A link under the name itself is refused, wherever it leads.
    - Of a path relative to the current folder (``data/paper/shards/subject04.h5``), the first
      folder (``data``, ``results``, ``logs``) is the user's: it may be a link, to a larger disk
      say. Below it, links may lead to places inside that folder, and none outside.
    - Of any other path the user named every folder, and only the name itself is looked at.

    Files that are read may be links: their contents are checked, not where they lie.

    Parameters
    ----------
    path : path
        A file, or a folder to be made.

    Raises
    ------
    InputError
        If a symbolic link is in the way, or the operating system refuses (no space, no permission,
        no folder).
    """
    path = Path(path)
    try:
        _refuse_links(path)
        yield
    except OSError as error:
        reason, remedy = blame(error) or (error, f"{_mended(path, error)}, then run the rule again")
        raise InputError(path, f"cannot be written ({reason})", remedy) from error


def _mended(path: Path, error: OSError) -> str:
    folder = _resolved(path.parent)
    if isinstance(error, IsADirectoryError):
        return f"move the folder {path} away"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"make the folder {folder}"
    if error.errno == errno.ELOOP:
        return f"put folders in place of the links in {folder}"
    there = next(parent for parent in (folder, *folder.parents) if os.path.isdir(parent))  # noqa: PTH112
    return f"free space in, or allow writing to, {there}"


def _refuse_links(path: Path) -> None:
    if path.is_symlink():
        problem = f"is a symbolic link to {path.readlink()}; nothing is written through links"
        raise InputError(path, problem, "delete the link, then run the rule again")
    here, parts = Path.cwd(), path.parts
    if path.is_absolute() and path.is_relative_to(here):
        parts = path.relative_to(here).parts
    if len(parts) < 2 or Path(*parts).is_absolute() or ".." in parts:
        return
    top, folder = _resolved(Path(parts[0])), _resolved(path.parent)
    if not folder.is_relative_to(top):
        raise InputError(
            path,
            f"would be written to {folder}, as a symbolic link leads out of {parts[0]}/",
            f"put a folder in place of the link, or make all of {parts[0]}/ a link",
        )


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve fails for links that run in a circle


def make_folder(path: str | Path) -> None:
    """Make a folder, and those above it, if it is not there; InputError as `writing`."""
    path = Path(path)
    if not path.is_dir():
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)


def check_readable(path: str | Path, what: str, remedy: str) -> None:
    """Refuse to read what is missing, is no regular file, or may not be read.

    A pipe or a device would never end, or never begin.

    Parameters
    ----------
    what : str
        What the file should be.
    remedy : str
        What to do if it is missing or something else: "delete it and ...".

    Raises
    ------
    InputError
    """
    try:
        regular = stat.S_ISREG(Path(path).stat().st_mode)
        if regular:
            Path(path).open("rb").close()
    except FileNotFoundError:
        raise InputError(path, "does not exist", remedy.removeprefix("delete it and ")) from None
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise unreadable(path, error, problem, "correct its path") from error
    if not regular:
        raise InputError(path, f"is not a readable {what} (it is no regular file)", remedy)
