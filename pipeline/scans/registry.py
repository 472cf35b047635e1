"""Readers of projection data by the suffixes of their files; each is loaded when asked for.

A reader is its file, with a function ``read(path, settings)``, and its line here.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from pipeline.scans.headers import named_file
from pipeline.scans.projections import Projections, ScanSettings
from pipeline.storage.errors import InputError

READERS = {
    ".hs": "pipeline.scans.interfile:read",
    ".s.hdr": "pipeline.scans.siemens:read",
    ".npy": "pipeline.scans.arrays:read",
    ".npz": "pipeline.scans.arrays:read",
    ".mat": "pipeline.scans.arrays:read",
    ".h5": "pipeline.scans.arrays:read",
    ".hdf5": "pipeline.scans.arrays:read",
    ".petsird": "pipeline.scans.listmode:read",
}
"""Module and function of the reader of each suffix."""


HEADERS = (".hs", ".s.hdr")
"""Suffixes of headers, which name the file of numbers behind them."""


def reader_of(path: str | Path) -> str | None:
    """Entry of the reader of a file, by its suffix; None if there is none."""
    name = Path(path).name.lower()
    return next((READERS[suffix] for suffix in READERS if name.endswith(suffix)), None)


def files_of(path: str | Path) -> list[Path]:
    """Files in which projection data lie: the one that is asked for and, behind a header, another.

    Of a header that cannot be read, or whose file is not there, the header alone: its reader
    refuses it, and says why.
    """
    path = Path(path)
    if not path.name.lower().endswith(HEADERS):
        return [path]
    named = named_file(path)
    return [path] if named is None else [path, named]


def read(path: str | Path, settings: ScanSettings) -> Projections:
    """Read projection data of any known format.

    Raises
    ------
    InputError
        If no reader knows the suffix, or as the reader.
    """
    entry = reader_of(path)
    if entry is None:
        known = ", ".join(READERS)
        problem = f"has none of the known suffixes {known}"
        raise InputError(path, problem, "give the header, or save the sinograms as one of these")
    module, _, function = entry.partition(":")
    reader: Callable[[str | Path, ScanSettings], Projections]
    reader = getattr(import_module(module), function)
    return reader(path, settings)
