"""Readers of projection data by the suffixes of their files; each is loaded when asked for.

A reader is its file, with a function ``read(path, settings)``, and its line here.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

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


def read(path: str | Path, settings: ScanSettings) -> Projections:
    """Read projection data of any known format.

    Raises
    ------
    InputError
        If no reader knows the suffix, or as the reader.
    """
    name = Path(path).name.lower()
    suffix = next((suffix for suffix in READERS if name.endswith(suffix)), None)
    if suffix is None:
        known = ", ".join(READERS)
        problem = f"has none of the known suffixes {known}"
        raise InputError(path, problem, "give the header, or save the sinograms as one of these")
    module, _, function = READERS[suffix].partition(":")
    reader: Callable[[str | Path, ScanSettings], Projections]
    reader = getattr(import_module(module), function)
    return reader(path, settings)
