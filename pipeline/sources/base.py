"""What each data source states in its own file, and nobody else about it.

Beside its `Facts`, which it names ``FACTS``, a source has a function ``fetch(output, subject,
config)``, which writes what it `gives` of a subject: labels, with
`pipeline.sources.labels.write_labels`, of which rule ``phantom`` makes activity and attenuation; or
an image, which is activity already, of kind `pipeline.storage.kinds.IMAGE`. Of all settings only
those of `Facts.decided_by` decide what that is; others say where to find it.

The workflow imports the file whenever it starts, so what is slow to import is imported inside the
functions that use it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.sources.subjects import Subject

Fetch = Callable[[Path, str, Mapping[str, Any]], None]
"""Write an HDF5 file, in an existing folder, of a subject, as the configuration says."""

LABELS, IMAGES = "labels", "images"
"""What a source gives."""


def any_subjects(subjects: Mapping[str, Subject], table: str) -> None:
    """Take any subjects: a source of which nothing is known beforehand, or which makes them."""


def all_there(subjects: Iterable[str], config: Mapping[str, Any]) -> None:
    """Take any subjects for there: a source that makes them, or gets them from elsewhere."""


@dataclass(frozen=True)
class Facts:
    """What the workflow must know of a source before it fetches anything.

    Attributes
    ----------
    shape : tuple of int
        Voxels of a volume along z, y, x, or the most that it may have.
    bytes_per_voxel : int
        What fetching a subject holds at its peak, for the memory that its job asks for.
    decided_by : tuple of str
        Keys of the configuration that decide what it gives: another value fetches again. If the
        seed is not among them, ``fetch`` is given None for it.
    gives : str
        `LABELS`, which are the same in every experiment; or `IMAGES`, which are fetched for each.
    check : callable
        Refuses, by an InputError, a table of subjects (read, and its path) that does not suit the
        source.
    check_there : callable
        Refuses, by an InputError and without reading any, names of subjects that the place named in
        the configuration lacks.
    """

    shape: tuple[int, int, int]
    bytes_per_voxel: int
    decided_by: tuple[str, ...] = ()
    gives: str = LABELS
    check: Callable[[Mapping[str, Subject], str], None] = any_subjects
    check_there: Callable[[Iterable[str], Mapping[str, Any]], None] = all_there
