"""A metric is its entry in the catalogue and its function, and nothing else."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from helpers.paths import ROOT
from helpers.small_models import make_shard
from helpers.table1 import make
from models import metrics
from models.dataset import Scales
from models.evaluation import catalogue, compute, derived
from models.evaluation.catalogue import DIFFERENCES, METRICS, TABLE1, Metric
from models.evaluation.evaluate import evaluate
from models.evaluation.measure import measure
from models.evaluation.metrics_table import read_table
from models.evaluation.slices import Slices
from pipeline.storage import hdf5
from pipeline.storage.kinds import SHARD

TOY = Metric(
    *("largest_error", "largest error", "1", 3, ("osem", "truth"), ("image", "head"), "lower"),
    tables=(TABLE1, DIFFERENCES),
    details="of any pixel",
)
SCALES = Scales(50.0, 150.0)


def largest_error(compared, region):
    """Largest absolute error of a pixel."""
    errors = (compared.images - compared.references).abs()
    mask = compared.mask(region)
    return (errors if mask is None else errors * mask).amax(dim=(1, 2, 3))


@pytest.fixture
def shard(tmp_path):
    return make_shard(tmp_path / "s.h5", subject="subject42", slices=3)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(catalogue, "METRICS", (*METRICS, TOY))
    monkeypatch.setattr(compute, "largest_error", largest_error, raising=False)


def test_every_metric_has_its_function():
    keys = {key for _, key in catalogue.ordered()}
    for metric in METRICS:
        measured = metric.of not in (catalogue.TIME, catalogue.MEANS)
        assert hasattr(compute, metric.name) == measured, metric.name
        assert hasattr(derived, metric.name) == (metric.of == catalogue.MEANS), metric.name
        assert {*metric.parts} <= keys


def test_what_is_derived_of_means_has_parts_and_no_value_of_an_image():
    facts = ("x", "x", "1", 1, ("truth",), ("",), "1")
    parts = (("mean", "", "grey"),)
    for wrong in (
        {"of": catalogue.MEANS},
        {"parts": parts},
        {"of": catalogue.MEANS, "parts": parts, "tables": (DIFFERENCES,)},
    ):
        with pytest.raises(ValueError, match="parts are those of means"):
            Metric(*facts, **wrong)


@pytest.mark.usefixtures("toy")
def test_a_new_metric_is_measured_and_stands_in_table1(shard, tmp_path):
    evaluate(shard, {}, SCALES, tmp_path / "metrics.csv.gz")
    table = read_table(tmp_path / "metrics.csv.gz")
    found = table[(table["metric"] == "largest_error") & (table["region"] == "head")]
    assert found.groupby(["model", "reference"]).size().to_dict() == {
        ("FBP", "osem"): 3,
        ("FBP", "truth"): 3,
        ("OSEM", "truth"): 3,
    }
    with hdf5.opened(shard, SHARD) as file:
        head = file["labels"][()] > 0
        errors = np.where(head, abs(file["fbp"][()] - file["osem"][()]), 0) / SCALES.activity
    values = found[(found["model"] == "FBP") & (found["reference"] == "osem")]["value"]
    assert values.tolist() == pytest.approx(errors.max(axis=(1, 2)).tolist(), rel=1e-5)

    made = make(tmp_path / "metrics.csv.gz", {}, tmp_path)
    row = pd.read_csv(made["csv"]).set_index("row").loc["FBP"]
    assert row["largest_error_osem_head"] == pytest.approx(values.mean(), rel=1e-5)
    ends = [row[f"largest_error_osem_head_{end}"] for end in ("low", "high")]
    assert ends[0] < row["largest_error_osem_head"] < ends[1]
    text = made["markdown"].read_text()
    assert " and largest error (of any pixel) are of images" in text
    headers = [line for line in text.splitlines() if "largest error |" in line]
    assert len(headers) == 4  # two references, two regions
    for kind in ("latex", "html"):
        assert made[kind].read_text().count("largest error") == len(headers) + 1


@pytest.mark.usefixtures("toy")
def test_a_new_metric_is_compared_between_methods(metrics, tmp_path):
    rows = {name: [name] for name in ("cDPM", "LegoPET")}
    table = pd.read_csv(metrics, keep_default_na=False)
    copied = table[table["metric"] == "psnr_db"].assign(metric="largest_error")
    pd.concat([table, copied]).to_csv(metrics, index=False)
    found = pd.read_csv(make(metrics, rows, tmp_path)["differences"])
    for end in ("", "_low", "_high"):
        expected, new = (found[f"{name}_osem_image{end}"] for name in ("psnr_db", "largest_error"))
        assert new.tolist() == expected.tolist()


def test_similarities_are_mapped_once_a_reference(shard, monkeypatch):
    calls, plain = [], metrics.ssim_map
    monkeypatch.setattr(metrics, "ssim_map", lambda *pair: calls.append(1) or plain(*pair))
    with hdf5.opened(shard, SHARD) as file:
        slices = Slices.read(file, np.arange(3))
    values = measure(slices.fbp, slices, SCALES)
    assert len(calls) == 2
    assert {key for key in values if key[0] == "ssim"} == {
        ("ssim", reference, region)
        for reference in ("osem", "truth")
        for region in ("image", "head")
    }


def test_the_catalogue_is_listed():
    command = [sys.executable, "-m", "models.evaluation.catalogue"]
    lines = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    for metric in METRICS:
        assert f"| `{metric.name}` | " in lines


@pytest.mark.parametrize("name", ["table1", "curves", "sweeps"])
def test_tables_and_curves_need_no_torch(name):
    command = f"import sys, models.report.{name}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True)
