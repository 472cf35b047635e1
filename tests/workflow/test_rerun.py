"""What a change runs again, on a dry run of a finished experiment: all that it can change, no more.

``pytest -rP tests/workflow/test_rerun.py`` prints the jobs of every line.
"""

import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers import interfile
from helpers.tiny_jobs import (
    BINS,
    BY_NETWORK,
    CLASSICAL,
    DRAWN,
    END,
    EVALUATED,
    FBP_OF_SCANS,
    FROM_OSEM,
    FROM_SLICES,
    GANS,
    HEAD,
    OF_LESIONS,
    OF_METRICS,
    OSEM_OF_SCANS,
    PLANE,
    RINGS,
    SAMPLED,
    SAMPLED_OTHERWISE,
    SAMPLING,
    SCANS,
    SHARDED,
    SUBJECTS,
    SWEEP_FIGURES,
    SWEPT,
    TRAINED,
    TRAINED_SAMPLING,
    U_NETS,
    VIEWS,
    each,
    of_scan,
    reconstructed,
    trained,
)
from helpers.workflow import ROOT, copy_project, snakemake

pytestmark = pytest.mark.dag

COMMENTED = '"""In other words."""\n# And a remark.\n'
ANOTHER = "\nCHANGED = True\n"
CHANGED = r"\1changed=True, *,"

IDLE_CODE = {
    "a comment and a docstring in every module": ("**/*.py", r'\A"""(.|\n)*?"""\n', COMMENTED),
    "a type hint": ("models/methods/gan.py", r"-> Iterator\[Objective\]", "-> object"),
    "layout": ("models/networks/unet.py", r"\n\n\n", "\n\n\n\n"),
    "words of an error": ("models/dataset.py", "do not fit a network", "suit no network"),
    "a comment in a script": ("workflow/scripts/train.py", r"\A", "# In other words.\n"),
    "code of a command": ("models/summary.py", r"\Z", ANOTHER),
    "code of the log": ("models/training/logger.py", r"\Z", ANOTHER),
    "code of checkpoint files": ("models/checkpoints.py", r"\Z", ANOTHER),
    "code that resumes": ("models/training/resume.py", r"\Z", ANOTHER),
    "prefetching": ("models/loader.py", r"\Z", ANOTHER),
    "memory of the source": ("pipeline/sources/mni152.py", "_voxel=36", "_voxel=37"),
    "code of another source": ("pipeline/sources/brainweb.py", "LINE_S = 900", "LINE_S = 901"),
    "code of another reader": ("pipeline/scans/siemens.py", r"(def read\()", CHANGED),
}
"""Files, and what is replaced in them and by what, that run nothing again: not even all at once."""

CODE = {
    "code of the GANs": (
        "models/methods/gan.py",
        r"(def training_step\((.|\n)*?\"\"\"\n)",
        r"\1        pass\n",
        trained(GANS),
    ),
    "code of DeepPET, whose network PMDM uses": (
        "models/methods/deeppet.py",
        r"(def training_step\((.|\n)*?\"\"\"\n)",
        r"\1        pass\n",
        trained(["DeepPET", "PMDM"]),
    ),
    "code of PMDM": (
        "models/methods/pmdm.py",
        r"class PMDM\(CDPM\):",
        "class PMDM(CDPM):\n    CHANGED = True\n",
        trained(["PMDM"]),
    ),
    "code of the U-Net": (
        "models/networks/unet.py",
        r"class UNet\(nn.Module\):",
        "class UNet(nn.Module):\n    CHANGED = True\n",
        trained(U_NETS),
    ),
    "code of a metric": (
        "models/evaluation/compute.py",
        r"(def nrmse\()",
        r"\1changed=True, *, ",
        OF_METRICS | SWEPT | SWEEP_FIGURES | END,
    ),
    "code of the calibration": (
        "models/conformal.py",
        r"FLOOR = 1e-3",
        "FLOOR = 2e-3",
        each("calibrate", SAMPLING) | OF_METRICS | END,
    ),
    "words of a metric": (
        "models/evaluation/catalogue.py",
        r'"contrast recovery"',
        '"recovered contrast"',
        {"table1", "regional_bias", "calibration", "panel", "uncertainty", "training_curves"}
        | {"tour_images"}
        | SWEEP_FIGURES
        | END,
    ),
    "code of a figure": (
        "models/report/images.py",
        r"(def panel\()",
        CHANGED,
        {"panel"} | END,
    ),
    "code of the tour": (
        "models/report/tour.py",
        r"(def tour_data\()",
        CHANGED,
        {"tour_data"} | END,
    ),
    "code of Table 1": (
        "models/report/table1.py",
        r"(    main = pd.DataFrame\()",
        r"    changed = True\n\1",
        {"table1"} | END,
    ),
    "code of the source": (
        "pipeline/sources/mni152.py",
        r"SCALING = 0\.06",
        "SCALING = 0.07",
        DRAWN,
    ),
    "code of MAP": ("pipeline/map.py", r"(def map_images\()", CHANGED, CLASSICAL),
    "code of OSEM": ("pipeline/osem.py", r"(def reconstruct\()", CHANGED, FROM_OSEM),
    "code of the OSEM of scans": (
        "pipeline/osem.py",
        r"(def reconstruct_scan\()",
        CHANGED,
        OSEM_OF_SCANS,
    ),
    "code of the FBP of scans": (
        "pipeline/fbp.py",
        r"(def reconstruct_scan\()",
        CHANGED,
        FBP_OF_SCANS,
    ),
    "code of a reader": (
        "pipeline/scans/interfile.py",
        r"(def read\()",
        CHANGED,
        HEAD,
    ),
    "code of rebinning": (
        "pipeline/scans/projections.py",
        r"(def single_slice_rebinned\()",
        CHANGED,
        HEAD | PLANE,
    ),
    "code of networks for scans": (
        "models/scan_reconstruct.py",
        r"(def scan_reconstruct\()",
        CHANGED,
        BY_NETWORK,
    ),
    "code of the report of scans": (
        "pipeline/scan_report.py",
        r"(def scan_report\()",
        CHANGED,
        of_scan("head") | of_scan("plane"),
    ),
}
"""Files, what is replaced in them and by what, and the jobs that run again."""

IDLE_SETTINGS = (
    "training={log_every_steps: 7, checkpoint_every_steps: 7, workers: 0, threads: 2, devices: 2,"
    " device: cuda, compile: true, activation_checkpointing: true}",
    "sampling={batch_size: 3}",
    "lesions={draws: 3, hot: 2, cold: 0}",  # there are none
)
"""Changes of the configuration that run nothing again: not even all at once."""

SETTINGS = {
    "training: gradient_clip": ("training={gradient_clip: 2}", trained(TRAINED)),
    "PMDM: posterior_mean": ("methods={PMDM: {posterior_mean: PnPNet}}", trained(["PMDM"])),
    "PMDM: residual": ("methods={PMDM: {residual: false}}", trained(["PMDM"])),
    "sampling: eta": ("sampling={eta: 0.5}", SAMPLED),
    "sampling: samples": ("sampling={samples: 3}", SAMPLED),
    "sampling: weights": (
        "sampling={weights: ema}",
        SAMPLED | reconstructed(EVALUATED) | BY_NETWORK,
    ),
    "sampling: consistency": (
        "sampling={consistency: {steps: 2}}",
        reconstructed(TRAINED_SAMPLING) | SWEPT | SWEEP_FIGURES | {"uncertainty"},
    ),
    "sampling of a variant": (
        "variants={LegoPET-em: {sampling: {consistency: {strength: 0.5}}}}",
        reconstructed(["LegoPET-em"]),
    ),
    "sampling: consistency of those that say their steps alone": (
        "sampling={consistency: {strength: 0.5}}",
        reconstructed(SAMPLED_OTHERWISE) | {"sweep consistency LegoPET", "consistency"},
    ),
    "osem: iterations": ("osem={iterations: 3}", FROM_OSEM | OSEM_OF_SCANS),
    "osem: subsets": (
        "osem={subsets: 8}",
        {"system_matrix reconstruction"} | FROM_OSEM | OSEM_OF_SCANS,
    ),
    "fbp: filter": ("fbp={window: hann}", each("fbp", SUBJECTS) | SHARDED | FBP_OF_SCANS),
    "a scan: calibration": ("scans={plane: {calibration: 2}}", PLANE),
    "a scan: images": (
        "scans={plane: {images: [osem, fbp]}}",
        of_scan("plane", "scan_osem"),
    ),
    "another scan": (
        "scans={again: {sinogram: measured/scan.hs, images: [fbp]}}",
        of_scan("again", "import_scan", "scan_fbp"),
    ),
    "classical: slices": ("classical={slices: 3}", CLASSICAL),
    "lesions": ("lesions={per_volume: 1}", OF_LESIONS),
    "lesions: training": (
        "lesions={per_volume: 1, training: true}",
        OF_LESIONS | FROM_SLICES | trained(TRAINED),
    ),
    "seed": ("seed=5", DRAWN),
}
"""Changes of the configuration, and the jobs that run again."""


@pytest.fixture(scope="module")
def copy(finished, tmp_path_factory):
    """The finished experiment and two scans, with the project's files instead of links to them."""
    folder = tmp_path_factory.mktemp("rerun") / "copy"
    links = {path.name for path in finished.iterdir() if path.is_symlink()}
    shutil.copytree(finished, folder, ignore=lambda top, names: links & {*names}, symlinks=True)
    copy_project(folder)
    (folder / "measured").mkdir()
    segments, _ = interfile.toy_segments([(-1, 1)], RINGS, VIEWS, BINS)
    ring = {"Number of detectors per ring": 2 * VIEWS, "Inner ring diameter (cm)": 38.6}
    interfile.write(
        folder / "measured", segments, dtype="u2", **ring, **{"View offset (degrees)": None}
    )
    np.save(folder / "measured" / "plane.npy", np.ones((VIEWS, BINS), np.uint16))
    (folder / "scans.yaml").write_text(yaml.safe_dump({"scans": SCANS}), encoding="utf-8")
    result = called(folder, "--", "scans")
    assert result.returncode == 0, result.stdout[-4000:]
    return folder


def called(folder: Path, *arguments: str):
    """Call Snakemake with both, on two cores."""
    files = ("--configfile", str(ROOT / "tests" / "tiny.yaml"), "scans.yaml")
    return snakemake(folder, "--cores", "2", *files, *arguments, tiny=False)


def planned(folder: Path, *arguments: str, targets=("all", "scans")) -> set[str]:
    """Jobs that Snakemake would run, as rule and wildcards."""
    result = called(folder, "--dry-run", *arguments, "--", *targets)
    assert result.returncode == 0, result.stdout[-4000:]
    found = set()
    for rule, block in re.findall(
        r"^(?:local)?rule (\w+):\n((?: {4}.*\n)+)", result.stdout, re.MULTILINE
    ):
        wildcards = re.search(r"^ {4}wildcards: (.*)$", block, re.MULTILINE)
        values = re.findall(r"\w+=([\w.-]+)", wildcards[1]) if wildcards else []
        found.add(" ".join([rule, *values]))
    return found


def say(name: str, jobs: set[str]) -> None:
    print(f"{name}: {', '.join(sorted(jobs)) or 'nothing'}")


def test_nothing_runs_again_in_a_copy(copy):
    assert planned(copy) == set()


@contextmanager
def edited(copy: Path, edits: list[tuple[str, str, str]]):
    """Replace something in files of a copy for a while."""
    before: dict[Path, str] = {}
    try:
        for files, old, new in edits:
            changed = 0
            for top in ("pipeline", "models", "workflow"):
                for path in (copy / top).rglob("*.py"):
                    if files != "**/*.py" and path != copy / files:
                        continue
                    text = path.read_text(encoding="utf-8")
                    replaced = re.sub(old, new, text, count=1)
                    if replaced != text:
                        changed += 1
                        before.setdefault(path, text)
                        path.write_text(replaced, encoding="utf-8")
            assert changed, files
        yield
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


def test_code_that_computes_nothing_runs_nothing_again(copy):
    with edited(copy, list(IDLE_CODE.values())):
        assert planned(copy) == set()


@pytest.mark.parametrize("name", CODE)
def test_code_runs_again_what_it_computes(copy, name):
    *edit, expected = CODE[name]
    with edited(copy, [edit]):
        jobs = planned(copy)
    say(name, jobs)
    assert jobs == expected


def test_settings_that_decide_no_result_run_nothing_again(copy):
    assert planned(copy, "--config", *IDLE_SETTINGS) == set()


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_run_again_what_they_decide(copy, name):
    change, expected = SETTINGS[name]
    jobs = planned(copy, "--config", change)
    say(name, jobs)
    assert jobs == expected


def test_another_test_subject_trains_nothing_again(copy):
    table = copy / "data" / "subjects.tiny.tsv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text + "subject04\ttest\t-\n", encoding="utf-8")
    try:
        jobs = planned(copy)
    finally:
        table.write_text(text, encoding="utf-8")
    say("one more test subject", jobs)
    own = {job for job in jobs if "subject04" in job}
    rules = {job.split()[0] for job in own}
    data = {"fetch", "phantom", "slices", "sinogram", "osem", "fbp", "shard"}
    assert rules == data | {"classical", "reconstruct", "metrics"}
    joined = {"join_metrics", "table1", "regional_bias", "calibration", *END}
    swept = {job for job in SWEPT if "epochs" in job} | {"epochs"}
    assert jobs - own == joined | swept | {"panel", "uncertainty"}


def test_new_reconstructions_need_nothing_from_before_the_shards(copy, tmp_path):
    """Whoever has deleted it need not make it again."""
    stages = ("phantoms", "slices", "osem", "fbp")
    for stage in stages:
        (copy / "data" / "tiny" / stage).rename(tmp_path / stage)
    try:
        jobs = planned(copy, "--forcerun", "reconstruct")
    finally:
        for stage in stages:
            (tmp_path / stage).rename(copy / "data" / "tiny" / stage)
    assert jobs == reconstructed(EVALUATED) | {"uncertainty"}


def test_another_seed_fetches_brainweb_no_second_time(copy, tmp_path):
    labels = copy / "data" / "labels" / "brainweb" / "subject04.h5"
    labels.parent.mkdir()
    labels.touch()
    targets = ["data/labels/brainweb/subject04.h5"]
    brainweb = ("--config", "source=brainweb", "subjects=data/subjects.tsv")
    touched = called(copy, "--touch", "--forceall", *brainweb, "--", *targets)
    assert touched.returncode == 0, touched.stdout[-4000:]
    assert planned(copy, *brainweb, "seed=5", targets=targets) == set()
    assert planned(copy, *brainweb, f"brainweb_dir={tmp_path}", targets=targets) == set()
    code = copy / "pipeline" / "sources" / "brainweb.py"
    text = code.read_text(encoding="utf-8")
    code.write_text(text.replace("DEADLINE_S = 900", "DEADLINE_S = 901"), encoding="utf-8")
    try:
        assert planned(copy, *brainweb, targets=targets) == {"fetch subject04"}
    finally:
        code.write_text(text, encoding="utf-8")
