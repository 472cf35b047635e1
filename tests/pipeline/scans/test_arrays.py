"""Plain arrays of sinograms, in any order of axes, of NumPy, MATLAB and HDF5."""

import itertools
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io

from helpers.interfile import real_data
from pipeline.scans.arrays import AXES
from pipeline.scans.projections import ScanSettings, single_slice_rebinned
from pipeline.scans.registry import READERS, read
from pipeline.storage.errors import InputError

COUNTS = np.arange(3 * 4 * 5, dtype=np.int32).reshape(3, 4, 5)
"""Toy sinograms (plane, view, radial)."""


def save(path, **arrays):
    first = next(iter(arrays.values()))
    if path.suffix == ".npy":
        np.save(path, first)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, arrays, do_compression=True)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array)
    return path


def save_matlab73(path, **arrays):
    """As MATLAB does: behind 512 bytes of its own, the first axis last."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.T).attrs["MATLAB_class"] = np.bytes_("int32")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))
    return path


def options(axes="plane view radial", **others):
    return ScanSettings(**{"axes": axes, "patient_position": "HFS", **others})


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5", ".hdf5", "v73.mat", ".NPY"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_order_of_axes_comes_back(tmp_path, suffix, order):
    path = tmp_path / f"scan{suffix}"
    if suffix == ".NPY":
        np.save(tmp_path / "scan.npy", COUNTS.transpose(order))
        (tmp_path / "scan.npy").rename(path)
    else:
        writer = save_matlab73 if suffix == "v73.mat" else save
        writer(path, sinogram=COUNTS.transpose(order))
    found = read(path, options(" ".join(AXES[n] for n in order)))
    np.testing.assert_array_equal(found.segments[0].data, COUNTS)
    assert found.segments[0].differences is None
    planes = single_slice_rebinned(found, 0)
    np.testing.assert_array_equal(planes, COUNTS)
    assert planes.dtype == np.int64
    assert found.first_tangential == -2


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5"])
def test_two_axes_are_one_plane(tmp_path, suffix):
    path = save(tmp_path / f"scan{suffix}", sinogram=COUNTS[0].T)
    found = read(path, options("radial, view"))
    np.testing.assert_array_equal(found.segments[0].data, COUNTS[:1])


def test_planes_towards_inferior_are_turned(tmp_path):
    path = save(tmp_path / "scan.npy", sinogram=COUNTS.astype(np.float16))
    found = single_slice_rebinned(read(path, options(towards="inferior")), 0)
    np.testing.assert_array_equal(found, COUNTS[::-1])
    assert found.dtype == np.float32


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5"])
def test_one_of_several_arrays_is_named(tmp_path, suffix):
    path = save(tmp_path / f"scan{suffix}", prompts=COUNTS, randoms=2 * COUNTS)
    found = read(path, options(array="randoms"))
    np.testing.assert_array_equal(found.segments[0].data, 2 * COUNTS)
    with pytest.raises(InputError, match="holds 'prompts', 'randoms'"):
        read(path, options())
    with pytest.raises(InputError, match="lacks 'trues'; it holds 'prompts', 'randoms'"):
        read(path, options(array="trues"))


def test_a_dataset_may_lie_in_a_group(tmp_path):
    path = save(tmp_path / "scan.h5", **{"emission/prompts": COUNTS})
    found = read(path, options(array="emission/prompts"))
    np.testing.assert_array_equal(found.segments[0].data, COUNTS)


def test_numpy_arrays_stay_on_the_disk(tmp_path):
    path = save(tmp_path / "scan.npy", sinogram=COUNTS)
    assert isinstance(read(path, options()).segments[0].data, np.memmap)


@pytest.mark.parametrize("axes", ["", "plane view", "plane plane radial", "z y x", "view radial t"])
def test_axes_that_say_too_little_are_refused(tmp_path, axes):
    with pytest.raises(InputError) as refused:
        read(save(tmp_path / "scan.npy", sinogram=COUNTS), options(axes))
    assert refused.value.where == "axes"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5"])
@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (COUNTS[0], r"array of \(4, 5\), for the axes"),
        (COUNTS[:, :0], r"array of \(3, 0, 5\)|declares|not itself hold|no array"),
        (COUNTS + 1j, "complex128, not real|no array of numbers"),
    ],
)
def test_arrays_of_other_shapes_or_numbers_are_refused(tmp_path, suffix, array, problem):
    with pytest.raises(InputError, match=problem):
        read(save(tmp_path / f"scan{suffix}", sinogram=array), options())


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    trap = np.array([[[Trap()]]], dtype=object)
    np.save(tmp_path / "scan.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "scan.npz", sinogram=trap)
    for name in ("scan.npy", "scan.npz"):
        with pytest.raises(InputError, match="holds object, not real numbers"):
            read(tmp_path / name, options())


def test_links_to_other_files_are_refused(tmp_path):
    save(tmp_path / "other.h5", **{"secret": COUNTS, "group/secret": COUNTS})
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("other.h5", "secret")
        file["group"] = h5py.ExternalLink("other.h5", "group")
    for name in ("linked", "group/secret"):
        with pytest.raises(InputError, match="link"):
            read(tmp_path / "scan.h5", options(array=name))
    with pytest.raises(InputError, match="holds no array"):
        read(tmp_path / "scan.h5", options())


def declared_npy(path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000, 10000, 10000), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(80))


def declared_npz(path):
    declared_npy(path.with_suffix(".npy"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".npy"), "sinogram.npy")


def declared_mat(path):
    save(path, sinogram=COUNTS.astype("u1"))
    scipy.io.savemat(path, {"sinogram": COUNTS.astype("u1")}, do_compression=False)
    sizes = np.array([3, 4, 5], "<i4").tobytes()
    data = path.read_bytes()
    assert data.count(sizes) == 1
    path.write_bytes(data.replace(sizes, np.array([10**4] * 3, "<i4").tobytes()))


def declared_h5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("sinogram", (10**4,) * 3, "f8", chunks=(1, 100, 100))


@pytest.mark.parametrize("write", [declared_npy, declared_npz, declared_mat, declared_h5])
def test_what_is_declared_and_not_there_asks_for_no_memory(tmp_path, write):
    path = tmp_path / f"scan.{write.__name__.removeprefix('declared_')}"
    write(path)
    with pytest.raises(InputError, match=r"declares|bytes, 8\d* by its header|reshape"):
        read(path, options())


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5"])
def test_damaged_and_missing_files_are_refused(tmp_path, suffix):
    path = save(tmp_path / f"scan{suffix}", sinogram=COUNTS)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"<html>"):
        path.write_bytes(data)
        with pytest.raises(
            InputError, match=rf"is not a readable \{suffix} file|184 bytes, 368 by"
        ):
            read(path, options())
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        read(path, options())


def test_a_real_head_is_read():
    path = real_data() / "mmr_head/mmr_head_ssrb.npz"
    with np.load(path) as file:
        prompts, delayeds = file["prompts"], file["delayeds"]
    for name, array, total in (("prompts", prompts, 209_558), ("delayeds", delayeds, 26_075)):
        found = read(path, options(array=name))
        planes = single_slice_rebinned(found, 0)
        assert (planes.shape, planes.sum()) == ((127, 252, 255), total)
        np.testing.assert_array_equal(planes, array)
        assert found.first_tangential == -127


@pytest.mark.parametrize("name", ["scan", "scan.s", "scan.hdr", "scan.dcm", "hs"])
def test_unknown_suffixes_are_refused(tmp_path, name):
    with pytest.raises(InputError) as refused:
        read(tmp_path / name, options())
    assert all(suffix in refused.value.problem for suffix in READERS)
