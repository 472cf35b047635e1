"""A good file that is busy or out of reach is not damaged; more cases are in test_hostile.py."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from helpers import hostile_files as files
from models import checkpoints
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file
from pipeline.storage.kinds import SHARD
from pipeline.storage.system_errors import unreadable

HOLD = """
import h5py, sys
with h5py.File(sys.argv[1], "r+"):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def shard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return files.a_shard()


def refusal(read=files.read):
    with pytest.raises(InputError) as caught:
        read()
    return str(caught.value)


def test_a_shard_that_another_program_writes(shard):
    before = shard.read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(shard)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"open\n"
        said = [refusal(), refusal(files.draw)]
        other.stdin.close()
    for text in said:
        assert "another program has it open" in text
        assert "-> wait until that program ends" in text
        assert "delete" not in text
    files.read()
    assert len(shard.read_bytes()) == len(before)


def test_a_shard_that_a_killed_program_left_open(shard):
    """HDF5 marks it so in the file itself: it may be half written, or only look so."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(shard)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        other.kill()
    assert "-> end the program that writes it; if there is none, delete it" in refusal()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux alone has such a file")
def test_a_shard_behind_a_disk_that_fails_midway(shard):
    with hdf5.opened(shard, SHARD) as file:
        with open("/proc/self/mem", "rb") as failing:  # noqa: PTH123
            os.dup2(failing.fileno(), file.id.get_vfd_handle())
        said = [
            refusal(lambda: hdf5.finite(file["osem"])),
            refusal(lambda: hdf5.finite(file["labels"], 2)),
        ]
    for text in said:
        assert "its disk fails: Input/output error" in text
        assert "delete" not in text


NUMBERS = [
    *(errno.EAGAIN, errno.EBUSY, errno.ETXTBSY, errno.EDEADLK, errno.EMFILE, errno.ENFILE),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EIO, errno.ENODEV, errno.ENOLCK),
    *(errno.ENOMEM, errno.EACCES, errno.EPERM),
]


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("read", [files.read, files.load_working, files.read_table])
def test_what_the_system_says_is_not_damage(tmp_path, monkeypatch, number, read):
    monkeypatch.chdir(tmp_path)
    files.a_shard()
    files.working()()
    Path(files.TABLE).write_bytes(b"")
    monkeypatch.setattr(Path, "open", failing(number))
    text = refusal(read)
    assert os.strerror(number) in text
    assert "delete" not in text


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_nor_is_it_when_a_library_says_it_in_its_own_way(monkeypatch, tmp_path, number):
    monkeypatch.chdir(tmp_path)
    files.a_shard()
    files.working()()
    words = f"file read failed: errno = {number}, error message = '{os.strerror(number)}', buf = 0"

    def lose(*_, **__):
        raise KeyError(words)

    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "_check", lose)
        text = refusal()
        assert os.strerror(number) in text
        assert "delete" not in text
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", reading_fails(number))
        text = refusal(files.load_working)
        assert os.strerror(number) in text
        assert "delete" not in text


def reading_fails(number):
    """Open files of which the end cannot be read: zipfile says they are no zip files."""

    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(number, os.strerror(number))

    return lambda *_, **__: Broken(bytes(100))


def test_weights_that_cannot_be_opened_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.weights()()

    def gone(path, framework):
        raise FileNotFoundError(f"No such file or directory: {path}")

    monkeypatch.setattr(checkpoints, "safe_open", gone)
    text = refusal(lambda: checkpoints.read_metadata(files.WEIGHTS))
    assert "has gone, or cannot be opened any more" in text
    assert "delete" not in text


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_writing_blames_the_same(tmp_path, number):
    with pytest.raises(InputError) as caught, atomic_file(tmp_path / "file"):
        failing(number)()
    text = str(caught.value)
    assert "cannot be written (" in text
    assert os.strerror(number) in text
    assert "free space" not in text


@given(
    st.sampled_from([OSError, ValueError, KeyError, RuntimeError]), st.text("abc =:'", max_size=40)
)
def test_what_the_system_does_not_say_is_damage(kind, words):
    found = unreadable("f", kind(words), "is damaged", "delete it")
    assert (found.problem, found.remedy) == ("is damaged", "delete it")


def test_damage_stays_damage(shard):
    shard.write_bytes(shard.read_bytes()[:-99])
    assert "is not a readable HDF5 file" in refusal()
    assert "-> delete it" in refusal()
    with pytest.raises(OSError, match="truncated"):
        h5py.File(shard)
    files.WEIGHTS.parent.mkdir(parents=True)
    files.WEIGHTS.write_bytes(b"x" * 99)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(files.WEIGHTS, "pt")
    text = refusal(lambda: checkpoints.read_metadata(files.WEIGHTS))
    assert "-> delete it and train again" in text
