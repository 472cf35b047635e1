"""How every HDF5 file of the pipeline is written and read.

A `Kind` declares what a file holds; `write` puts all of it under the final name or nothing at all;
`read` and `opened` refuse files that are damaged, of another kind or of another schema version.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.storage.errors import InputError
from pipeline.storage.files import Sink, atomic_file, check_readable
from pipeline.storage.system_errors import unreadable
from pipeline.storage.versions import versions

SCHEMA_VERSION = 1
"""Raised whenever the meaning of any dataset changes; older files are then refused."""

CHUNK_LENGTH = 1 << 20
"""Entries in a chunk of datasets with one axis."""

GZIP_RATIO = 1032
"""Bytes that one byte of gzip's can stand for, at most."""

HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)
"""What h5py raises for damaged files."""

SHARED_AXES = ("slice", "z")
"""First axes that all datasets of a file have in common, and so their length."""


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
    """Declaration of one kind of file: its name, the rule that makes it, and what it holds.

    Of the attributes, only those that other rules read are declared.
    """

    name: str
    rule: str
    datasets: Mapping[str, Dataset]
    attributes: tuple[str, ...] = ()


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
    return {
        "config": text,
        "config_hash": hashlib.sha256(text.encode()).hexdigest(),
        "versions": json.dumps(versions(), sort_keys=True),
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
    the first axis; the others are not. All have Fletcher's checksum: gzip's own, Adler's, misses
    some of what one flipped bit in a table of codes does to the values.

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
        atomic_file(path) as temporary,
        Sink(temporary) as sink,
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


def _write_dataset(
    file: h5py.File, name: str, declared: Dataset, array: np.ndarray | h5py.Dataset
) -> None:
    if array.dtype != declared.dtype or array.ndim != len(declared.axes):
        raise ValueError(
            f"{name}: {array.dtype} with {array.ndim} axes given, "
            f"{declared.dtype} {declared.axes} declared"
        )
    if isinstance(array, h5py.Dataset):
        dataset = file.create_dataset_like(name, array)
        # Chunk by chunk: HDF5 2.0 writes beyond its memory where it copies datasets with Fletcher's
        # checksum that have been read.
        for number in range(array.id.get_num_chunks()):
            offset = array.id.get_chunk_info(number).chunk_offset
            filters_off, packed = array.id.read_direct_chunk(offset)
            dataset.id.write_direct_chunk(offset, packed, filters_off)
    else:
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: {np.count_nonzero(~np.isfinite(array))} non-finite values")
        chunks = (1, *array.shape[1:]) if array.ndim > 1 else (min(len(array), CHUNK_LENGTH),)
        filters: dict[str, Any] = {"fletcher32": True}
        if array.ndim > 1:
            filters |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        dataset = file.create_dataset(name, data=array, chunks=chunks, **filters)
    dataset.attrs["units"] = declared.units
    dataset.attrs["description"] = declared.description
    for axis, label in enumerate(declared.axes):
        dataset.dims[axis].label = label


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
    with unchecked(path, kind) as file:
        remedy = _remedy(path, kind.rule)
        try:
            _check(file, path, kind, remedy)
        except HDF5_ERRORS as error:
            raise unreadable(path, error, f"is damaged ({error})", remedy) from error
        yield file


def unchecked(path: Path, kind: Kind) -> h5py.File:
    """Open a file whose contents `opened` has checked before.

    Raises
    ------
    InputError
        If it cannot be opened.
    """
    remedy = _remedy(path, kind.rule)
    check_readable(path, "HDF5 file", remedy)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        problem = f"is not a readable HDF5 file ({error})"
        if "already open for write" in str(error):  # marked in the file, locks or not
            remedy = f"end the program that writes it; if there is none, {remedy}"
        raise unreadable(path, error, problem, remedy) from error


def _remedy(path: str | Path, rule: str) -> str:
    return f"delete it and run rule '{rule}' again: snakemake --cores all -- {path}"


def _check(file: h5py.File, path: Path, kind: Kind, remedy: str) -> None:
    attributes = dict(file.attrs)
    found = attributes.get("schema_version")
    if found != SCHEMA_VERSION:
        raise InputError(path, f"has schema version {found}, not {SCHEMA_VERSION}", remedy)
    if attributes.get("kind") != kind.name or attributes.get("rule") != kind.rule:
        raise InputError(path, f"is a '{attributes.get('kind')}', not a '{kind.name}'", remedy)
    for name in kind.attributes:
        if name not in attributes:
            raise InputError(path, f"lacks the attribute '{name}'", remedy)
    lengths: dict[str, set[int]] = {axis: set() for axis in SHARED_AXES}
    for name, declared in kind.datasets.items():
        if declared.optional and file.get(name, getlink=True) is None:
            continue
        dataset = stored(file, name, path, remedy)
        if dataset.dtype != declared.dtype or dataset.ndim != len(declared.axes):
            raise InputError(
                path,
                f"dataset '{name}' is {dataset.dtype} with {dataset.ndim} axes, "
                f"not {declared.dtype} {declared.axes}",
                remedy,
            )
        lengths.get(declared.axes[0], set()).add(len(dataset))
    for axis, found_lengths in lengths.items():
        if len(found_lengths) > 1 or 0 in found_lengths:
            problem = f"has datasets with {sorted(found_lengths)} entries along the axis '{axis}'"
            raise InputError(path, problem, remedy)


def stored(file: h5py.File, name: str, path: Path, remedy: str) -> h5py.Dataset:
    """Give a dataset whose values lie in this very file, and not more than fit into it.

    HDF5 knows links to other files, datasets whose values lie in other files, and shapes without
    values; a file from elsewhere could show any file of this machine, or ask for any memory.

    Raises
    ------
    InputError
        If there is no such dataset.
    """
    link = file.get(name, getlink=True)
    if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
        raise InputError(path, f"has a link to another place as its dataset '{name}'", remedy)
    if link is None or file.get(name, getclass=True) is not h5py.Dataset:
        raise InputError(path, f"lacks the dataset '{name}'", remedy)
    dataset = file[name]
    if dataset.shape is None or dataset.is_virtual or dataset.external:
        raise InputError(path, f"does not itself hold the values of '{name}'", remedy)
    held = dataset.id.get_storage_size()
    if math.prod(dataset.shape) * dataset.dtype.itemsize > GZIP_RATIO * held:
        problem = f"declares {dataset.shape} for '{name}' and holds {held} bytes of it"
        raise InputError(path, problem, remedy)
    return dataset


def check_shape(dataset: h5py.Dataset, shape: tuple[int, ...]) -> None:
    """Refuse a dataset whose last axes have other lengths than the configuration asks for.

    Raises
    ------
    InputError
        Naming the file, the dataset and the rule to run again.
    """
    found = dataset.shape[-len(shape) :]
    if found != shape:
        path, remedy = _mending(dataset)
        problem = f"dataset '{dataset.name}' has {found} for {shape} along its last axes"
        raise InputError(path, problem, remedy)


def finite(dataset: h5py.Dataset, selection: Any = ()) -> np.ndarray:
    """Read (part of) a dataset and refuse NaN, infinity and damaged chunks.

    Raises
    ------
    InputError
        Naming the file, the dataset and the rule to run again.
    """
    try:
        array = np.asarray(dataset[selection])
    except MemoryError as error:
        problem = f"dataset '{dataset.name}' of {dataset.shape} does not fit into memory ({error})"
        raise InputError(dataset.file.filename, problem, "give the job more memory") from error
    except (OSError, RuntimeError) as error:
        path, remedy = _mending(dataset)
        problem = f"dataset '{dataset.name}' is damaged ({error})"
        raise unreadable(path, error, problem, remedy) from error
    if not np.isfinite(array).all():
        path, remedy = _mending(dataset)
        count = np.count_nonzero(~np.isfinite(array))
        raise InputError(path, f"dataset '{dataset.name}' has {count} non-finite values", remedy)
    return array


def same_slices(
    one: h5py.File,
    other: h5py.File,
    names: Iterable[str] = ("rotation", "slice_index", "draw", "present"),
) -> bool:
    """Whether two open files hold the same slices, in the same order, by what names them.

    What neither of them has is the same in both.

    Raises
    ------
    InputError
        If one of these datasets is damaged or not finite.
    """

    def values(file: h5py.File, name: str) -> Any:
        return finite(file[name]) if name in file else ()

    return all(np.array_equal(values(one, name), values(other, name)) for name in names)


def _mending(dataset: h5py.Dataset) -> tuple[str, str]:
    """Name of a dataset's file, and what to do if it is bad."""
    path = dataset.file.filename
    try:
        return path, _remedy(path, dataset.file.attrs["rule"])
    except HDF5_ERRORS as error:
        remedy = f"delete it and make it again: snakemake --cores all -- {path}"
        raise unreadable(path, error, f"is damaged ({error})", remedy) from error


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
