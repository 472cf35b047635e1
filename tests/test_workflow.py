"""The workflow itself: every rule for real, on three tiny heads."""

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from models import METHODS, reconstruct
from pipeline import shards

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = {"subject01": "train", "subject02": "validation", "subject03": "test"}
pytestmark = pytest.mark.dag


def workplace(folder: Path) -> Path:
    """Lay out a folder in which Snakemake finds this workflow and three subjects."""
    (folder / "data").mkdir(parents=True)
    for name in ("Snakefile", "workflow", "config", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data" / "subjects.tsv").symlink_to(ROOT / "data" / "subjects.tsv")
    rows = [f"{subject}\t{split}\t-" for subject, split in SUBJECTS.items()]
    table = "\n".join(["subject\tsplit\tlabels_sha256", *rows]) + "\n"
    (folder / "data" / "subjects.tiny.tsv").write_text(table)
    return folder


def snakemake(folder: Path, *arguments: str, tiny: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake"]
    if tiny:
        command += ["--configfile", str(ROOT / "tests" / "tiny.yaml")]
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"MPLBACKEND": "Agg"},
        check=False,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole DAG has run on two cores."""
    folder = workplace(tmp_path_factory.mktemp("dag") / "run")
    result = snakemake(folder, "--cores", "2")
    assert result.returncode == 0, result.stdout[-4000:]
    return folder


def test_every_output_is_there(finished):
    results = finished / "results" / "tiny"
    for name in (
        "metrics.csv",
        "summary.csv",
        "summary.md",
        "summary.html",
        "weights/PnPNet.safetensors",
        "weights/LegoPET.yaml",
        "training/LegoPET.csv",
        "figures/panel.png",
        "figures/training.png",
        "previews/shards_subject03.png",
    ):
        assert (results / name).stat().st_size > 0, name


def test_shards_hold_every_slice_with_provenance(finished):
    for subject, split in SUBJECTS.items():
        with shards.opened(finished / "data" / "tiny" / "shards" / f"{subject}.h5") as file:
            assert file["sinogram"].shape == (8, 32, 31)
            assert file["osem"].shape == file["activity"].shape == (8, 32, 32)
            assert file.attrs["split"] == split
            assert file.attrs["source"] == "mni152"
            assert file.attrs["projector"] == file.attrs["osem_projector"] == "sparse"
            # 8 slices of 1e5 prompts each, on average over a volume.
            assert file["sinogram"][:].sum() == pytest.approx(8e5, rel=0.01)


def test_metrics_have_a_row_for_every_test_slice_and_method(finished):
    table = pd.read_csv(finished / "results" / "tiny" / "metrics.csv")
    assert set(table["subject"]) == {"subject03"}
    methods = ("OSEM", "FBP", *METHODS)
    assert table.groupby("method").size().to_dict() == dict.fromkeys(methods, 8)
    assert not table.duplicated(["subject", "rotation", "slice_index", "method"]).any()


def test_samples_are_kept_with_their_mean_and_spread(finished):
    folder = finished / "results" / "tiny" / "reconstructions"
    with reconstruct.opened(folder / "LegoPET" / "subject03.h5") as file:
        samples = file["samples"][:]
        assert samples.shape == (8, 2, 32, 32)
        np.testing.assert_allclose(file["image"], samples.mean(axis=1), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(file["std"], samples.std(axis=1, ddof=1), rtol=1e-4, atol=1e-4)
        assert file["std"][:].max() > 0
        assert (file.attrs["samples"], file.attrs["sampler"]) == (2, "dpm-solver++")
    with reconstruct.opened(folder / "DeepPET" / "subject03.h5") as file:
        assert "samples" not in file
        assert "std" not in file
        assert file.attrs["samples"] == 1


def test_nothing_is_left_to_do(finished):
    result = snakemake(finished, "--cores", "2", "--dry-run")
    assert "Nothing to be done" in result.stdout, result.stdout[-2000:]


def test_the_report_shows_every_figure(finished):
    result = snakemake(finished, "--cores", "1", "--report", "results/tiny/report.html")
    assert result.returncode == 0, result.stdout[-3000:]
    text = (finished / "results" / "tiny" / "report.html").read_text()
    for name in ("panel.png", "training.png", "summary.html", "previews/shards_subject03.png"):
        assert name in text
    assert "demonstration-sized networks" in text


def test_shards_do_not_depend_on_cores_or_order(finished, tmp_path):
    other = workplace(tmp_path / "other")
    target = "data/tiny/shards/subject03.h5"
    result = snakemake(other, "--cores", "1", "--", target)
    assert result.returncode == 0, result.stdout[-4000:]
    with h5py.File(finished / target) as first, h5py.File(other / target) as second:
        assert set(first) == set(second)
        for name in first:
            np.testing.assert_array_equal(first[name][()], second[name][()], err_msg=name)


def test_a_damaged_file_stops_the_rule_that_reads_it(finished, tmp_path):
    """The message names the file and the rule to run again; no output appears."""
    other = workplace(tmp_path / "other")
    name = "data/tiny/slices/subject01.h5"
    (other / name).parent.mkdir(parents=True)
    (other / name).write_bytes((finished / name).read_bytes()[:5000])
    output = "data/tiny/sinograms/subject01.h5"
    # Only the rule itself: the damaged file counts as made.
    result = snakemake(
        other, "--cores", "2", "--allowed-rules", "sinogram", "system_matrix", "--", output
    )
    assert result.returncode != 0
    assert f"{name}: is not a readable HDF5 file" in result.stdout
    assert "run rule 'slices' again" in result.stdout
    assert "Traceback" not in result.stdout
    assert not list((other / output).parent.glob("*"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sed=1", "did you mean 'seed'"),
        ("projector=fast", "projector: "),
        ("seed=-1", "seed: "),
    ],
)
def test_a_bad_configuration_stops_before_any_job(tmp_path, setting, message):
    result = snakemake(workplace(tmp_path / "bad"), "--cores", "1", "--config", setting)
    assert result.returncode != 0
    assert message in result.stdout
    assert "Traceback" not in result.stdout


def test_another_subjects_volume_is_refused(tmp_path):
    """What lies in the local folder is verified before anything is written."""
    folder = workplace(tmp_path / "wrong")
    volumes = tmp_path / "volumes"
    volumes.mkdir()
    (volumes / "subject04_crisp_v.mnc.gz").write_text("<html><title>Sorry</title></html>")
    target = "data/labels/brainweb/subject04.h5"
    result = snakemake(
        folder, "--cores", "1", "--config", f"brainweb_dir={volumes}", "--", target, tiny=False
    )
    assert result.returncode != 0
    assert "subject04_crisp_v.mnc.gz" in result.stdout
    assert "Sorry" in result.stdout
    assert not (folder / target).exists()


def test_the_default_configuration_is_the_papers_experiment(tmp_path):
    result = snakemake(workplace(tmp_path / "paper"), "--dry-run", tiny=False)
    assert result.returncode == 0, result.stdout[-3000:]
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", result.stdout, re.M)}
    for rule in ("fetch", "phantom", "slices", "sinogram", "osem", "fbp", "shard"):
        assert jobs[rule] == 20
    assert jobs["system_matrix"] == 1
    assert jobs["train"] == len(METHODS) == 6
    assert jobs["reconstruct"] == 2 * len(METHODS)
