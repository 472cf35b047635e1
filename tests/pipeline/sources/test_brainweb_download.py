import gzip
import time

import numpy as np
import pytest

from helpers.server import Server, answer, drip, drip_headers, flood, reset, silence
from helpers.volumes import HTML, LABELS, PACKED, minc
from pipeline.sources import brainweb
from pipeline.storage import hdf5, kinds
from pipeline.storage.errors import InputError


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(brainweb, "SERVER", server.url)
    monkeypatch.setattr(brainweb, "RETRY_WAITS_S", (0.0, 0.0, 0.0))
    yield server
    server.stop()


def test_default_server_is_brainweb_over_https():
    url = brainweb.download_url("subject04")
    assert url.startswith("https://brainweb.bic.mni.mcgill.ca/cgi/brainweb1?")
    assert "do_download_alias=subject04_crisp&" in url
    assert "format_value=minc&" in url


def test_fetch_downloads(tmp_path, server):
    server.answers = [answer(PACKED, length=len(PACKED))]
    known = {"subject04": brainweb.labels_sha256(LABELS)}
    brainweb.fetch_labels(tmp_path / "subject04.h5", "subject04", known)
    found, attributes = hdf5.read(tmp_path / "subject04.h5", kinds.LABELS)
    assert np.array_equal(found["labels"], LABELS)
    assert attributes["origin"] == brainweb.download_url("subject04")
    assert server.paths[0].startswith("/cgi/brainweb1?do_download_alias=subject04_crisp&")
    assert [path.name for path in tmp_path.iterdir()] == ["subject04.h5"]


@pytest.mark.parametrize(
    "failure",
    [
        answer(b"", status=500),
        answer(b"", status=503),
        answer(b"", status=429),
        reset,
        answer(PACKED[:50], length=len(PACKED)),
        answer(PACKED[:50]),
    ],
    ids=["500", "503", "429", "reset", "short body", "short gzip"],
)
def test_tries_again(tmp_path, server, failure):
    server.answers = [failure, failure, failure, answer(PACKED)]
    path = brainweb.download("subject04", tmp_path)
    assert path.name == "subject04_crisp_v.mnc.gz"
    assert np.array_equal(brainweb.read_labels(path), LABELS)


@pytest.mark.parametrize(
    ("failure", "requests", "message"),
    [
        (answer(b"", status=404), 1, "404 Client Error"),
        (answer(b"", status=500), 4, "500 Server Error"),
        (reset, 4, "cannot be downloaded"),
        (answer(PACKED[:50]), 4, "truncated or damaged gzip"),
        (answer(HTML), 1, "HTML page, not a volume: '503 Service Unavailable'"),
        (answer(gzip.compress(minc(LABELS[:2]))), 1, "shape (2, 4, 5)"),
        (flood, 1, "more than 1000000 bytes"),
    ],
    ids=["404", "500", "reset", "short gzip", "html", "shape", "flood"],
)
def test_gives_up(tmp_path, server, monkeypatch, failure, requests, message):
    monkeypatch.setattr(brainweb, "MAX_BYTES", 1_000_000)
    server.answers = [failure]
    with pytest.raises(InputError) as caught:
        brainweb.fetch_labels(tmp_path / "subject04.h5", "subject04", {})
    assert message in str(caught.value)
    assert caught.value.where == brainweb.download_url("subject04")
    assert len(server.paths) == requests
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("slow", [drip, drip_headers, silence])
def test_does_not_wait_for_ever(tmp_path, server, monkeypatch, slow):
    monkeypatch.setattr(brainweb, "DEADLINE_S", 0.3)
    server.answers = [slow]
    started = time.monotonic()
    with pytest.raises(InputError, match=r"has not sent the whole file within 0\.3 s"):
        brainweb.fetch_labels(tmp_path / "subject04.h5", "subject04", {})
    assert time.monotonic() - started < 2
    assert not list(tmp_path.iterdir())


def test_silent_server_is_asked_again(tmp_path, server, monkeypatch):
    monkeypatch.setattr(brainweb, "TIMEOUT_S", (1.0, 0.1))
    server.answers = [silence, answer(PACKED)]
    assert brainweb.download("subject04", tmp_path).is_file()
    assert len(server.paths) == 2


def test_a_folder_that_takes_no_download_is_named(tmp_path, server):
    server.answers = [answer(PACKED)]
    output = tmp_path / "missing" / "subject04.h5"
    with pytest.raises(InputError, match="missing") as refused:
        brainweb.fetch_labels(output, "subject04", {})
    assert str(output) in str(refused.value)
    assert not server.paths, "nothing is downloaded that could not be kept"
