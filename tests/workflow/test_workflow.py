"""The workflow itself: every rule for real, on three tiny heads."""

import json
import re
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

from helpers.configurations import PAPERS
from helpers.workflow import ROOT, SUBJECTS, cannot_be_offline, probed, snakemake, workplace
from models import checkpoints
from models.evaluation.metrics_table import COLUMNS, read_table
from pipeline.baselines import BASELINES
from pipeline.jobs import provenance
from pipeline.storage import hdf5
from pipeline.storage.kinds import RECONSTRUCTION, SHARD

TRAINED = (*PAPERS, "PMDM", "LegoPET-seed2", "LegoPET-fbp")
SAMPLED_OTHERWISE = {"LegoPET-em": "LegoPET", "LegoPET-seed2-em": "LegoPET-seed2"}
MODELS = (*TRAINED, *SAMPLED_OTHERWISE)
SAMPLING = ("cDPM", "LegoPET", "PMDM")
FIGURES = (
    "panel",
    "classical",
    "training",
    "regional_bias",
    "calibration",
    "uncertainty",
    "epochs",
    "guidance",
    "samplers",
    "consistency",
)
TOUR = {
    *("labels", "activity", "slices", "sinogram", "fbp", "osem"),
    *("OSEM-filter", "MAP", "networks", "errors", "compared"),
}
pytestmark = pytest.mark.dag


def test_no_rule_but_fetch_needs_a_network(finished):
    if reason := cannot_be_offline():
        pytest.skip(reason)
    with_network = probed([sys.executable, "--version"], finished, namespace=())
    assert (with_network.returncode, with_network.stdout) == (1, "the network can be reached\n")
    rules = {
        name
        for path in (ROOT / "workflow" / "rules").glob("*.smk")
        # Those test_scans.py and test_lesions.py run, the former without a network.
        if path.stem not in ("scans", "lesions")
        for name in re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE)
    }
    log = (finished / "after_fetch.log").read_text()
    ran = set(re.findall(r"^(?:local)?rule (\w+):", log, re.MULTILINE))
    lower = {"thin", "osem_input"}  # of lower doses, which test_doses.py has
    assert ran == rules - lower - {"fetch", "shards"} | {"all"}  # shards: a name for files alone


def test_every_output_is_there(finished):
    results = finished / "results" / "tiny"
    for name in (
        "metrics.csv.gz",
        "calibration/LegoPET-fbp.json",
        *(f"table1.{kind}" for kind in ("csv", "md", "tex", "html")),
        "differences.csv",
        "classical_settings.json",
        *(f"training/{model}.csv" for model in (*TRAINED, "PnPNet-fbp", "LegoPET-p01")),
        *(f"weights/{model}.yaml" for model in (*TRAINED, "PnPNet-fbp", "LegoPET-p02")),
        "previews/shards_subject03.png",
        "provenance.json",
        "config.yaml",
    ):
        assert (results / name).stat().st_size > 0, name
    assert {path.stem for path in (results / "figures").iterdir()} == set(FIGURES)
    assert {path.stem for path in (results / "tour").iterdir()} == TOUR
    for path in (*(results / "figures").iterdir(), *(results / "tour").iterdir()):
        assert path.read_bytes().startswith(b"\x89PNG"), path.name
    for model in SAMPLED_OTHERWISE:  # is not trained
        folders = ("training", "weights", "checkpoints", "runs")
        assert not [path for name in folders for path in (results / name).glob(f"{model}*")]
    # Nobody asks for it.
    assert not list(results.glob("*/LegoPET-p05*"))


def test_shards_hold_every_slice_with_provenance(finished):
    for subject, split in SUBJECTS.items():
        with hdf5.opened(finished / "data" / "tiny" / "shards" / f"{subject}.h5", SHARD) as file:
            assert file["sinogram"].shape == (8, 32, 31)
            assert file["osem"].shape == file["activity"].shape == (8, 32, 32)
            assert file.attrs["split"] == split
            assert file.attrs["source"] == "mni152"
            assert file.attrs["projector"] == file.attrs["osem_projector"] == "sparse"
            # 8 slices of 1e5 prompts each, on average over a volume.
            assert file["sinogram"][:].sum() == pytest.approx(8e5, rel=0.01)


def test_metrics_have_rows_of_every_test_slice_and_model(finished):
    table = read_table(finished / "results" / "tiny" / "metrics.csv.gz")
    assert set(table["subject"]) == {"subject03"}
    assert list(table["model"].unique()[:2]) == ["FBP", "OSEM"]
    assert set(table["model"]) == {*BASELINES, *MODELS}
    psnr = table[(table["metric"] == "psnr_db") & (table["reference"] == "truth")]
    psnr = psnr[psnr["region"] == "image"]
    for model, rows in psnr.groupby("model"):
        sampled = model.startswith(SAMPLING)
        estimates = ("single", "mean") if sampled else ("single",)
        assert rows.groupby("estimate").size().to_dict() == dict.fromkeys(estimates, 8)
        assert rows.groupby(["rotation", "slice_index"]).ngroups == 8
    named = table.drop_duplicates("model").set_index("model")
    assert named.loc["LegoPET-fbp", "conditioning"] == "sinogram, fbp"
    assert named.loc["LegoPET-fbp", "method"] == "LegoPET"
    assert named.loc[["LegoPET", "LegoPET-seed2"], "training_seed"].tolist() == [2411, 2]
    assert set(named.loc[list(MODELS), "epoch"]) == {10}


def test_a_model_that_is_sampled_otherwise_has_rows_of_its_own(finished):
    results = finished / "results" / "tiny"
    table = read_table(results / "metrics.csv.gz")
    named = table.drop_duplicates("model").set_index("model")
    for model, origin in SAMPLED_OTHERWISE.items():
        for column in ("checkpoint", "training_seed", "method", "epoch", "sampling_seed"):
            assert named.loc[model, column] == named.loc[origin, column]
        assert (named.loc[[model, origin], "consistency_steps"] == [1, 0]).all()
    psnr_db = table[(table["metric"] == "psnr_db") & (table["reference"] == "truth")]
    psnr_db = psnr_db[(psnr_db["region"] == "image") & (psnr_db["estimate"] == "mean")]
    means = psnr_db.groupby("model")["value"].mean()
    assert means["LegoPET-em"] != means["LegoPET"]
    rows = pd.read_csv(results / "table1.csv").set_index("row")
    assert rows.loc["LegoPET-em", "models"] == "LegoPET-em LegoPET-seed2-em"
    assert rows.loc["LegoPET-em", "block"] == "beyond the paper"


def test_intervals_are_calibrated_on_the_validation_subject(finished):
    results = finished / "results" / "tiny"
    sampled = {model for model in MODELS if model.startswith(SAMPLING)}
    assert {path.stem for path in (results / "calibration").iterdir()} == sampled
    for path in (results / "calibration").iterdir():
        found = json.loads(path.read_text())
        assert (found["model"], found["samples"]) == (path.stem, 2)
        assert found["subjects"] == ["subject02"]
        assert {*found["factors"]} == {"osem", "truth"}
    table = read_table(results / "metrics.csv.gz")
    for metric, references in (
        ("width_0.333", {""}),
        ("coverage_0.333", {"osem", "truth"}),
        ("coverage_calibrated_0.333", {"osem", "truth"}),
        ("width_calibrated_0.333", {"osem", "truth"}),
    ):
        rows = table[table["metric"] == metric]
        assert set(rows["model"]) == sampled
        assert set(rows["reference"]) == references
        assert set(rows.groupby(["model", "reference"]).size()) == {8}


def test_table1_has_one_row_for_replicates(finished):
    table = pd.read_csv(finished / "results" / "tiny" / "table1.csv").set_index("row")
    assert "LegoPET-seed2" not in table.index
    assert table["seeds"].dropna().to_dict() == {
        **dict.fromkeys(table.index[4:], 1),
        **dict.fromkeys(("LegoPET", "LegoPET, mean of 2"), 2),
        **dict.fromkeys(("LegoPET-em", "LegoPET-em, mean of 2"), 2),
    }
    assert {"FBP", "OSEM", "OSEM + filter", "MAP", *PAPERS, "PMDM", "LegoPET-fbp"} <= set(
        table.index
    )


def test_kept_checkpoints_are_those_of_every_fifth_epoch(finished):
    results = finished / "results" / "tiny"
    for model in ("cDPM", "LegoPET"):
        paths = sorted((results / "checkpoints" / model).glob("*"))
        epochs = [checkpoints.read_metadata(path).epoch for path in paths if path.suffix]
        assert epochs == [5, 10]
        assert paths[-1].read_bytes() == (results / f"weights/{model}.safetensors").read_bytes()
    assert not list((results / "checkpoints" / "PnPNet").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("model", "setting", "used"),
    [
        ("LegoPET-fbp", "features", "PnPNet-fbp"),
        ("LegoPET-seed2", "features", "PnPNet"),
        ("PMDM", "posterior_mean", "DeepPET"),
    ],
)
def test_a_model_uses_the_network_that_it_names(finished, model, setting, used):
    weights = finished / "results" / "tiny" / "weights"
    found = yaml.safe_load((weights / f"{model}.yaml").read_text())
    assert found["settings"][setting] == used
    assert found["frozen_sha256"] == checkpoints.sha256(weights / f"{used}.safetensors")


def test_sweeps_vary_what_they_are_of(finished):
    tables = {
        f"{path.parent.name}/{path.stem}": read_table(path)
        for path in (finished / "results" / "tiny" / "sweeps").rglob("*.csv")
    }
    expected = {
        "epochs/cDPM": ("epoch", [5, 10], "subject03"),
        "epochs/LegoPET": ("epoch", [5, 10], "subject03"),
        "guidance/LegoPET-p01": ("guidance", [0, 1], "subject02"),
        "guidance/LegoPET-p02": ("guidance", [0, 1], "subject02"),
        "consistency/LegoPET": ("consistency_steps", [0, 2], "subject02"),
        "samplers/LegoPET": ("sampler", ["ddpm", "ddim", "dpm-solver++"], "subject02"),
    }
    assert tables.keys() == expected.keys()
    for name, (column, values, subject) in expected.items():
        table = tables[name]
        assert list(table.columns) == list(COLUMNS)
        assert list(table[column].unique()) == values, name
        assert set(table["subject"]) == {subject}
        assert set(table["model"]) == {name.split("/")[1]}
        assert table.groupby(["rotation", "slice_index"]).ngroups == 2
        assert {"psnr_db", "ssim", "reconstruction_seconds"} <= set(table["metric"])
    dropouts = {tables[name]["condition_dropout"].iloc[0] for name in expected if "-p" in name}
    assert dropouts == {0.1, 0.2}


def test_provenance_is_that_of_the_results(finished):
    results = finished / "results" / "tiny"
    path = results / "provenance.json"
    assert provenance.differences(path) == []
    # What runs resume from, and nothing else.
    assert provenance.notes(path) == ["not in the record: results/tiny/runs"]
    record = json.loads(path.read_text())
    for name in ("metrics.csv.gz", "weights/LegoPET-fbp.safetensors", "figures/samplers.png"):
        assert f"results/tiny/{name}" in record["files"]
    assert record["inputs"].keys() == {
        "data/subjects.tiny.tsv",
        *(f"data/labels/mni152/{subject}.h5" for subject in SUBJECTS),
    }
    assert record["labels"].keys() == SUBJECTS.keys()
    osem = {"seed": [2411], "projector": ["sparse"], "device": ["cpu"]}
    assert record["made_with"]["osem"] == osem
    assert record["made_with"]["reconstruction"]["device"] == ["cpu"]
    seeds = {model: found["seed"] for model, found in record["trained_with"].items()}
    assert (seeds["LegoPET"], seeds["LegoPET-seed2"]) == (2411, 2)
    assert yaml.safe_load((results / "config.yaml").read_text())["network"]["patch"] == 2


def test_the_recorded_configuration_makes_the_same_again(finished):
    configuration = ("--configfile", "results/tiny/config.yaml")
    result = snakemake(finished, "--cores", "2", "--dry-run", *configuration, tiny=False)
    assert "Nothing to be done" in result.stdout, result.stdout[-2000:]


def test_samples_are_kept_with_their_mean_and_spread(finished):
    folder = finished / "results" / "tiny" / "reconstructions"
    with hdf5.opened(folder / "LegoPET" / "subject03.h5", RECONSTRUCTION) as file:
        samples = file["samples"][:]
        assert samples.shape == (8, 2, 32, 32)
        np.testing.assert_allclose(file["image"], samples.mean(axis=1), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(file["std"], samples.std(axis=1, ddof=1), rtol=1e-4, atol=1e-4)
        assert file["std"][:].max() > 0
        assert (file.attrs["samples"], file.attrs["sampler"]) == (2, "dpm-solver++")
    with hdf5.opened(folder / "DeepPET" / "subject03.h5", RECONSTRUCTION) as file:
        assert "samples" not in file
        assert "std" not in file
        assert file.attrs["samples"] == 1


def test_nothing_is_left_to_do(finished):
    result = snakemake(finished, "--cores", "2", "--dry-run")
    assert "Nothing to be done" in result.stdout, result.stdout[-2000:]


def test_the_report_shows_every_figure(report):
    text = report.read_text()
    figures = [f"{figure}.png" for figure in FIGURES] + [f"tour/{stop}.png" for stop in TOUR]
    for name in (*figures, "table1.html", "previews/shards_subject03.png"):
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
        ("variants={X: {method: PnPNet, epoch: 1}}", "variants.X.epoch: is not a known key"),
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
    assert jobs["train"] == len(PAPERS) + 1 + 3 == 10  # PMDM; LegoPET with three dropouts
    assert jobs["reconstruct"] == 2 * (len(PAPERS) + 1)
    assert jobs["classical_settings"] == 1
    assert jobs["classical"] == 2 * 2
    assert jobs["sweep"] == 2 + 3 + 1
    assert not {"uncertainty", "calibration"} & jobs.keys()  # of one sample
    first = r"^rule train:.*?wildcards: model=([\w-]+).*?priority: (\d+)"
    priorities = {name: int(n) for name, n in re.findall(first, result.stdout, re.M | re.S)}
    regression, *others = sorted(priorities, key=priorities.__getitem__, reverse=True)
    assert regression == "PnPNet"  # which LegoPET's training and PMDM's wait for
    epochs = {name: priorities[name] for name in others if name in PAPERS}
    assert epochs == {"cDPM": 500, "LegoPET": 500, "cGAN": 200, "Pix2Pix": 200, "DeepPET": 119}
