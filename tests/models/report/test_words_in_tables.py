"""Models whose names are words that programs take for missing, true or infinite."""

import numpy as np
import pandas as pd
import pytest

from helpers.measurements import legend_of, regional_rows, write_metrics, write_sweep
from helpers.table1 import make, rows_of
from models.evaluation.metrics_table import COLUMNS, read_table, write_table
from models.report import curves, sweeps

WORDS = ["None", "NA", "nan", "NaN", "null", "NULL", "n-a", "true", "False", "inf", "Infinity"]


@pytest.fixture(params=WORDS)
def word(request):
    return request.param


def frame(*rows):
    return pd.DataFrame([r for each in rows for r in each], columns=list(COLUMNS)).astype(COLUMNS)


def test_a_table_is_read_as_it_was_written(word, tmp_path):
    table = frame(rows_of(word, 30))
    for name in ("conditioning", "checkpoint", "metric", "region"):
        table[name] = word
    write_table([table], tmp_path / "metrics.csv.gz")
    found = read_table(tmp_path / "metrics.csv.gz")
    pd.testing.assert_frame_equal(found, table.fillna({"reference": "", "checkpoint": ""}))


def test_absent_values_stay_absent(tmp_path):
    table = frame(rows_of("NA", 30)).assign(eta=np.nan, sampler="", steps=pd.NA).astype(COLUMNS)
    write_table([table], tmp_path / "metrics.csv")
    found = read_table(tmp_path / "metrics.csv")
    assert found[["eta", "steps", "epoch"]].isna().all(axis=None)
    assert set(found["sampler"]) == set(found["checkpoint"]) == {""}


def test_table1_has_its_row(word, tmp_path):
    rows = [rows_of(name, 20) for name in ("FBP", "OSEM", word)]
    write_table([frame(*rows)], tmp_path / "metrics.csv.gz")
    made = make(tmp_path / "metrics.csv.gz", {word: [word]}, tmp_path)
    assert f"| {word} | 1 |" in made["markdown"].read_text()


def test_figures_have_its_lines(word, tmp_path):
    sampled = {(20, "ddim", 50, 0.0, 0.1, 0.5): (30, 0.8, 1)}
    names = ["epoch", "sampler", "steps", "eta", "condition_dropout", "guidance"]
    sweep = write_sweep(tmp_path / "sweep.csv", word, sampled, names)
    other = write_sweep(tmp_path / "other.csv", "cDPM", sampled, names)
    assert f"{word}: ddim, η = 0" in legend_of(sweeps.samplers([sweep, other]))
    heat_map = sweeps.guidance([sweep]).axes[0]
    assert [text.get_text() for text in heat_map.get_yticklabels()] == [f"0.1\n{word}"]
    rows = [row for name in ("FBP", "OSEM", word) for row in regional_rows(name, [1], [2])]
    rows += [(word, "mean", "coverage_0.5", "osem", "head", 0.4)]
    rows += [(word, "mean", "coverage_0.5", "truth", "head", 0.4)]
    metrics = write_metrics(tmp_path / "metrics.csv.gz", rows)
    bias = curves.regional_bias(metrics, [word]).axes[0]
    assert [text.get_text() for text in bias.get_yticklabels()] == ["FBP", "OSEM", word]
    assert word in legend_of(curves.calibration(metrics))
