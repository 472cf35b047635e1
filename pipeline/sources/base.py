"""What each data source states in its own file, and nobody else about it.

Beside its `Facts`, which it names ``FACTS``, a source has a function ``fetch(output, subject,
config)``, which writes a subject's labels with `pipeline.sources.labels.write_labels`. All settings
but the experiment's seed decide only where it finds them; see `Facts.uses_seed`.

The workflow imports the file whenever it starts, so what is slow to import is imported inside the
functions that use it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.sources.subjects import Subject

Fetch = Callable[[Path, str, Mapping[str, Any]], None]
"""Write labels to an HDF5 file, in an existing folder, of a subject, as the configuration says."""


def any_subjects(subjects: Mapping[str, Subject], table: str) -> None:
    """Take any subjects: a source of which nothing is known beforehand, or which makes them."""


@dataclass(frozen=True)
class Facts:
    """What the workflow must know of a source before it fetches anything.

    Attributes
    ----------
    shape : tuple of int
        Voxels of a label volume along z, y, x.
    bytes_per_voxel : int
        What fetching a subject holds at its peak, for the memory that its job asks for.
    uses_seed : bool
        Whether the experiment's seed decides the labels; if not, ``fetch`` is given None for it,
        and another seed fetches nothing again.
    check : callable
        Refuses, by an InputError, a table of subjects (read, and its path) that does not suit the
        source.
    """

    shape: tuple[int, int, int]
    bytes_per_voxel: int
    uses_seed: bool
    check: Callable[[Mapping[str, Subject], str], None] = any_subjects
