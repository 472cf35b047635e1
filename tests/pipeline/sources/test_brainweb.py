import gzip
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.paths import ROOT
from helpers.volumes import (
    CODES,
    HTML,
    LABELS,
    OTHER_CRC,
    PACKED,
    SMALL,
    minc,
    raw_short,
    some_labels,
)
from pipeline.sources import brainweb
from pipeline.sources.subjects import read_subjects
from pipeline.storage import hdf5, kinds
from pipeline.storage.errors import InputError

TABLE = ROOT / "data" / "subjects.tsv"


labels_arrays = arrays(np.uint8, SMALL, elements=st.integers(0, 11))


# Reading


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mnc", lambda labels: minc(labels)),
        ("a.mnc.gz", lambda labels: gzip.compress(minc(labels))),
        ("unpacked_by_a_browser.mnc.gz", lambda labels: minc(labels)),
        ("rescaled.mnc", lambda labels: minc(labels * 20, highest=12.75)),
        ("a.bin.gz", raw_short),
        ("a.rawb.gz", lambda labels: gzip.compress(CODES[labels].astype("u1").tobytes())),
        ("numbers.rawb.gz", lambda labels: gzip.compress(labels.tobytes())),
    ],
)
def test_reads_every_format(tmp_path, name, content):
    labels = some_labels()
    path = tmp_path / name
    path.write_bytes(content(labels))
    found = brainweb.read_labels(path)
    assert found.dtype == np.uint8
    assert np.array_equal(found, labels)


@given(labels=labels_arrays, low_bits=arrays(np.uint8, SMALL, elements=st.integers(0, 15)))
def test_raw_short_ignores_the_low_bits(labels, low_bits):
    codes = (labels.astype("<u2") << 4) + low_bits
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.bin.gz")
        path.write_bytes(gzip.compress(codes.tobytes()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(brainweb, "SHAPE", SMALL)
            assert np.array_equal(brainweb.read_labels(path), labels)


@given(labels=labels_arrays)
def test_minc_round_trip(labels):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.mnc")
        path.write_bytes(minc(labels))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(brainweb, "SHAPE", SMALL)
            assert np.array_equal(brainweb.read_labels(path), labels)


def test_raw_volume_of_full_size(tmp_path, monkeypatch):
    monkeypatch.setattr(brainweb, "SHAPE", (362, 434, 362))
    path = tmp_path / "subject_04.bin.gz"
    path.write_bytes(gzip.compress(bytes(2 * 362 * 434 * 362), 1))
    labels = brainweb.read_labels(path)
    assert labels.shape == (362, 434, 362)
    assert not labels.any()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mnc.gz", None, "No such file"),
        ("a.nii.gz", b"", "unknown suffix '.nii.gz'"),
        ("a.mnc.gz", b"", "not a MINC1 volume"),
        ("a.mnc.gz", PACKED[:-40], "truncated or damaged gzip"),
        ("a.mnc.gz", PACKED[:10], "truncated or damaged gzip"),
        ("a.mnc.gz", OTHER_CRC, "truncated or damaged gzip"),
        ("a.bin.gz", raw_short(LABELS)[:-12], "truncated or damaged gzip"),
        ("a.mnc", minc(LABELS)[:-20], "not a MINC1 volume"),
        ("a.mnc", b"\x89HDF\r\n\x1a\n" + bytes(500), "starts with b'\\x89HDF"),
        ("a.mnc.gz", HTML, "HTML page, not a volume: '503 Service Unavailable'"),
        (
            "a.mnc.gz",
            gzip.compress(HTML, mtime=0),
            "HTML page, not a volume: '503 Service Unavailable'",
        ),
        ("a.bin.gz", HTML, "HTML page, not a volume: '503 Service Unavailable'"),
        ("a.rawb.gz", b"\n<p>Too many users" + b"!" * 99, "'<p>Too many users!!!"),
        ("a.mnc", minc(LABELS[:2]), "shape (2, 4, 5), not (3, 4, 5)"),
        ("a.mnc", minc(LABELS, step=(0.5, 0.5, -0.5)), "does not run to superior"),
        ("a.mnc", minc(LABELS, step=(1.0, 1.0, 1.0)), "does not run to superior"),
        ("a.mnc", minc(LABELS, axes=("zspace", "xspace", "yspace")), "does not run to superior"),
        ("a.mnc", minc(LABELS, valid_range=(0, 300)), "not a MINC1 volume"),
        ("a.mnc", minc(LABELS, highest=127.5), "which is no class"),
        ("a.mnc", minc(LABELS, highest=1e6), "not 0 to 11"),
        ("a.mnc", minc(LABELS, highest=-255.0), "not 0 to 11"),
        ("a.mnc", minc(LABELS + np.uint8(1)), "labels up to 12"),
        ("a.bin.gz", gzip.compress(bytes(60), mtime=0), "60 bytes, not 120"),
        ("a.bin.gz", gzip.compress(np.full(60, 192, "<u2").tobytes(), mtime=0), "labels up to 12"),
        (
            "a.bin.gz",
            gzip.compress(CODES[LABELS].astype(">u2").tobytes(), mtime=0),
            "labels up to 255",
        ),
        ("a.rawb.gz", gzip.compress(np.full(60, 192, "u1").tobytes(), mtime=0), "labels up to 12"),
        ("a.rawb.gz", gzip.compress(bytes(59), mtime=0), "59 bytes, not 60"),
        ("a.rawb.gz", gzip.compress(bytes(61), mtime=0), "more than the 60 bytes"),
        ("a.rawb.gz", gzip.compress(bytes(50_000_000), 1, mtime=0), "more than the 60 bytes"),
        ("a.mnc.gz", gzip.compress(bytes(50_000_000), 1, mtime=0), "more than the 1048696 bytes"),
    ],
)
def test_refuses_what_is_no_label_volume(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        brainweb.read_labels(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


# Whose labels


def test_hash_is_of_the_values_alone():
    labels = some_labels()
    expected = hashlib.sha256(labels.tobytes()).hexdigest()
    assert brainweb.labels_sha256(labels) == expected
    assert brainweb.labels_sha256(np.asfortranarray(labels)) == expected
    with pytest.raises(ValueError, match="int16"):
        brainweb.labels_sha256(labels.astype(np.int16))


def test_verify():
    labels = some_labels()
    own, other = brainweb.labels_sha256(labels), "0" * 64
    known = {"subject04": other, "subject05": own}
    assert brainweb.verify(labels, "subject05", own, known, "file") == own
    with pytest.raises(InputError, match="file: holds subject05, not subject04"):
        brainweb.verify(labels, "subject04", other, known, "file")
    with pytest.raises(InputError, match="holds subject05, not subject06"):
        brainweb.verify(labels, "subject06", None, known, "file")
    with pytest.raises(InputError, match=f"{own}; subject04 has {other}"):
        brainweb.verify(labels, "subject04", other, {"subject04": other}, "file")


def test_verify_warns_when_there_is_no_hash(caplog):
    assert brainweb.verify(some_labels(), "subject04", None, {}, "file")
    assert "labels of subject04 not verified" in caplog.text


# A local folder


@pytest.mark.parametrize(
    "name",
    [
        "subject04_crisp_v.mnc.gz",
        "subject04_crisp_v.mnc",
        "subject04_crisp_v.rawb.gz",
        "subject04_crisp_v.bin.gz",
        "subject_04.bin.gz",
    ],
)
def test_finds_accepted_names(tmp_path, name):
    (tmp_path / "subject05_crisp_v.mnc.gz").touch()
    (tmp_path / name).touch()
    assert brainweb.find_local(tmp_path, "subject04") == tmp_path / name


def test_says_what_it_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"lacks subject04; looked for .*, subject_04\.bin\.gz"):
        brainweb.find_local(tmp_path, "subject04")
    with pytest.raises(InputError, match="is not a folder"):
        brainweb.find_local(tmp_path / "nowhere", "subject04")


def test_fetch_from_a_folder(tmp_path, caplog):
    labels = some_labels()
    sha256 = brainweb.labels_sha256(labels)
    (tmp_path / "subject_04.bin.gz").write_bytes(raw_short(labels))
    output = tmp_path / "subject04.h5"
    with caplog.at_level("INFO", "pipeline.sources"):
        brainweb.fetch_labels(output, "subject04", {"subject04": sha256}, str(tmp_path))
    found, attributes = hdf5.read(output, kinds.LABELS)
    assert np.array_equal(found["labels"], labels)
    assert attributes["source"] == "brainweb"
    assert attributes["origin"] == "subject_04.bin.gz"
    assert attributes["subject"] == "subject04"
    assert attributes["orientation"] == "RAS"
    assert attributes["labels_sha256"] == sha256
    assert attributes["voxel_mm"].tolist() == [0.5, 0.5, 0.5]
    assert sha256 in caplog.text


def test_fetch_writes_nothing_for_another_subject(tmp_path):
    (tmp_path / "subject_04.bin.gz").write_bytes(raw_short(some_labels()))
    known = {"subject04": "0" * 64, "subject05": brainweb.labels_sha256(some_labels())}
    with pytest.raises(InputError, match="holds subject05, not subject04"):
        brainweb.fetch_labels(tmp_path / "subject04.h5", "subject04", known, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["subject_04.bin.gz"]


# BrainWeb's own volumes


@pytest.mark.parametrize("subject", list(read_subjects(TABLE)))
def test_volumes_of_brainweb(subject, monkeypatch):
    folder = os.environ.get("BRAINWEB_DIR")
    if not folder:
        pytest.skip("BRAINWEB_DIR names no folder with BrainWeb's volumes")
    monkeypatch.setattr(brainweb, "SHAPE", (362, 434, 362))
    known = {name: entry.labels_sha256 or "" for name, entry in read_subjects(TABLE).items()}
    path = brainweb.find_local(folder, subject)
    labels = brainweb.read_labels(path)
    brainweb.verify(labels, subject, known[subject], known, path)
    assert labels.max() == len(brainweb.CLASSES) - 1
