"""Hostile and broken inputs: each is refused with one clear screen, and changes nothing.

Every case of the table runs as a job of the workflow does, in a process of its own with bounded
memory. A case says what is laid into the folder, and what the message must hold: the file or key,
the value, the remedy. What a rule then does with it stands above the cases.
"""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import hostile as jobs
from helpers import hostile_files as files
from helpers.hostile import Case, as_nobody, checked, downloading, laid, nothing, volume
from helpers.hostile_busy import BUSY
from helpers.hostile_configurations import CONFIGURATIONS
from helpers.hostile_files import header, osem, other_tensor, rewritten, spoilt, weights
from helpers.hostile_images import IMAGES
from helpers.hostile_scans import SCANS
from helpers.server import answer, drip, drip_headers, flood, reset, silence
from helpers.small_models import settings
from helpers.volumes import HTML, LABELS, OTHER_CRC, PACKED, minc, some_labels

MNC, RAW = "subject04_crisp_v.mnc.gz", "subject_04.bin.gz"
AGAIN = "replace it by a fresh download"

PHANTOMS = jobs.section(
    "phantom",
    jobs.fetch,
    {
        "truncated gzip": (volume(PACKED[:-40]), MNC, "truncated or damaged gzip", AGAIN),
        "gzip header alone": (volume(PACKED[:10]), MNC, "truncated or damaged gzip", AGAIN),
        "wrong checksum": (volume(OTHER_CRC), MNC, "truncated or damaged gzip", AGAIN),
        "empty file": (volume(b""), MNC, "not a MINC1 volume", "b''", AGAIN),
        "wrong shape": (volume(minc(LABELS[:2])), MNC, "(2, 4, 5), not (3, 4, 5)", AGAIN),
        "huge declared shape": (volume(jobs.huge_minc()), MNC, "not a MINC1 volume", AGAIN),
        "wrong orientation": (volume(minc(LABELS, step=(0.5, 0.5, -0.5))), MNC, "-0.5", AGAIN),
        "label beyond the last": (volume(minc(LABELS + np.uint8(1))), MNC, "up to 12", AGAIN),
        "negative labels": (volume(minc(LABELS, highest=-255.0)), MNC, "not 0 to 11", AGAIN),
        "no whole labels": (volume(minc(LABELS, highest=127.5)), MNC, "is no class", AGAIN),
        "wrong length": (volume(gzip.compress(bytes(60)), RAW), RAW, "60 bytes, not 120", AGAIN),
        "other byte order": (volume(jobs.swapped(), RAW), RAW, "labels up to 2", AGAIN),
        "other subject": (volume(minc(some_labels(5))), MNC, "holds subject05", "subject04"),
        "unknown labels": (volume(minc(some_labels(6))), MNC, "with SHA-256", AGAIN),
        "web page": (volume(HTML), MNC, "page, not a volume: '503 Service", "try again later"),
        "packed web page": (volume(gzip.compress(HTML)), MNC, "HTML page", "try again later"),
        "web page as raw file": (volume(HTML, RAW), RAW, "HTML page", "try again later"),
        "page that clears the screen": (volume(jobs.ESCAPES), MNC, r"'\x1b[2J", "try again"),
        "pickle with code": (volume(jobs.pickled()), MNC, "not a MINC1 volume", AGAIN),
        "folder": (jobs.folder(f"volumes/{MNC}"), "volumes: lacks subject04", MNC, "put the"),
        "pipe": (jobs.pipe(f"volumes/{MNC}"), "volumes: lacks subject04", MNC, "put the volume"),
        "no folder": (nothing, "volumes: is not a folder", "correct brainweb_dir"),
    },
) + jobs.section(
    "phantom of full size",
    jobs.fetch_full_size,
    {
        "bomb as MINC": (volume(jobs.bomb), MNC, "more than the 114794768 bytes", AGAIN),
        "bomb as shorts": (volume(jobs.bomb, RAW), RAW, "more than the 113746192 bytes", AGAIN),
    },
)

BY_HAND = "get the MINC file by hand and set brainweb_dir"

DOWNLOADS = [
    Case(f"download {name}", jobs.earlier, act, ("http://127.0.0.1", problem, BY_HAND))
    for name, act, problem in (
        ("stalls", downloading(silence, DEADLINE_S=0.2), "not sent the whole file within 0.2 s"),
        ("stalls each time", downloading(silence, TIMEOUT_S=(1, 0.05)), "timed out"),
        ("drips", downloading(drip, DEADLINE_S=0.2), "not sent the whole file within 0.2 s"),
        ("drips its headers", downloading(drip_headers, DEADLINE_S=0.2), "within 0.2 s"),
        ("is reset", downloading(reset), "cannot be downloaded: ('Connection aborted.'"),
        ("breaks off", downloading(answer(PACKED[:50], length=900)), "cannot be downloaded"),
        ("is cut short", downloading(answer(PACKED[:50])), "truncated or damaged gzip"),
        ("never ends", downloading(flood, MAX_BYTES=10**6), "sent more than 1000000 bytes"),
        ("is a bomb", downloading(jobs.body(jobs.bomb)), "more than the 1048696 bytes"),
        ("unpacks on the way", downloading(jobs.body(jobs.bomb, "gzip")), "sent more than"),
        ("unpacks twice", downloading(jobs.body(jobs.twice, "gzip, gzip")), "sent more than"),
        ("is a web page", downloading(answer(HTML)), "HTML page, not a volume"),
        ("has another shape", downloading(answer(minc(LABELS[:2]))), "shape (2, 4, 5)"),
        ("is missing", downloading(answer(b"", status=404)), "404 Client Error"),
        ("fails", downloading(answer(b"", status=500)), "500 Server Error"),
        ("leads to a file", downloading(jobs.redirect("file:///etc/passwd")), "file:///etc/passwd"),
        ("leads in a circle", downloading(jobs.redirect("/again")), "Exceeded 30 redirects"),
        ("is refused", downloading(SERVER="http://127.0.0.1:9/"), "cannot be downloaded"),
    )
]

FILE = str(files.SHARD_FILE)
REMAKE = f"run rule 'shard' again: snakemake --cores all -- {FILE}"
OSEM = "dataset '/osem'"

HDF5 = jobs.section(
    "HDF5",
    files.read,
    {
        "truncated": (rewritten(lambda data: data[:-99]), FILE, "not a readable HDF5", REMAKE),
        "cut to a header": (rewritten(lambda data: data[:40]), FILE, "not a readable", REMAKE),
        "flipped byte of an image": (rewritten(files.flip_in_chunk), FILE, OSEM, "damag", REMAKE),
        "flipped byte of a header": (rewritten(files.flip_in_header), FILE, "damaged", REMAKE),
        "empty": (laid(FILE, b""), FILE, "is not a readable HDF5 file", REMAKE),
        "web page": (laid(FILE, HTML), FILE, "is not a readable HDF5 file", REMAKE),
        "pickle with code": (laid(FILE, jobs.pickled()), FILE, "is not a readable", REMAKE),
        "missing": (nothing, FILE, "does not exist", REMAKE),
        "folder": (jobs.folder(FILE), FILE, "no regular file", REMAKE),
        "pipe": (jobs.pipe(FILE), FILE, "no regular file", REMAKE),
        "device": (jobs.link(FILE, "/dev/zero"), FILE, "no regular file", REMAKE),
        "dangling link": (jobs.link(FILE, "nowhere"), FILE, "does not exist", REMAKE),
        "missing dataset": (spoilt(lambda f: f.pop("osem")), FILE, "lacks", "'osem'", REMAKE),
        "group for a dataset": (spoilt(files.group), FILE, "lacks the dataset 'osem'", REMAKE),
        "wrong dtype": (osem(np.ones((5, 16, 16))), FILE, "float64", "not float32", REMAKE),
        "texts for numbers": (osem(np.array([[[b"a"]]] * 5)), FILE, "|S1", "float32", REMAKE),
        "wrong axes": (osem(np.ones((5, 16), "f4")), FILE, "with 2 axes, not", REMAKE),
        "NaN": (spoilt(files.put(np.nan)), FILE, OSEM, "1 non-finite value", REMAKE),
        "infinity": (spoilt(files.put(np.inf)), FILE, OSEM, "1 non-finite value", REMAKE),
        "wrong schema version": (files.attribute("schema_version", 99), FILE, "99, not 1", REMAKE),
        "no schema version": (files.attribute("schema_version"), FILE, "None, not 1", REMAKE),
        "odd schema version": (
            files.attribute("schema_version", [1, 1]),
            FILE,
            "is damaged",
            REMAKE,
        ),
        "other kind": (files.attribute("kind", "osem"), FILE, "is a 'osem'", REMAKE),
        "huge declared shape": (files.declared((10**9, 16, 16)), FILE, "holds 0 bytes", REMAKE),
        "overflowing shape": (files.declared((2**61, 2, 2)), FILE, "holds 0 bytes", REMAKE),
        "huge chunk": (files.declared((5, 2**14, 2**14)), FILE, "(5, 16384, 16384)", REMAKE),
        "no slices": (osem(shape=(0, 16, 16), dtype="f4"), FILE, "[0, 5] entries", REMAKE),
        "slices left out": (osem(np.ones((4, 16, 16), "f4")), FILE, "[4, 5] entries", REMAKE),
        "link to another file": (files.external_link, FILE, "link to another place", REMAKE),
        "link within the file": (files.soft_link, FILE, "link to another place", REMAKE),
        "values in another file": (files.external_values, FILE, "does not itself", REMAKE),
        "bomb": (spoilt(files.bomb), FILE, "does not fit into memory", "give the job more memory"),
        "view of another file": (files.virtual_view, FILE, "does not itself hold", REMAKE),
    },
)

HDF5 += [
    Case("HDF5: " + name, make, act, wanted)
    for name, make, act, wanted in (
        ("NaN in training", spoilt(files.put(np.nan)), files.slices, (FILE, "slice 12", REMAKE)),
        (
            "image size",
            osem(np.ones((5, 9, 9), "f4")),
            files.slices,
            (FILE, "images of (9, 9)", "set"),
        ),
        ("FBP size", files.small_fbp, files.slices, (FILE, "(9, 9) for (16, 16)", REMAKE)),
        ("preview", files.external_link, files.draw, (FILE, "'osem'", "delete it and")),
        ("no attribute", files.labels(source=None), files.make_phantom, ("'source'", "'fetch'")),
        ("label 12", files.labels(12), files.make_phantom, ("up to 12", "run rule 'fetch'")),
        ("geometry", files.sinogram, files.reconstruct_fbp, ("(6, 7)", "run rule 'sinogram'")),
        ("two subjects", files.two_subjects, files.build_shard, ("does not hold the", "'fbp'")),
        ("index beyond", files.matrix, files.load_matrix, ("indices", "'system_matrix' again")),
    )
]


def scales(value):
    return {"scales": {"sinogram": 1.0, "activity": value}}


WEIGHTS, RETRAIN = str(files.WEIGHTS), "delete it and train again: snakemake --cores all -- "
WORKING, ANEW = str(files.WORKING), f"delete {files.RUN} to start this run anew"

CHECKPOINTS = jobs.section(
    "weights",
    files.reconstructor(),
    {
        "pickle with code": (laid(WEIGHTS, jobs.pickled()), WEIGHTS, "is damaged", RETRAIN),
        "torch file with code": (files.torch_file(WEIGHTS), WEIGHTS, "is damaged", RETRAIN),
        "truncated": (rewritten(lambda d: d[:2000], weights()), WEIGHTS, "is damaged", RETRAIN),
        "cut in its values": (rewritten(lambda d: d[:-9], weights()), WEIGHTS, "damaged", RETRAIN),
        "huge header": (laid(WEIGHTS, b"\0" * 7 + b"\x10{}"), WEIGHTS, "header", RETRAIN),
        "web page": (laid(WEIGHTS, HTML), WEIGHTS, "is damaged", RETRAIN),
        "missing": (nothing, WEIGHTS, "does not exist", "train again"),
        "pipe": (jobs.pipe(WEIGHTS), WEIGHTS, "no regular file", RETRAIN),
        "of another program": (files.foreign, WEIGHTS, "project's metadata", RETRAIN),
        "unknown method": (header(method="Nope"), WEIGHTS, "'Nope'", "PnPNet, cDPM", RETRAIN),
        "list for a method": (header(method=["x"]), WEIGHTS, "method ['x']", RETRAIN),
        "wrong method": (header(method="cGAN"), WEIGHTS, "cGAN -> PnPNet", "restore the"),
        "flipped bit": (rewritten(files.lowest_bit, weights()), WEIGHTS, "is damaged", RETRAIN),
        "wrong model": (header(model="cDPM"), WEIGHTS, "is of cDPM, not PnPNet", "own weights"),
        "settings of no kind": (header(settings=3), WEIGHTS, "settings 3", RETRAIN),
        "missing settings": (header(settings={}), WEIGHTS, "None -> ['sinogram']", "restore"),
        "scale of zero": (header(**scales(0)), WEIGHTS, "scale 0", RETRAIN),
        "scale NaN": (header(**scales(np.nan)), WEIGHTS, "scale nan", RETRAIN),
        "more than it says": (header(step=[]), WEIGHTS, "the step []", RETRAIN),
        "wrong width": (header(network=files.WIDE), WEIGHTS, "width: 16 -> 8", "restore the"),
        "other shape": (other_tensor(lambda t: t[:4]), WEIGHTS, "stem.weight", RETRAIN),
        "wrong dtype": (other_tensor(torch.Tensor.double), WEIGHTS, "torch.float64", RETRAIN),
        "NaN": (other_tensor(lambda t: t * torch.nan), WEIGHTS, "not finite", RETRAIN),
    },
)

CHECKPOINTS += [
    Case(
        "weights: width of the generator",
        weights("cGAN"),
        files.reconstructor("cGAN", settings(methods__cGAN__width=8)),
        (WEIGHTS, "width: 4 -> 8", "restore the configuration, or train again"),
    ),
    Case(
        "weights: no average",
        weights(),
        files.reconstructor(settings=settings(sampling__weights="ema")),
        (WEIGHTS, "holds no moving average", "set sampling.weights to raw"),
    ),
    Case(
        "weights: features of another method",
        jobs.in_turn(files.a_shard, jobs.folder(files.RUNS), header(method="DeepPET")),
        files.train("LegoPET", files.WEIGHTS),
        (WEIGHTS, "is a DeepPET, not a PnPNet", "give PnPNet's weights"),
    ),
]

CHECKPOINTS += jobs.section(
    "working checkpoint",
    files.load_working,
    {
        "with code": (files.torch_file(WORKING), WORKING, "holds posix.system", ANEW),
        "plain pickle": (laid(WORKING, jobs.pickled()), WORKING, "is damaged", ANEW),
        "truncated": (files.working(lambda d: d[:900]), WORKING, "is damaged", ANEW),
        "flipped byte": (files.working(files.flip_value), WORKING, "checksum", ANEW),
        "bomb": (files.working(files.packed_zeros), WORKING, "packed", ANEW),
        "more declared than held": (files.working(files.lying), WORKING, "size", ANEW),
        "no state": (files.torch_file(WORKING, [1, 2]), WORKING, "holds a list", ANEW),
        "pipe": (jobs.pipe(WORKING), WORKING, "no regular file", ANEW),
    },
) + jobs.section(
    "interrupted run",
    files.train("PnPNet"),
    {
        "with code": (files.run_of(jobs.Payload()), WORKING, "holds posix.system", ANEW),
        "without identity": (files.run_of({"step": 1}), WORKING, "KeyError: 'identity'", ANEW),
    },
)

TABLE = (files.TABLE, "has a line of more than", "make it again")
CHECKPOINTS += [Case("table: bomb", laid(files.TABLE, jobs.bomb), files.read_table, TABLE)]

FREE = "free space in, or allow writing to, "
NO_SPACE, TOO_LARGE, DENIED = "No space left on device", "File too large", "Permission denied"
LABELS_FILE, FOLDER = str(jobs.OUTPUT), str(Path(FILE).parent)

WRITERS = (  # an earlier file lies there
    ("images", FILE, files.a_shard, files.write_much),
    ("weights", WEIGHTS, weights(), files.save_much),
    ("a checkpoint", WORKING, files.working(), files.save_much_working),
    ("a download", LABELS_FILE, jobs.earlier, jobs.download_much),
)

DISKS = [
    Case(f"{what} for {name}", lock(path, make), wrap(act), (path, said, FREE), disk=disk)
    for name, path, make, act in WRITERS
    for what, disk, lock, wrap, said in (
        ("full disk", "256k", lambda path, make: make, lambda act: act, NO_SPACE),
        ("small limit", "", lambda path, make: make, jobs.limited, TOO_LARGE),
        ("read-only folder", "", jobs.in_read_only, as_nobody, DENIED),
    )
]

DISKS += [
    Case("full disk for the log", jobs.fill, files.read, (FILE, "not exist", "run"), "a.log", "9k"),
    Case("folder in place of a file", jobs.folder(FILE), files.write, (FILE, "Is a dir", "away")),
    Case("no folder", nothing, files.write, (FILE, "No such file", "make the folder /")),
    Case("file for a folder", laid(FOLDER, b""), files.write, (FILE, "Not a dir", "make the")),
    Case("no folder for the log", nothing, files.read, ("a/b.log", "make the folder"), "a/b.log"),
    Case(
        "read-only folder for a run",
        jobs.in_read_only("results/toy", files.a_shard),
        as_nobody(files.train("PnPNet")),
        (str(files.RUNS), DENIED, FREE),
    ),
]

ALLOW = "allow reading it"

PERMISSIONS = [
    Case(
        f"no permission for {name}", jobs.locked(path, make), as_nobody(act), (path, DENIED, ALLOW)
    )
    for name, path, make, act in (
        ("an HDF5 file", FILE, files.a_shard, files.read),
        ("its folder", FOLDER, files.a_shard, files.read),
        ("weights", WEIGHTS, weights(), files.reconstructor()),
        ("a checkpoint", WORKING, files.working(), files.load_working),
        ("a phantom", f"volumes/{MNC}", volume(PACKED), jobs.fetch),
        ("all phantoms", "volumes", volume(PACKED), jobs.fetch),
        ("the table", "t.tsv", laid("t.tsv", b""), checked(subjects="t.tsv")),
    )
]

LINK, DELETE_IT = "symbolic link to ", "delete the link, then run the rule again"
LEADS, PUT = "a symbolic link leads out of data/", "make all of data/ a link"

LINKS = [
    Case(f"link: {name}", make, act, wanted)
    for name, make, act, wanted in (
        ("shard", jobs.link(FILE), files.write, (FILE, LINK, "outside/secret;", DELETE_IT)),
        ("shard to come", jobs.link(FILE, "../new"), files.write, (FILE, LINK, "new;", DELETE_IT)),
        ("weights", jobs.link(WEIGHTS), files.save_much, (WEIGHTS, LINK, DELETE_IT)),
        ("checkpoint", jobs.link(WORKING), files.save_much_working, (WORKING, LINK, DELETE_IT)),
        ("labels", jobs.link(LABELS_FILE), jobs.download, (LABELS_FILE, LINK, DELETE_IT)),
        ("run's table", jobs.link("results/log.csv"), files.log_row, ("log.csv", LINK, DELETE_IT)),
        ("experiment", jobs.link("data/toy", "../outside"), files.write, (FILE, LEADS, PUT)),
        ("folder", jobs.link(FOLDER, "../outside"), files.write, (FILE, LEADS, PUT)),
        ("two links", jobs.two_links, files.write, (FILE, "outside", LEADS, PUT)),
        ("circle", jobs.link("data/toy", "data/toy"), files.write, (FILE, "Too many lev", "put")),
        ("whole path", jobs.link(FOLDER, "../outside"), files.write_whole, (FILE, LEADS, PUT)),
        ("downloads", jobs.linked_labels, jobs.download, (LABELS_FILE, LEADS, PUT)),
    )
] + [Case("link: log", jobs.link("a/b"), files.read, ("a/b: is a", LINK, DELETE_IT), "a/b")]

CASES = [
    *(*PHANTOMS, *IMAGES, *SCANS, *DOWNLOADS, *HDF5, *CHECKPOINTS),
    *(*CONFIGURATIONS, *DISKS, *PERMISSIONS, *LINKS, *BUSY),
]
refused, skipped = [], []

ROWS, COLUMNS = 24, 100
"""A screen."""


@pytest.fixture(scope="module")
def start():
    """Start jobs, while as much freed memory as many tests leave is here, which is not for them."""
    blocks = [np.empty(100_000, np.uint8) for _ in range(15_000)]
    del blocks[:-1]  # the last keeps what is below it in this process
    with jobs.starter("robustness.test_hostile") as start:
        yield start


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is limited on Linux alone"
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_refused_and_changes_nothing(case, start, tmp_path, monkeypatch):
    output = tmp_path / "output"
    with jobs.workplace(case.disk) as work, monkeypatch.context() as patch:
        patch.chdir(work)
        case.make()
        before = jobs.contents(work.parent)
        code = start(case.name, work, output)
        after = jobs.contents(work.parent)
    said = output.read_text()
    if code == jobs.CANNOT_DROP:
        skipped.append(case.name)
        pytest.skip("the rights of root cannot be dropped here")
    assert code == 1, said
    assert {*after} - {*before} <= {f"work/{case.log}"}
    assert {name: after[name] for name in before} == before
    assert "Traceback" not in said
    message = said.partition("Rule 'hostile' stopped.\n")[2].strip("\n")
    assert sum(-(-len(line) // COLUMNS) for line in message.splitlines()) <= ROWS, message
    assert all(character.isprintable() for character in message.replace("\n", ""))
    where, _, rest = message.partition(": ")
    problem, _, remedy = rest.partition("\n  -> ")
    assert where
    assert problem
    assert remedy
    for text in case.wanted:
        assert text in message
    refused.append(case.name)


def test_there_are_enough_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 40
    print(f"\n{len(refused)} of {len(CASES)} cases refused as described, {len(skipped)} skipped")
