"""Lesions in test subjects through the DAG, in a finished experiment of low counts."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from helpers.low_counts import DOSES, FILES
from helpers.workflow import snakemake
from models.evaluation.lesions import COLUMNS
from pipeline.storage import hdf5
from pipeline.storage.kinds import LESION_SLICES, OSEM, RECONSTRUCTION, SHARD, SINOGRAM, SLICES

pytestmark = pytest.mark.dag

LESIONS = {"per_volume": 2, "per_slice": 2, "diameter_mm": [20, 30], "draws": 3}
MODELS = ("OSEM-filter", "MAP", "PnPNet", "LegoPET")
COPIES = 2 * 2 * 2 * 3
"""Of two slices of two rotations, twins of three draws."""


def called(folder, *arguments, lesions=LESIONS, doses=(0.05,)):
    changes = {"simulation": {"doses": list(doses)}, "lesions": lesions}
    settings = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True, width=1000).strip()}"
        for key, value in changes.items()
    ]
    return snakemake(
        folder, "--cores", "2", *FILES, *arguments[:-1], "--config", *settings, "--", arguments[-1],
        tiny=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(low_counts):
    """The experiment's folder, in which lesions have been measured, without another training."""
    for target in ("results/low/lesions.html", "results/low/figures/lesions.png"):
        result = called(low_counts, "--rerun-triggers", "mtime", target)
        assert result.returncode == 0, result.stdout[-4000:]
        assert "rule train:" not in result.stdout
    return low_counts


def test_every_file_of_the_set_has_the_same_copies(folder):
    data = folder / "data" / "low"
    path = "lesions/dose_0.05/subject03.h5"
    table, _ = hdf5.read(data / "slices" / "lesions" / "subject03.h5", LESION_SLICES)
    shard, attributes = hdf5.read(data / "shards" / path, SHARD)
    assert (attributes["dose"], attributes["split"]) == (0.05, "test")
    reference, _ = hdf5.read(data / "osem" / "lesions" / "subject03.h5", OSEM)
    names = ("rotation", "slice_index", "draw", "present")
    for model in MODELS:
        file = folder / "results" / "low" / "reconstructions" / model / path
        images, _ = hdf5.read(file, RECONSTRUCTION)
        for name in names:
            np.testing.assert_array_equal(images[name], table[name])
    for name in (*names, "lesion", "labels"):
        np.testing.assert_array_equal(shard[name], table[name])
    assert len(shard["draw"]) == COPIES
    np.testing.assert_array_equal(shard["osem"], reference["osem"])
    assert shard["lesion"].max() == 2


def test_twins_are_counted_as_the_subject_itself(folder):
    data = folder / "data" / "low"
    plain, _ = hdf5.read(data / "sinograms" / "dose_0.05" / "subject03.h5", SINOGRAM)
    found, _ = hdf5.read(data / "sinograms" / "lesions" / "dose_0.05" / "subject03.h5", SINOGRAM)
    for row, (rotation, index) in enumerate(
        zip(plain["rotation"], plain["slice_index"], strict=True)
    ):
        copies = (found["rotation"] == rotation) & (found["slice_index"] == index)
        for name in ("scale", "background"):
            for value in found[name][copies]:
                np.testing.assert_allclose(value, plain[name][row], rtol=1e-6)
        if copies.any():
            healthy = found["prompts"][copies & (found["present"] == 0)].sum(axis=(1, 2))
            expected = plain["prompts"][row].sum()
            assert np.abs(healthy - float(expected)).max() < 6 * np.sqrt(2 * expected)


def test_all_that_is_compared_is_measured(folder):
    results = folder / "results" / "low"
    table = pd.read_csv(results / "metrics" / "dose_0.05" / "lesions.csv.gz")
    assert list(table.columns) == list(COLUMNS)
    sizes = table.groupby(["model", "samples"]).size().to_dict()
    assert sizes == dict.fromkeys(
        [("OSEM-filter", 1), ("MAP", 1), ("PnPNet", 1), ("LegoPET", 1), ("LegoPET", 2)], 8
    )
    filtered = table[table["model"] == "OSEM-filter"]
    assert filtered["difference"].sum() / filtered["true_difference"].sum() > 0.2
    assert filtered["auc"].mean() > 0.7
    summary = pd.read_csv(results / "lesions.csv")
    assert summary["row"].tolist() == [
        "OSEM + filter", "MAP", "PnPNet", "LegoPET", "LegoPET, mean of 2"
    ]  # fmt: skip
    assert {*summary["dose"]} == {0.05}
    assert "contrast recovery, hot" in (results / "lesions.md").read_text(encoding="utf-8")
    assert (results / "figures" / "lesions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("method", "setting"), [("OSEM-filter", "fwhm_mm"), ("MAP", "beta")])
def test_the_curve_goes_through_what_was_chosen(folder, method, setting):
    results = folder / "results" / "low"
    chosen = json.loads((results / "dose_0.05" / "classical_settings.json").read_text())[method]
    curve = pd.read_csv(results / "lesion_curves" / "dose_0.05" / f"{method}_subject03.csv")
    assert sorted({*curve["setting"]}) == pytest.approx(
        sorted({one[setting] for one in chosen["curve"]}), rel=1e-5
    )
    (value,) = [v for v in {*curve["setting"]} if np.isclose(v, chosen["chosen"][setting])]
    at_choice = curve[curve["setting"] == value]
    table = pd.read_csv(results / "metrics" / "dose_0.05" / "lesions.csv.gz")
    image = table[table["model"] == method]
    for name in ("difference", "true_difference", "variance", "level", "auc"):
        np.testing.assert_allclose(at_choice[name], image[name], rtol=1e-3)


def jobs(output):
    """Rules that a dry run would run."""
    found = re.findall(r"^(?:local)?rule (\w+):$", output, re.MULTILINE)
    return {rule: found.count(rule) for rule in found}


def test_other_lesions_run_their_own_files_again_and_train_nothing(folder):
    target = "results/low/metrics/dose_0.05/lesions.csv.gz"
    same = called(folder, "--dry-run", target, doses=DOSES)
    assert "Nothing to be done" in same.stdout, same.stdout[-2000:]
    other = called(folder, "--dry-run", target, doses=DOSES, lesions={**LESIONS, "cold": 0.5})
    assert jobs(other.stdout) == {
        **dict.fromkeys(("lesions", "osem", "osem_input", "fbp", "shard", "lesion_metrics"), 1),
        "lesion_sinogram": 2,  # of all counts, too, for the reference
        **{"classical": 2, "reconstruct": 2},
    }


def test_training_subjects_alone_may_have_lesions_in_their_slices(folder):
    targets = [f"data/trained/slices/{subject}.h5" for subject in ("subject01", "subject02")]
    result = snakemake(
        folder, "--cores", "2", *FILES, "--config", "name=trained",
        "lesions={per_volume: 2, per_slice: 1, diameter_mm: [20, 30], training: true}",
        "--", *targets, tiny=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-4000:]
    changed = {}
    for path in targets:
        found, _ = hdf5.read(folder / path, SLICES)
        plain, _ = hdf5.read(folder / path.replace("trained", "low"), SLICES)
        changed[path] = (found["activity"] != plain["activity"]).any(axis=(1, 2)).sum()
    assert [*changed.values()] == [2 * 2, 0]
