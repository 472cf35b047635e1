"""Formats of images by the names of their files: where to add another."""

from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.images import dicom, nifti
from pipeline.images.volume import Volume
from pipeline.storage.errors import InputError
from pipeline.storage.system_errors import unreadable

READERS: dict[str, Callable[[Path], Volume]] = {
    ".nii.gz": nifti.read,
    ".nii": nifti.read,
    "/": dicom.read,
}
"""By what follows the subject in the name: of a folder a slash."""


def read(folder: Path, name: str) -> tuple[Path, Volume] | None:
    """Read an image, whatever its format; None if there is none.

    Parameters
    ----------
    folder : Path
        Where it lies.
    name : str
        Of its file or folder, without what follows: ``subject01``, ``subject01_mu``.

    Returns
    -------
    path, volume

    Raises
    ------
    InputError
        If there are several of that name, or the one cannot be read.
    """
    found = list(_found(folder, name))
    if len(found) > 1:
        names = " and ".join(path.name for path, _ in found)
        raise InputError(folder, f"holds {names} of {name}", "take all but one of them away")
    if not found:
        return None
    path, reader = found[0]
    try:
        return path, reader(path)
    except MemoryError as error:
        problem = f"does not fit into memory ({error})"
        raise InputError(path, problem, "give the job more memory") from error


def there(folder: Path, name: str) -> bool:
    """Whether there is an image of that name, readable or not; InputError as `read`."""
    return any(True for _ in _found(folder, name))


def in_other_case(folder: Path, name: str) -> str | None:
    """Name in a folder that differs from one that is looked for by its case alone."""
    wanted = {f"{name}{suffix}".rstrip("/") for suffix in READERS}
    try:
        there = sorted(path.name for path in folder.iterdir())
    except OSError:
        return None
    return next((found for found in there if found not in wanted and found.lower() in wanted), None)


def names(name: str) -> str:
    """List the names that are looked for."""
    return ", ".join(f"{name}{suffix}" for suffix in READERS)


def _found(folder: Path, name: str) -> Iterator[tuple[Path, Callable[[Path], Volume]]]:
    for suffix, reader in READERS.items():
        path = folder / f"{name}{suffix}"
        try:
            if path.is_dir() if suffix == "/" else path.is_file():
                yield path, reader
        except OSError as error:
            raise unreadable(folder, error, f"cannot be read ({error})", "correct it") from error
