"""How every HDF5 file of the pipeline is written and read.

A `Kind` declares what a file holds; `write` puts all of it under the final name or nothing at all;
`read` and `opened` refuse files that are damaged, of another kind or of another schema version.
"""

import hashlib
import io
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import InputError

SCHEMA_VERSION = 1
"""Raised whenever the meaning of any dataset changes; older files are then refused."""

CHUNK_LENGTH = 1 << 20
"""Entries in a chunk of datasets with one axis."""

PROVENANCE_PACKAGES = ("numpy", "scipy", "torch", "h5py", "nibabel", "brainweb", "parallelproj")


@dataclass(frozen=True)
class Dataset:
    """Declaration of one dataset: NumPy dtype, axis labels, physical unit and meaning.

    An optional one may be absent, where it would have no meaning.
    """

    dtype: str
    axes: tuple[str, ...]
    units: str
    description: str
    optional: bool = False


@dataclass(frozen=True)
class Kind:
    """Declaration of one kind of file: its name, the rule that makes it, and its datasets."""

    name: str
    rule: str
    datasets: Mapping[str, Dataset]


def provenance(settings: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Describe how a file was made, as HDF5 attributes.

    Parameters
    ----------
    settings : mapping
        The part of the configuration that determines the file; stored as JSON with its hash.
    **facts
        Further attributes: numbers, strings or arrays (seeds, projector, source, ...).
    """
    text = json.dumps(settings, sort_keys=True)
    versions = {"python": platform.python_version()}
    for package in PROVENANCE_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "config": text,
        "config_hash": hashlib.sha256(text.encode()).hexdigest(),
        "versions": json.dumps(versions, sort_keys=True),
        **facts,
    }


def write(
    path: str | Path,
    kind: Kind,
    arrays: Mapping[str, np.ndarray | h5py.Dataset],
    attributes: Mapping[str, Any],
) -> None:
    """Write all arrays of a file at once: after a failure nothing lies under ``path``.

    Datasets of several axes are compressed by gzip (level 1, with shuffle), one chunk per index of
    the first axis; gzip includes a checksum. The others are uncompressed, with Fletcher's checksum.

    Parameters
    ----------
    path : path
        Final name; its folder must exist. A temporary file beside it is renamed at the end.
    kind : Kind
        What the file holds; ``arrays`` must be its datasets, optional ones left out or not.
    arrays : mapping of name to array
        NumPy arrays, or datasets of another open file of this pipeline, whose compressed chunks
        are then copied as they are.
    attributes : mapping
        From `provenance`.

    Raises
    ------
    InputError
        If the folder cannot be written to, or the disk is full.
    ValueError
        If an array's dtype or number of axes contradicts the declaration, or it is not finite.
    """
    path = Path(path)
    required = {name for name, declared in kind.datasets.items() if not declared.optional}
    if not required <= set(arrays) <= set(kind.datasets):
        raise ValueError(f"{kind.name}: {sorted(arrays)} given, {sorted(kind.datasets)} declared")
    with (
        atomic(path) as temporary,
        _Sink(temporary) as sink,
        h5py.File(sink, "w", libver="v110") as file,  # older formats do not checksum metadata
    ):
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["kind"] = kind.name
        file.attrs["rule"] = kind.rule
        for key, value in attributes.items():
            file.attrs[key] = value
        for name in (name for name in kind.datasets if name in arrays):
            _write_dataset(file, name, kind.datasets[name], arrays[name])
            if sink.failed:
                break


class _Sink(io.FileIO):
    """File that h5py writes into; a failed write is raised by `close`, not by `write`.

    After a failed write (a full disk), libhdf5 leaves the file half open and may crash the
    interpreter at its end; so it never learns of one.
    """

    def __init__(self, path: Path):
        super().__init__(path, "r+")
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``, or nothing once a write has failed."""
        view = memoryview(data)
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


def _write_dataset(
    file: h5py.File, name: str, declared: Dataset, array: np.ndarray | h5py.Dataset
) -> None:
    if array.dtype != declared.dtype or array.ndim != len(declared.axes):
        raise ValueError(
            f"{name}: {array.dtype} with {array.ndim} axes given, "
            f"{declared.dtype} {declared.axes} declared"
        )
    if isinstance(array, h5py.Dataset):
        file.copy(array, name, without_attrs=True)
        dataset = file[name]
    else:
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: {np.count_nonzero(~np.isfinite(array))} non-finite values")
        chunks = (1, *array.shape[1:]) if array.ndim > 1 else (min(len(array), CHUNK_LENGTH),)
        filters: dict[str, Any] = {"fletcher32": True}
        if array.ndim > 1:
            filters = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        dataset = file.create_dataset(name, data=array, chunks=chunks, **filters)
    dataset.attrs["units"] = declared.units
    dataset.attrs["description"] = declared.description
    for axis, label in enumerate(declared.axes):
        dataset.dims[axis].label = label


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it on success, delete it on failure.

    Raises
    ------
    InputError
        If the operating system refuses (no space, no permission, no folder).
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        folder = path.parent.resolve()
        mend = "free space in, or allow writing to," if folder.is_dir() else "make the folder"
        raise InputError(
            path, f"cannot be written ({error})", f"{mend} {folder}, then run the rule again"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def opened(path: str | Path, kind: Kind) -> Iterator[h5py.File]:
    """Open a file for reading after checking its kind, schema version, datasets and dtypes.

    Values are not read; check them with `finite` as they are.

    Raises
    ------
    InputError
        If the file is missing, damaged, or not what ``kind`` declares.
    """
    path = Path(path)
    remedy = f"delete it and run rule '{kind.rule}' again: snakemake --cores all -- {path}"
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise InputError(path, "does not exist", remedy.removeprefix("delete it and ")) from None
    except OSError as error:
        raise InputError(path, f"is not a readable HDF5 file ({error})", remedy) from error
    with file:
        try:
            _check(file, path, kind, remedy)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # all from h5py
            raise InputError(path, f"is damaged ({error})", remedy) from error
        yield file


def _check(file: h5py.File, path: Path, kind: Kind, remedy: str) -> None:
    attributes = dict(file.attrs)
    found = attributes.get("schema_version")
    if found != SCHEMA_VERSION:
        raise InputError(path, f"has schema version {found}, not {SCHEMA_VERSION}", remedy)
    if attributes.get("kind") != kind.name or attributes.get("rule") != kind.rule:
        raise InputError(path, f"is a '{attributes.get('kind')}', not a '{kind.name}'", remedy)
    for name, declared in kind.datasets.items():
        if declared.optional and name not in file:
            continue
        if file.get(name, getclass=True) is not h5py.Dataset:
            raise InputError(path, f"lacks the dataset '{name}'", remedy)
        dataset = file[name]
        if dataset.dtype != declared.dtype or dataset.ndim != len(declared.axes):
            raise InputError(
                path,
                f"dataset '{name}' is {dataset.dtype} with {dataset.ndim} axes, "
                f"not {declared.dtype} {declared.axes}",
                remedy,
            )


def finite(dataset: h5py.Dataset, selection: Any = ()) -> np.ndarray:
    """Read (part of) a dataset and refuse NaN, infinity and damaged chunks.

    Raises
    ------
    InputError
        Naming the file, the dataset and the rule to run again.
    """
    path, rule = dataset.file.filename, dataset.file.attrs["rule"]
    remedy = f"delete it and run rule '{rule}' again: snakemake --cores all -- {path}"
    try:
        array = np.asarray(dataset[selection])
    except (OSError, RuntimeError) as error:
        raise InputError(path, f"dataset '{dataset.name}' is damaged ({error})", remedy) from error
    if not np.isfinite(array).all():
        count = np.count_nonzero(~np.isfinite(array))
        raise InputError(path, f"dataset '{dataset.name}' has {count} non-finite values", remedy)
    return array


def read(
    path: str | Path, kind: Kind, names: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read datasets (all, unless named) and attributes of a file, fully checked.

    Returns
    -------
    arrays, attributes
        Dictionaries by name.

    Raises
    ------
    InputError
        As `opened` and `finite`.
    """
    with opened(path, kind) as file:
        names = [name for name in kind.datasets if name in file] if names is None else names
        return {name: finite(file[name]) for name in names}, dict(file.attrs)
