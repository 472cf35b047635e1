"""Data sources by their names in the configuration; each is loaded when asked for.

A data source is its file, as `pipeline.sources.base` describes it, and its line here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pipeline.storage.errors import InputError

if TYPE_CHECKING:
    from pipeline.sources.base import Facts, Fetch

SOURCES = {
    "brainweb": "pipeline.sources.brainweb:fetch",
    "mni152": "pipeline.sources.mni152:fetch",
    "folder": "pipeline.sources.folder:fetch",
}
"""Module of every source, and its function that fetches a subject."""


def load(name: str) -> "Fetch":
    """Import the function that fetches a subject from a source.

    Raises
    ------
    InputError
        If there is no source of that name.
    """
    module, function = _place(name)
    found: Fetch = getattr(import_module(module), function)
    return found


def facts(name: str) -> "Facts":
    """Import what a source states of itself; InputError as `load`."""
    module, _ = _place(name)
    found: Facts = import_module(module).FACTS
    return found


def _place(name: str) -> tuple[str, str]:
    if name not in SOURCES:
        raise InputError("source", f"is {name!r}", f"give one of {', '.join(SOURCES)}.")
    module, _, function = SOURCES[name].partition(":")
    return module, function
