import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.paths import ROOT
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file

KIND = hdf5.Kind(
    name="toy",
    rule="make_toy",
    datasets={
        "image": hdf5.Dataset("float32", ("slice", "y", "x"), "activity", "an image"),
        "scale": hdf5.Dataset("float32", ("slice",), "counts", "a number a slice"),
    },
)


def arrays(slices=4, size=16):
    rng = np.random.default_rng(0)
    image = rng.random((slices, size, size), dtype=np.float32)
    return {"image": image, "scale": np.arange(1, slices + 1, dtype=np.float32)}


def written(folder, **changed):
    path = folder / "toy.h5"
    hdf5.write(path, KIND, arrays() | changed, hdf5.provenance({"a": 1}, seed=7))
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Bytes of an undamaged file."""
    return written(tmp_path_factory.mktemp("good")).read_bytes()


def refusal(path, kind=KIND):
    """Message of the InputError that reading raises; it must say which rule mends the file."""
    with pytest.raises(InputError) as caught:
        hdf5.read(path, kind)
    assert caught.value.where == str(path)
    assert f"run rule '{kind.rule}' again: snakemake --cores all -- {path}" in caught.value.remedy
    return caught.value.problem


# Writing


def test_arrays_and_attributes_come_back(tmp_path):
    found, attributes = hdf5.read(written(tmp_path), KIND)
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert attributes["seed"] == 7
    assert json.loads(attributes["config"]) == {"a": 1}
    assert (attributes["kind"], attributes["rule"]) == ("toy", "make_toy")
    assert attributes["schema_version"] == hdf5.SCHEMA_VERSION
    assert {"python", "numpy", "h5py", "torch"} <= set(json.loads(attributes["versions"]))


def test_config_hash_depends_on_values_not_on_order():
    def config_hash(settings):
        return hdf5.provenance(settings)["config_hash"]

    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_datasets_carry_labels_units_and_one_compressed_chunk_a_slice(tmp_path):
    with hdf5.opened(written(tmp_path), KIND) as file:
        image = file["image"]
        assert [axis.label for axis in image.dims] == ["slice", "y", "x"]
        assert (image.attrs["units"], image.attrs["description"]) == ("activity", "an image")
        assert image.chunks == (1, 16, 16)
        assert (image.compression, image.shuffle) == ("gzip", True)
        assert file["scale"].fletcher32


def test_identical_input_gives_identical_bytes(tmp_path, good):
    assert written(tmp_path).read_bytes() == good


def test_copied_chunks_stay_as_they_are(tmp_path):
    with hdf5.opened(written(tmp_path), KIND) as source:
        copy = tmp_path / "copy.h5"
        hdf5.write(copy, KIND, {name: source[name] for name in KIND.datasets}, {})
        with hdf5.opened(copy, KIND) as file:
            assert file["image"].attrs["units"] == "activity"
            for name, array in arrays().items():
                np.testing.assert_array_equal(file[name], array)
                for n in range(source[name].id.get_num_chunks()):
                    at = source[name].id.get_chunk_info(n).chunk_offset
                    chunk = source[name].id.read_direct_chunk(at)
                    assert file[name].id.read_direct_chunk(at) == chunk


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        assert written(tmp_path).stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scale": np.array([1, np.nan, 2, 3], np.float32)}, "scale: 1 non-finite"),
        ({"scale": np.array([1, np.inf, np.nan, 3], np.float32)}, "scale: 2 non-finite"),
        ({"scale": np.ones(4)}, "scale: float64 with 1 axes given, float32"),
        ({"image": np.ones((4, 16), np.float32)}, "image: float32 with 2 axes given"),
        ({"other": np.ones(4)}, "declared"),
    ],
)
def test_refused_arrays_change_nothing(tmp_path, existing, changed, message):
    before = written(tmp_path).read_bytes() if existing else None
    with pytest.raises(ValueError, match=message):
        written(tmp_path, **changed)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before] * existing


def test_missing_arrays_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\['image'\] given, \['image', 'scale'\] declared"):
        hdf5.write(tmp_path / "toy.h5", KIND, {"image": arrays()["image"]}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_atomic_leaves_nothing_after_an_exception(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("earlier")
    with pytest.raises(error), atomic_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error("where", "problem", "remedy")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "earlier")]


@pytest.mark.parametrize(
    ("folder", "remedy"),
    [("missing", "make the folder"), ("file", "make the folder"), ("/sys", "allow writing to,")],
)
def test_folders_that_cannot_be_written_to(tmp_path, folder, remedy):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written") as caught:
        written(tmp_path / folder)
    assert caught.value.where == str(tmp_path / folder / "toy.h5")
    assert f"{remedy} {tmp_path / folder}" in caught.value.remedy


WRITE_TOO_MUCH = """
import resource, sys
import numpy as np
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
path, slices, limit = sys.argv[1], *map(int, sys.argv[2:])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
kind = hdf5.Kind("toy", "toy", {"image": hdf5.Dataset("float32", ("slice", "y", "x"), "1", "")})
image = np.random.default_rng(0).random((slices, 64, 64), dtype=np.float32)
try:
    hdf5.write(path, kind, {"image": image}, {})
except InputError as error:
    print(error)
    sys.exit(3)
"""


def write_too_much(path, slices, *, limit=0):
    """Write in a process of its own, which libhdf5 may crash, at the latest when it ends."""
    command = [sys.executable, "-c", WRITE_TOO_MUCH, path, slices, limit]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr == ""
    assert str(path) in done.stdout
    assert "cannot be written" in done.stdout
    assert f"free space in, or allow writing to, {path.parent}" in done.stdout
    return done.stdout


@pytest.fixture
def small_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted: {error}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("slices", [19, 40, 200])
def test_full_disk_leaves_nothing_and_says_so(small_disk, slices):
    assert "No space left on device" in write_too_much(small_disk / "toy.h5", slices)
    assert list(small_disk.iterdir()) == []


def test_full_disk_spares_the_earlier_file(small_disk, good):
    path = written(small_disk)
    write_too_much(path, 20)
    assert list(small_disk.iterdir()) == [path]
    assert path.read_bytes() == good


def test_file_size_limit_leaves_nothing_and_says_so(tmp_path):
    message = write_too_much(tmp_path / "toy.h5", 20, limit=1 << 18)
    assert "File too large" in message
    assert list(tmp_path.iterdir()) == []


# Reading


@given(st.floats(0, 1, exclude_max=True))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_truncated_files_are_refused(tmp_path, good, fraction):
    path = tmp_path / "toy.h5"
    path.write_bytes(good[: int(fraction * len(good))])
    assert "is not a readable HDF5 file" in refusal(path)


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_flipped_byte_of_a_chunk_is_refused(tmp_path, good, data):
    """Those too that gzip's own checksum does not see, as of a table of codes."""
    path = tmp_path / "toy.h5"
    path.write_bytes(good)
    with h5py.File(path) as file:
        name = data.draw(st.sampled_from(sorted(KIND.datasets)))
        chunk = file[name].id.get_chunk_info(
            data.draw(st.integers(0, file[name].id.get_num_chunks() - 1))
        )
    damaged = bytearray(good)
    at = chunk.byte_offset + data.draw(st.integers(0, chunk.size - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    assert f"dataset '/{name}' is damaged" in refusal(path)


def test_flipped_bytes_outside_the_attributes_never_change_a_value(tmp_path, good):
    """The texts of attributes lie in HDF5's global heap, which has no checksum: not covered."""
    path = tmp_path / "toy.h5"
    first, last = good.find(b"GCOL"), good.rfind(b"GCOL") + 4096
    refused = 0
    for at in {*range(0, first, 7), *range(last, len(good), 19)}:
        damaged = bytearray(good)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found, _ = hdf5.read(path, KIND)
        except InputError:
            refused += 1
        else:
            for name, array in arrays().items():
                np.testing.assert_array_equal(found[name], array, strict=True)
    assert refused > 50


@pytest.mark.parametrize(
    "content",
    [b"", b"a text\n" * 100, b"<!DOCTYPE html><html><body>404 Not Found</body></html>"],
    ids=["empty", "text", "html"],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "toy.h5"
    path.write_bytes(content)
    assert "is not a readable HDF5 file" in refusal(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    assert refusal(tmp_path / "toy.h5") == "does not exist"
    assert "is not a readable HDF5 file" in refusal(tmp_path)


def replace(file, name, array):
    del file[name]
    file[name] = array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.attrs.modify("schema_version", 99), "has schema version 99, not 1"),
        (lambda f: f.attrs.pop("schema_version"), "has schema version None, not 1"),
        (lambda f: f.attrs.modify("kind", "osem"), "is a 'osem', not a 'toy'"),
        (lambda f: f.attrs.pop("kind"), "is a 'None', not a 'toy'"),
        (lambda f: f.pop("scale"), "lacks the dataset 'scale'"),
        (lambda f: (f.pop("scale"), f.create_group("scale")), "lacks the dataset 'scale'"),
        (lambda f: replace(f, "scale", np.ones(4)), "dataset 'scale' is float64 with 1 axes, not"),
        (lambda f: replace(f, "scale", np.ones((4, 1), "f4")), "is float32 with 2 axes, not"),
        (lambda f: f["image"].write_direct(np.full((4, 16, 16), np.nan, "f4")), "1024 non-finite"),
    ],
)
def test_files_that_are_not_as_declared_are_refused(tmp_path, change, message):
    path = written(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    assert message in refusal(path)


def test_errors_of_the_reader_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError, match="mine"), hdf5.opened(written(tmp_path), KIND):
        raise KeyError("mine")


def test_single_datasets_and_slices_can_be_read(tmp_path):
    path = written(tmp_path)
    found, _ = hdf5.read(path, KIND, ["scale"])
    assert list(found) == ["scale"]
    with hdf5.opened(path, KIND) as file:
        np.testing.assert_array_equal(hdf5.finite(file["image"], 2), arrays()["image"][2])
