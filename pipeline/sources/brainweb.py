"""Rule ``fetch``: the label volume of one BrainWeb subject, checked and kept as it came.

Labels come from a local folder or from BrainWeb's server (https://brainweb.bic.mni.mcgill.ca).
The server compresses on the fly, so two downloads of one subject differ as files; what identifies
a subject is the SHA-256 of its label array.
"""

import gzip
import io
import logging
import math
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.sources.base import Facts
from pipeline.sources.labels import CLASSES, labels_sha256, write_labels
from pipeline.sources.subjects import Subject, read_subjects
from pipeline.storage.errors import InputError
from pipeline.storage.files import writing
from pipeline.storage.system_errors import unreadable

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
log = logging.getLogger(__name__)


SHAPE = (362, 434, 362)  # z inferior to superior, y posterior to anterior, x left to right
VOXEL_MM = (0.5, 0.5, 0.5)  # z, y, x
AFFINE_MM = np.diag(VOXEL_MM)[:, ::-1]
"""World (x right, y anterior, z superior) in mm per step along array axes z, y, x."""

FILE_NAMES = (
    "{subject}_crisp_v.mnc.gz",
    "{subject}_crisp_v.mnc",
    "{subject}_crisp_v.rawb.gz",
    "{subject}_crisp_v.bin.gz",
    "subject_{number}.bin.gz",
)
"""Accepted names in a local folder, best first; the last is the cache of the package `brainweb`."""

SERVER = "https://brainweb.bic.mni.mcgill.ca/cgi/brainweb1"
QUERY = (
    "do_download_alias={subject}_crisp&format_value=minc&zip_value=gnuzip"
    "&download_for_real=%5BStart+download%21%5D"
)
TIMEOUT_S = (20.0, 120.0)  # to connect; for the next bytes (the server compresses, then sends)
DEADLINE_S = 900.0  # for one whole transfer; the volumes have 3 to 4 MB
MAX_BYTES = 64 * 2**20
RETRY_WAITS_S = (2.0, 8.0, 30.0)

MINC_HEADER_BYTES = 2**20  # generous bound for all that is not a voxel; BrainWeb's have 1 kB

BY_HAND = "try again later; or get the MINC file by hand and set brainweb_dir to its folder"
REPLACE = "replace it by a fresh download, or set brainweb_dir to '' to let the workflow download"


class _DamagedError(InputError):
    """A compressed file that ends early or fails its checksum: worth another download."""


def read_labels(path: str | Path) -> np.ndarray:
    """Read a label volume as BrainWeb serves it.

    Parameters
    ----------
    path : path
        ``.mnc`` or ``.mnc.gz`` (MINC1), ``.bin.gz`` (little-endian uint16) or ``.rawb.gz``
        (uint8). Whether a file is compressed is told by its first bytes, not its name: browsers
        and proxies unpack some downloads and keep the name.

    Returns
    -------
    labels : (z, y, x) uint8 array of `SHAPE`
        Classes 0 to 11; z runs to superior, y to anterior, x to the subject's right (RAS+).

    Raises
    ------
    InputError
        If the file is missing, damaged, a web page, of another size or orientation, or holds
        anything but classes.

    Notes
    -----
    The raw formats hold ``16 * label``, save that dura, marrow and around fat are 161, 177 and
    145: the class is in the bits from the fifth up. Raw files carry no orientation; BrainWeb
    states the same axis order for them as for MINC.
    """
    path = Path(path)
    if path.name.endswith((".mnc", ".mnc.gz")):
        # Labels are bytes as served; tools that convert MINC files write them as shorts.
        data = _contents(path, 2 * math.prod(SHAPE) + MINC_HEADER_BYTES)
        labels = _decode_minc(data, path)
    elif path.name.endswith(".bin.gz"):
        labels = _decode_raw(_contents(path, 2 * math.prod(SHAPE)), path, "<u2")
    elif path.name.endswith(".rawb.gz"):
        labels = _decode_raw(_contents(path, math.prod(SHAPE)), path, "u1")
    else:
        remedy = "give it its original name: .mnc, .mnc.gz, .bin.gz or .rawb.gz"
        raise InputError(path, f"has the unknown suffix '{''.join(path.suffixes)}'", remedy)
    if (highest := int(labels.max())) >= len(CLASSES):
        raise InputError(path, f"has labels up to {highest}, where 11 is the last", REPLACE)
    return labels


def _contents(path: Path, limit: int) -> bytes:
    """Return the uncompressed contents, reading no further than one byte past ``limit``."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            data = (gzip.GzipFile(fileobj=file) if zipped else file).read(limit + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _DamagedError(path, f"is a truncated or damaged gzip ({error})", REPLACE) from error
    except OSError as error:
        raise unreadable(path, error, f"cannot be read ({error})", "correct its path") from error
    _refuse_html(data[:4096], path)
    if len(data) > limit:
        raise InputError(path, f"holds more than the {limit} bytes of {SHAPE} voxels", REPLACE)
    return data


def _refuse_html(head: bytes, path: Path) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").decode("latin-1").strip()
    if re.match(r"<[!?a-z]", text, re.IGNORECASE):
        title = re.search(r"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL)
        quote = " ".join((title[1] if title else text).split())[:80]
        raise InputError(path, f"is an HTML page, not a volume: '{quote}'", BY_HAND)


def _decode_minc(data: bytes, path: Path) -> np.ndarray:
    import nibabel

    try:
        holder = nibabel.FileHolder(fileobj=io.BytesIO(data))
        image = nibabel.Minc1Image.from_file_map({"image": holder})
        shape, affine_mm = image.shape, image.affine[:3, :3]
        np.asarray(image.dataobj[0])  # fails here if the header's scaling makes no sense
    # nibabel lets every error of its netCDF parser through, from KeyError to MemoryError.
    except Exception as error:
        problem = f"is not a MINC1 volume ({str(error)[:200]}); it starts with {data[:16]!r}"
        raise InputError(path, problem, REPLACE) from error
    if shape != SHAPE:
        raise InputError(path, f"has shape {shape}, not {SHAPE}", REPLACE)
    if not np.allclose(affine_mm, AFFINE_MM, atol=1e-6):
        expected = "to superior, anterior, right in steps of 0.5 mm"
        problem = f"does not run {expected}: its affine is {affine_mm.tolist()}"
        raise InputError(path, problem, REPLACE)
    labels = np.empty(SHAPE, np.uint8)
    for z in range(SHAPE[0]):
        # nibabel scales to float64; by slices that is 1 MB at a time, not 456 MB.
        plane = np.asarray(image.dataobj[z])
        low, high = plane.min(), plane.max()
        if not (low >= 0 and high <= 255):
            raise InputError(path, f"holds {low:g} to {high:g} in slice {z}, not 0 to 11", REPLACE)
        labels[z] = plane
        if not np.array_equal(labels[z], plane):
            value = plane[labels[z] != plane][0]
            raise InputError(path, f"holds {value:g} in slice {z}, which is no class", REPLACE)
    return labels


def _decode_raw(data: bytes, path: Path, dtype: str) -> np.ndarray:
    expected = math.prod(SHAPE) * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise InputError(path, f"holds {len(data)} bytes, not {expected}", REPLACE)
    codes = np.frombuffer(data, dtype).reshape(SHAPE)
    if dtype == "u1" and codes.max() < len(CLASSES):
        return codes
    # Saturating keeps a code that fits no class from wrapping round to one that does.
    return np.minimum(codes >> 4, 255).astype(np.uint8)


def verify(
    labels: np.ndarray,
    subject: str,
    expected_sha256: str | None,
    known: Mapping[str, str],
    where: str | Path,
) -> str:
    """Check that labels, (z, y, x) uint8, are those of the subject, and return their hash.

    Parameters
    ----------
    labels, subject
        The labels, and whose they should be.
    expected_sha256 : str or None
        The subject's hash; None, logged as a warning, if it is not known.
    known, where
        Hash by subject, to say whose labels they are instead; where they came from.

    Raises
    ------
    InputError
        If the hash is another, or is another subject's.
    """
    found = labels_sha256(labels)
    if found == expected_sha256:
        return found
    owner = next((name for name, sha256 in known.items() if sha256 == found), None)
    if owner not in (None, subject):
        remedy = f"replace it by the volume of {subject}"
        raise InputError(where, f"holds {owner}, not {subject}", remedy)
    if expected_sha256 is not None:
        problem = f"holds labels with SHA-256 {found}; {subject} has {expected_sha256}"
        remedy = f"{REPLACE}; if the table of subjects is wrong, correct its labels_sha256"
        raise InputError(where, problem, remedy)
    log.warning("%s: labels of %s not verified, their hash is not known", where, subject)
    return found


def find_local(folder: str | Path, subject: str) -> Path:
    """Find a subject's volume in a folder by `FILE_NAMES`; InputError if there is none."""
    folder, number = Path(folder).expanduser(), subject.removeprefix("subject")
    names = [name.format(subject=subject, number=number) for name in FILE_NAMES]
    try:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    except OSError as error:
        raise unreadable(folder, error, f"cannot be read ({error})", "correct it") from error
    remedy = "put the volume there, or correct brainweb_dir, or set it to '' to download"
    problem = f"lacks {subject}; looked for {', '.join(names)}"
    raise InputError(folder, problem if folder.is_dir() else "is not a folder", remedy)


def download_url(subject: str) -> str:
    """Return the address of a subject's MINC volume on BrainWeb's server."""
    return f"{SERVER}?{QUERY.format(subject=subject)}"


def download(subject: str, folder: str | Path) -> Path:
    """Download a subject's volume from BrainWeb into an existing folder, with retries.

    Returns
    -------
    Path
        A file that `read_labels` reads, by BrainWeb's name: ``subject04_crisp_v.mnc.gz``.

    Raises
    ------
    InputError
        If the server refuses, cannot be reached or breaks off (after `RETRY_WAITS_S`), is too
        slow (`DEADLINE_S`), or sends too much (`MAX_BYTES`), a web page or another volume.
    """
    import requests

    url = download_url(subject)
    path = Path(folder) / FILE_NAMES[0].format(subject=subject)
    waits_s = iter(RETRY_WAITS_S)
    while True:
        try:
            path.write_bytes(_within(DEADLINE_S, lambda: _transfer(url)))
            read_labels(path)
            return path
        except TimeoutError:
            problem = f"has not sent the whole file within {DEADLINE_S:g} s"
            raise InputError(url, problem, BY_HAND) from None
        except (requests.RequestException, InputError) as error:
            network = f"cannot be downloaded: {str(error).partition(' for url')[0]}"
            problem = error.problem if isinstance(error, InputError) else network
            wait_s = next(waits_s, None) if _transient(error) else None
            if wait_s is None:
                raise InputError(url, problem, BY_HAND) from error
        log.warning("%s: %s; trying again in %g s", url, problem, wait_s)
        time.sleep(wait_s)


def _transient(error: Exception) -> bool:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code == 429
    broken = requests.exceptions.ChunkedEncodingError
    return isinstance(error, requests.ConnectionError | requests.Timeout | broken | _DamagedError)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Make a call, or raise TimeoutError and leave behind the thread it runs in.

    A server that sends a byte now and then satisfies every timeout of a socket.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future.result(timeout=seconds)


def _transfer(url: str) -> bytes:
    import pooch
    from tqdm import tqdm

    downloader = pooch.HTTPDownloader(
        chunk_size=2**16, timeout=TIMEOUT_S, headers={"Accept-Encoding": "identity"}
    )
    with tqdm(desc="BrainWeb", unit="B", unit_scale=True, disable=None) as bar:
        received = _Download(bar)
        downloader(url, received, None)
    return received.getvalue()


class _Download(io.BytesIO):
    """Buffer that shows its progress and refuses more than `MAX_BYTES`."""

    def __init__(self, bar: "tqdm"):
        super().__init__()
        self.bar = bar

    def write(self, data: Any) -> int:
        self.bar.update(len(data))
        if self.tell() + len(data) > MAX_BYTES:
            problem = f"sent more than {MAX_BYTES} bytes, where a volume has 3 to 4 MB"
            raise InputError("download", problem, BY_HAND)
        return super().write(data)


def fetch_labels(
    output: str | Path, subject: str, known: Mapping[str, str], local_dir: str = ""
) -> None:
    """Get, verify and write the labels of one subject.

    Parameters
    ----------
    output, subject
        HDF5 file of kind `LABELS`, in an existing folder; the subject, as in ``subject04``.
    known : mapping of subject to hash
        `labels_sha256` of every subject whose hash is known.
    local_dir : str
        Folder with BrainWeb's files; empty to download.

    Raises
    ------
    InputError
        As `find_local`, `download`, `read_labels` and `verify`.
    """
    output = Path(output)
    if local_dir:
        path = find_local(local_dir, subject)
        labels, where, origin = read_labels(path), str(path), path.name
    else:
        where = origin = download_url(subject)
        with (
            writing(output),
            tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder,
        ):
            labels = read_labels(download(subject, folder))
    verify(labels, subject, known.get(subject), known, where)
    write_labels(output, labels, VOXEL_MM, source="brainweb", origin=origin, subject=subject)


def fetch(output: Path, subject: str, config: Mapping[str, Any]) -> None:
    """Do `fetch_labels` with the hashes and the folder of the configuration."""
    subjects = read_subjects(config["subjects"]).values()
    known = {s.name: s.labels_sha256 for s in subjects if s.labels_sha256}
    fetch_labels(output, subject, known, config["brainweb_dir"])


def _check_hashes(subjects: Mapping[str, Subject], table: str) -> None:
    unverified = [name for name, subject in subjects.items() if subject.labels_sha256 is None]
    if unverified:
        raise InputError(
            table,
            f"gives no label hash for {', '.join(unverified)}",
            "copy the hashes from data/subjects.tsv: BrainWeb's volumes are always verified",
        )


FACTS = Facts(
    shape=SHAPE,
    bytes_per_voxel=2 + 2 + 2 + 1,  # 16-bit codes, two steps of their conversion, classes
    check=_check_hashes,
)
