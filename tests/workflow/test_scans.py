"""Rule ``scans``: from a measured sinogram to its images and report, in one call."""

import json
import os
import re
import shutil

import nibabel
import numpy as np
import pytest
import yaml

from helpers import interfile
from helpers.workflow import ROOT, cannot_be_offline, snakemake, workplace
from pipeline.storage import hdf5
from pipeline.storage.kinds import SCAN, SCAN_IMAGE

pytestmark = pytest.mark.dag

VIEWS, BINS, RINGS = 32, 31, 4
"""Of the ring in tests/tiny.yaml, and of a scanner with such rings."""

RING = {
    "Number of detectors per ring": 2 * VIEWS,
    "Inner ring diameter (cm)": 38.6,
    "View offset (degrees)": None,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the workflow and a scan in Interfile."""
    folder = workplace(tmp_path_factory.mktemp("scans") / "place")
    (folder / "measured").mkdir()
    segments, _ = interfile.toy_segments([(-1, 1)], RINGS, VIEWS, BINS)
    interfile.write(folder / "measured", segments, dtype="u2", **RING)
    return folder


def called(folder, scans, *arguments):
    """Call Snakemake for rule ``scans``, with these in a file as README says."""
    (folder / "mine.yaml").write_text(yaml.safe_dump({"scans": scans}), encoding="utf-8")
    files = ("--configfile", str(ROOT / "tests" / "tiny.yaml"), "mine.yaml")
    offline = not cannot_be_offline()
    given = ("--cores", "1", *files, *arguments, "--", "scans")
    return snakemake(folder, *given, tiny=False, offline=offline)


GOOD = {"toy": {"sinogram": "measured/scan.hs"}}


def test_a_scan_becomes_images_and_a_report(place):
    scans = {**GOOD, "quick": {"sinogram": "measured/scan.hs", "images": ["fbp"]}}
    result = called(place, scans)
    assert result.returncode == 0, result.stdout[-4000:]
    arrays, attributes = hdf5.read(place / "data/tiny/scans/toy.h5", SCAN)
    assert arrays["prompts"].shape == (2 * RINGS - 1, VIEWS, BINS)
    assert attributes["ring_differences"] == "-1 to 1"
    made = place / "results/tiny/scans"
    for kind in ("osem", "fbp"):
        image = hdf5.read(made / f"toy/{kind}.h5", SCAN_IMAGE)[0]["image"]
        nifti = nibabel.load(made / f"toy/{kind}.nii")
        assert np.array_equal(np.asanyarray(nifti.dataobj).T, image)
        assert nibabel.aff2axcodes(nifti.affine) == ("L", "P", "S")
        assert image.any()
    for name in scans:
        assert (made / name / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (made / "quick").iterdir()} == {"fbp.h5", "fbp.nii", "report.png"}
    again = called(place, scans, "--dry-run")
    assert "Nothing to be done" in again.stdout, again.stdout[-2000:]


def replace(path):
    """Put other numbers into a file, later than all that was made of it."""
    made = path.stat().st_mtime_ns
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(made + 10**12, made + 10**12))


def test_another_file_behind_a_header_is_imported(place):
    names = {"sinogram": "scan", "randoms": "delayeds", "factors": "norm", "scatter": "scatter"}
    segments, _ = interfile.toy_segments([(-1, 1)], RINGS, VIEWS, BINS)
    for name in names.values():
        (place / name).mkdir()
        times = 3 if name == "scan" else 1  # prompts are more than randoms and scatter
        counts = [(differences, times * array) for differences, array in segments]
        interfile.write(place / name, counts, dtype="u2", **RING)
    files = {each: f"{name}/scan.hs" for each, name in names.items()}
    scans = {"full": {**files, "images": ["fbp"]}, "other": {**GOOD["toy"], "images": ["fbp"]}}
    result = called(place, scans)
    assert result.returncode == 0, result.stdout[-4000:]
    assert "Nothing to be done" in called(place, scans, "--dry-run").stdout
    for name in names.values():
        replace(place / name / "scan.s")
        result = called(place, scans, "--dry-run")
        assert result.stdout.count("rule import_scan:") == 1
        (reason,) = re.findall(r"reason: Updated input files: (.*)", result.stdout)
        assert f"{name}/scan.s" in reason


def test_another_file_behind_siemens_header_is_imported(place):
    folder = place / "siemens"
    folder.mkdir()
    segments, _ = interfile.toy_segments([(-1, 1)], RINGS, VIEWS, BINS)
    header = interfile.write_siemens(folder, segments)
    scan = {"sinogram": f"siemens/{header.name}#randoms", "images": ["fbp"]}  # twice its prompts
    scans = {"siemens": {**scan, "randoms": f"siemens/{header.name}"}}
    result = called(place, scans)
    assert result.returncode == 0, result.stdout[-4000:]
    replace(folder / "scan.s")
    result = called(place, scans, "--dry-run")
    assert "Updated input files: siemens/scan.s" in result.stdout


def test_another_setting_of_one_scan_runs_that_alone(place):
    assert called(place, GOOD).returncode == 0
    changed = {"toy": {**GOOD["toy"], "calibration": 2.0}}
    result = called(place, changed, "--dry-run")
    assert "rule import_scan:" in result.stdout
    assert "rule system_matrix:" not in result.stdout


def test_trained_networks_reconstruct_what_they_were_trained_for(finished, place, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    shutil.copytree(place / "measured", folder / "measured")
    scan = {**GOOD["toy"], "images": ["PnPNet", "cDPM"]}
    refused = called(folder, {"toy": {**scan, "slice_mm": 2.5}})
    assert refused.returncode != 0
    assert "slice_mm: 8.0 -> 2.5" in refused.stdout
    result = called(folder, {"toy": {**scan, "slice_mm": 8.0}})
    assert result.returncode == 0, result.stdout[-4000:]
    assert "rule train:" not in result.stdout
    made = folder / "results/tiny/scans/toy"
    found = {path.name for path in made.iterdir()} - {"fbp.h5", "fbp.nii"}
    models = {f"{model}.{kind}" for model in ("PnPNet", "cDPM") for kind in ("h5", "nii")}
    assert found == models | {"cDPM.std.nii", "report.png"}
    for name in found & {"PnPNet.nii", "cDPM.nii", "cDPM.std.nii"}:
        assert nibabel.load(made / name).shape == (32, 32, 2 * RINGS - 1)


def test_a_network_that_sees_osem_images_has_one_of_the_scan(finished, place, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    shutil.copytree(place / "measured", folder / "measured")
    seen = (
        "osem_input={iterations: 1, filter_mm: 9}",
        "methods={Pix2Pix: {conditioning: [osem_input]}}",
    )
    scan = {**GOOD["toy"], "images": ["Pix2Pix"], "slice_mm": 8.0}
    result = called(folder, {"toy": scan}, "--config", *seen)
    assert result.returncode == 0, result.stdout[-4000:]
    made = folder / "results/tiny/scans/toy"
    names = {
        f"{name}.{kind}" for name in ("Pix2Pix", "osem_input", "fbp") for kind in ("h5", "nii")
    }
    assert {path.name for path in made.iterdir()} == names | {"report.png"}
    attributes = hdf5.read(made / "osem_input.h5", SCAN_IMAGE)[1]
    assert json.loads(attributes["config"])["osem"]["filter_mm"] == 9


REFUSED = {
    "misspelt key": ({"toy": {"sinogrm": "measured/scan.hs"}}, "did you mean 'sinogram'?"),
    "no sinogram": ({"toy": {"images": ["fbp"]}}, "lacks sinogram"),
    "unknown image": ({"toy": {**GOOD["toy"], "images": ["mlem"]}}, "from osem, osem_input, fbp"),
    "missing file": ({"toy": {"sinogram": "measured/none.hs"}}, "measured/none.hs: does not exist"),
    "missing randoms": (
        {"toy": {**GOOD["toy"], "randoms": "none.npz#a"}},
        "correct scans.toy.randoms",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_anything_runs(place, name):
    scans, said = REFUSED[name]
    result = called(place, scans)
    assert result.returncode != 0
    assert said in result.stdout
    assert "Traceback" not in result.stdout
    assert "rule import_scan:" not in result.stdout


def test_no_scans_are_said_to_be_none(place):
    result = called(place, {}, "--dry-run")
    assert result.returncode != 0
    assert "scans: is empty: the configuration has no scans" in result.stdout


HEADER = "!INTERFILE :=\nname of data file := {}\n!END OF INTERFILE :=\n"

BROKEN = {
    "text": ("no header", "measured/text.hs: does not begin with '!INTERFILE :='"),
    "astray": (HEADER.format("none.s"), "measured/astray.hs: lacks the key"),
    "null": (HEADER.format("a\0b.s"), "measured/null.hs: lacks the key"),
}
"""Headers that name no file of numbers, and how their reader refuses them."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_scan_that_is_none_leaves_its_reason(place, name):
    text, said = BROKEN[name]
    (place / "measured" / f"{name}.hs").write_text(text, encoding="utf-8")
    result = called(place, {name: {"sinogram": f"measured/{name}.hs"}})
    assert result.returncode != 0
    assert said in result.stdout
    assert f"logs/tiny/import_scan/{name}.log" in result.stdout
    assert "Traceback" not in result.stdout
    assert not (place / f"data/tiny/scans/{name}.h5").exists()


@pytest.mark.parametrize(("named", "letter"), [(b"a{scan}.s", "'{'"), (b"\xe4.s", "'\\udce4'")])
def test_names_that_snakemake_cannot_have_are_refused(place, named, letter):
    header = HEADER.encode().replace(b"{}", named)
    (place / "measured" / "strange.hs").write_bytes(header)
    (place / "measured" / os.fsdecode(named)).touch()
    result = called(place, {"strange": {"sinogram": "measured/strange.hs"}}, "--dry-run")
    assert result.returncode != 0
    assert f"has {letter} in its name" in result.stdout
    assert "Traceback" not in result.stdout
