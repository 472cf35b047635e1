"""Sinograms that were rebinned before, as plain arrays: NumPy's, MATLAB's, HDF5."""

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.scans.matlab import read_matlab
from pipeline.scans.projections import Acquisition, Projections, ScanSettings, Segment, no_names
from pipeline.scans.raw import DataFile, sha256_of
from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.storage.hdf5 import GZIP_RATIO, stored
from pipeline.storage.system_errors import unreadable

AXES = ("plane", "view", "radial")
"""Names that `ScanSettings.axes` gives to an array's axes."""

NPZ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How NumPy packs arrays; deflate can unpack one byte to `GZIP_RATIO` at most."""

NPY_HEADER_BYTES = 2**14
"""Read of a .npy file to find its header, which has 128 for plain numbers."""

SAVE_AGAIN = "save the array anew, as plain numbers"


def read(path: str | Path, settings: ScanSettings) -> Projections:
    """Read an array of sinograms whose axes the settings name.

    Parameters
    ----------
    path : path
        ``.npy``, which stays on the disk, ``.npz``, ``.mat`` or ``.h5``.
    settings : ScanSettings
        The axes, where they run, how the patient lies, and, of several arrays, the name of one.

    Returns
    -------
    Projections
        One segment of planes (plane, view, tangential), rebinned already.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another format, or holds no such array.
    """
    path = Path(path)
    check_readable(path, "array", "correct its path")
    try:
        array = READERS[path.suffix.lower()](path, settings.array)
    except InputError:
        raise
    except MemoryError as error:
        problem = f"holds an array that does not fit into memory ({error})"
        raise InputError(path, problem, "give the job more memory, or replace the file") from error
    # These libraries let errors of all kinds through, from KeyError to struct.error.
    except Exception as error:
        problem = f"is not a readable {path.suffix} file ({str(error)[:200]})"
        raise unreadable(path, error, problem, SAVE_AGAIN) from error
    planes = _ordered(array, settings.axes, path)
    return Projections(
        acquisition=Acquisition(patient_position=settings.patient_position),
        segments=(Segment(None, planes),),
        first_tangential=-(planes.shape[2] // 2),
        towards=settings.towards,
        origin=path,
        sha256=sha256_of(path),
    )


def _ordered(array: np.ndarray, axes: str, path: Path) -> np.ndarray:
    """Transpose to (plane, view, radial)."""
    names = axes.replace(",", " ").split()
    if sorted(names) not in (sorted(AXES), sorted(AXES[1:])):
        remedy = f"name them first to last, as in '{' '.join(AXES)}' or 'radial view'"
        given = f"is '{axes}'" if names else "is not given"
        raise InputError("axes", f"{given}, for the array of {path}", remedy)
    if array.dtype.kind not in "iuf":
        raise InputError(path, f"holds {array.dtype}, not real numbers", SAVE_AGAIN)
    if array.ndim != len(names) or 0 in array.shape:
        problem = f"holds an array of {array.shape}, for the axes '{axes}'"
        raise InputError(path, problem, "name each of its axes, or save it with these")
    if len(names) == 2:
        array, names = array[None], ["plane", *names]
    return array.transpose([names.index(name) for name in AXES])


def _chosen(names: Iterable[str], wanted: str, path: Path) -> str:
    """Name of the array to read: the wanted, or the only one."""
    names = list(names)
    if wanted in names or (not wanted and len(names) == 1):
        return wanted or names[0]
    if not names:
        raise InputError(path, "holds no array of numbers", SAVE_AGAIN)
    problem = f"holds {', '.join(map(repr, names))}"
    if wanted:
        problem = f"lacks '{wanted}'; it {problem}"
    raise InputError(path, problem, f"give the name of one of them behind a #: {path}#{names[0]}")


def _check_held(nbytes: int, held: int, name: str, path: Path) -> None:
    """Refuse an array that its file cannot hold, before there is memory for it."""
    if nbytes > GZIP_RATIO * held:
        problem = f"declares {nbytes} bytes for '{name}' and holds {held} of them"
        raise InputError(path, problem, SAVE_AGAIN)


def _npy_header(data: bytes, path: Path) -> tuple[int, tuple[int, ...], bool, np.dtype]:
    """Length of a .npy file's header; its array's shape, whether Fortran's order, and dtype."""
    file = io.BytesIO(data)  # of a file, NumPy would read as long a header as it claims to have
    first = np.lib.format.read_magic(file) == (1, 0)
    read_rest = (
        np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read_rest(file)
    if dtype.kind not in "iuf":
        raise InputError(path, f"holds {dtype}, not real numbers", SAVE_AGAIN)
    if min(shape, default=0) < 1:
        raise InputError(path, f"holds an array of {shape}, which is empty", SAVE_AGAIN)
    return file.tell(), shape, fortran, dtype


def _read_npy(path: Path, wanted: str) -> np.ndarray:
    if wanted:
        raise no_names(path, wanted)
    with path.open("rb") as file:
        start, shape, fortran, dtype = _npy_header(file.read(NPY_HEADER_BYTES), path)
    numbers = DataFile(path, path, path.stat().st_size, dtype)
    return numbers.block(start, shape[::-1]).T if fortran else numbers.block(start, shape)


def _read_npz(path: Path, wanted: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        name = _chosen(members, wanted, path)
        info = members[name]
        if info.compress_type not in NPZ_METHODS:
            raise InputError(path, f"has '{name}' packed in a way NumPy does not", SAVE_AGAIN)
        with archive.open(info) as file:
            _, shape, _, dtype = _npy_header(file.read(NPY_HEADER_BYTES), path)
        # The archive's own lengths may be made up; what the file has on the disk is not.
        held = min(info.compress_size, path.stat().st_size)
        _check_held(math.prod(shape) * dtype.itemsize, held, name, path)
        with archive.open(info) as file:
            found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
            return found


def _read_mat(path: Path, wanted: str) -> np.ndarray:
    if h5py.is_hdf5(path):  # MATLAB 7.3, which writes the first axis as the last
        return _read_hdf5(path, wanted).T
    return read_matlab(path, lambda names: _chosen(names, wanted, path))


def _read_hdf5(path: Path, wanted: str) -> np.ndarray:
    with h5py.File(path, "r") as file:
        name = _chosen([wanted] if wanted in file else _datasets(file), wanted, path)
        parts = name.strip("/").split("/")
        for depth in range(1, len(parts)):  # a link may lead into any other file
            if not isinstance(file.get("/".join(parts[:depth]), getlink=True), h5py.HardLink):
                raise InputError(path, f"has a link on the way to '{name}'", SAVE_AGAIN)
        return np.asarray(stored(file, name, path, SAVE_AGAIN)[()])


def _datasets(file: h5py.File) -> list[str]:
    """Names of the numeric datasets that lie in no group."""
    hard = [n for n in file if isinstance(file.get(n, getlink=True), h5py.HardLink)]
    arrays: dict[str, Any] = {name: file[name] for name in hard}
    return [n for n, d in arrays.items() if isinstance(d, h5py.Dataset) and d.dtype.kind in "iuf"]


READERS = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".mat": _read_mat,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
}
"""How each format is read."""
