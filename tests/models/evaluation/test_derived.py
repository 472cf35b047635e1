"""Metrics that tables derive from means: of means, not means of them."""

import numpy as np
import pandas as pd
import pytest

from helpers.table1 import make
from models.evaluation import derived
from models.evaluation.bootstrap import Bootstrap
from models.evaluation.metrics_table import COLUMNS, write_table


def test_contrast_recovery_of_known_means():
    found = derived.contrast_recovery(
        *np.array([[96.0, 128.0, 32.0, 64.0], [-32.0, 0.0, -96.0, 0.0]]),
        *np.array([[32.0, 32.0, 32.0, 0.0], [0.0, 0.0, 0.0, -32.0]]),
    )
    assert found[:3] == pytest.approx([2 / 3, 1, 0])
    assert np.isnan(found[3])
    # No contrast to recover; and no white matter.
    assert np.isnan(derived.contrast_recovery(*map(np.array, (40.0, 8.0, 30.0, -2.0))))
    assert np.isnan(derived.contrast_recovery(*map(np.array, (40.0, 0.0, 30.0, 30.0))))


def rows(model, grey, white, true_white, subject="subject41"):
    """Slices of grey matter 128 and white matter ``true_white``, each image's means given."""
    for n, means in enumerate(zip(grey, white, true_white, strict=True)):
        for tissue, mean, true in (("grey", means[0], 128.0), ("white", means[1], means[2])):
            if np.isfinite(mean):
                slice_ = {"subject": subject, "slice_index": n, "rotation": 0, "region": tissue}
                origin = {"model": model, "method": model, "estimate": "single", **slice_}
                origin |= {"conditioning": "", "sampler": "", "dose": 1.0}
                yield {**origin, "metric": "mean", "reference": "", "value": mean}
                error = {"metric": "mean_error", "reference": "truth", "value": mean - true}
                yield {**origin, **error}


def table1_of(folder, *each, groups=None):
    table = pd.DataFrame([row for some in each for row in some], columns=list(COLUMNS))
    write_table([table.astype(COLUMNS)], folder / "metrics.csv")
    made = make(folder / "metrics.csv", groups or {}, folder)
    return pd.read_csv(made["csv"]).set_index("row"), made["markdown"].read_text()


GREY, WHITE = np.array([100.0, 90, 80, 40]), np.array([40.0, 36, 30, 20])
TRUE_WHITE = np.array([32.0, 32, 32, 120])
"""The last slice has next to no true contrast: as a quotient of its own it would be 15."""


def test_table1_has_the_ratio_of_means(tmp_path):
    table, text = table1_of(tmp_path, rows("FBP", GREY, WHITE, TRUE_WHITE))
    expected = (GREY.mean() / WHITE.mean() - 1) / (128 / TRUE_WHITE.mean() - 1)
    single = (GREY / WHITE - 1) / (128 / TRUE_WHITE - 1)
    assert table.at["FBP", "contrast_recovery_truth"] == pytest.approx(expected, rel=1e-5)
    assert abs(single.mean() - expected) > 1
    assert table.at["FBP", "contrast_recovery_truth_low"] < expected
    assert table.at["FBP", "contrast_recovery_truth_high"] > expected
    assert "a ratio of means" in text
    assert "### Activity, against the noise-free truth" in text


def test_images_without_one_of_the_tissues_do_not_count(tmp_path):
    lacking = np.where(np.arange(4) == 3, np.nan, WHITE)
    table, _ = table1_of(tmp_path, rows("FBP", GREY, lacking, TRUE_WHITE))
    expected = (GREY[:3].mean() / WHITE[:3].mean() - 1) / 3
    assert table.at["FBP", "contrast_recovery_truth"] == pytest.approx(expected, rel=1e-5)
    # The error of grey matter has all four.
    assert table.at["FBP", "mean_error_truth_grey"] == pytest.approx((GREY - 128).mean(), rel=1e-5)


def test_seeds_are_averaged_before_the_ratio(tmp_path):
    seeds = [rows(name, GREY * f, WHITE, TRUE_WHITE) for name, f in (("A", 0.8), ("B", 1.2))]
    table, _ = table1_of(tmp_path, *seeds, groups={"A": ["A", "B"]})
    expected = (GREY.mean() / WHITE.mean() - 1) / (128 / TRUE_WHITE.mean() - 1)
    assert table.at["A", "contrast_recovery_truth"] == pytest.approx(expected, rel=1e-5)
    assert table.at["A", "contrast_recovery_truth_low"] < expected * 0.9


def test_the_interval_of_a_ratio_is_close_to_the_analytic_one():
    """By the delta method: var(a/b) = (var a + r^2 var b - 2 r cov) / (n b^2)."""
    rng = np.random.default_rng(4)
    b = rng.normal(30, 3, 400)
    a = 3 * b + rng.normal(0, 6, 400)
    images = pd.DataFrame({"subject": "s", "slice_index": np.arange(400)})
    pair = a[None], b[None]
    ratio, low, high = Bootstrap(images).interval(*pair, derive=lambda a, b: a / b)
    assert ratio == pytest.approx(a.mean() / b.mean())
    half = 1.96 * np.std(a - ratio * b) / np.sqrt(400) / b.mean()
    assert (low, high) == pytest.approx((ratio - half, ratio + half), abs=0.06 * half)


def test_one_slice_has_a_ratio_and_no_interval():
    images = pd.DataFrame({"subject": ["s", "s"], "slice_index": [3, 3]})
    pair = np.array([[6.0, 2.0]]), np.array([[2.0, 2.0]])
    found = Bootstrap(images).interval(*pair, derive=lambda a, b: a / b)
    assert found[0] == 2
    assert np.isnan(found[1:]).all()
