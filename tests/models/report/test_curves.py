"""What the curves and intervals show: values, order and labels."""

import numpy as np
import pandas as pd
import pytest

from helpers.measurements import legend_of, lines_of, regional_rows, write_metrics, write_sweep
from helpers.scripts import run_script
from models.evaluation.metrics_table import CONSISTENCY
from models.report import curves
from pipeline.storage.errors import InputError


def test_training_curves_prefer_the_moving_average(tmp_path):
    log = pd.DataFrame({"step": [10, 20, 30], "loss": [3.0, 2.0, 1.0]})
    log["validation_psnr_db"] = [np.nan, 25.0, 26.0]
    log.to_csv(tmp_path / "raw.csv", index=False)
    log.assign(validation_ema_psnr_db=np.nan).to_csv(tmp_path / "empty.csv", index=False)
    log.assign(validation_ema_psnr_db=[np.nan, 27, 28]).to_csv(tmp_path / "ema.csv", index=False)
    names = ("raw", "empty", "ema")
    figure = curves.training_curves({name: tmp_path / f"{name}.csv" for name in names})
    loss, psnr_db = figure.axes
    for label, values in (("raw", [25, 26]), ("empty", [25, 26]), ("ema (EMA)", [27, 28])):
        (line,) = lines_of(psnr_db, label)
        assert np.array_equal(line.get_xydata(), [[20, values[0]], [30, values[1]]])
    assert np.array_equal(lines_of(loss, "raw")[0].get_xydata(), [[10, 3], [20, 2], [30, 1]])
    assert legend_of(figure) == ["raw", "empty", "ema (EMA)"]
    assert "of the counts" not in psnr_db.get_title()
    mixed = curves.training_curves({"raw": tmp_path / "raw.csv"}, doses=(0.05, 1, 0.02))
    assert "100, 5, 2 % of the counts" in mixed.axes[1].get_title()


def test_calibration_is_coverage_and_width_over_their_level(tmp_path):
    rows = [
        (model, "mean", f"{kind}_{level:.3f}", reference, "head", value + slice_off)
        for model, off in (("LegoPET", 0), ("cDPM", -0.1))
        for reference, shift in (("osem", 0.1), ("truth", 0.0))
        for kind, more in (("coverage", 0), ("coverage_calibrated", 0.1), ("width_calibrated", 4))
        for level, value in (
            # Much wider against the truth, whose axis is drawn last.
            (0.778, 0.6 + off + shift + more * (5 if reference == "truth" and more > 1 else 1)),
            (0.333, 0.2 + off + shift + more),
        )
        for slice_off in (-0.05, 0.05)
    ]
    rows += [
        (model, "mean", f"width_{level}", np.nan, "head", width)
        for model in ("LegoPET", "cDPM")
        for level, width in ((0.778, 3.0), (0.333, 1.5))
    ]
    rows.append(("LegoPET", "mean", "psnr_db", "osem", "head", 30.0))
    figure = curves.calibration(write_metrics(tmp_path / "m.csv.gz", rows))
    osem, truth, osem_width, truth_width = figure.axes
    assert "OSEM" in osem.get_title()
    assert "truth" in truth.get_title()
    for axis, label, values in (
        (osem, "LegoPET", [0.3, 0.7]),
        (truth, "cDPM", [0.1, 0.5]),
        (osem, "LegoPET, calibrated", [0.4, 0.8]),
        (truth, "cDPM, calibrated", [0.2, 0.6]),
        (osem_width, "LegoPET", [1.5, 3]),
        (truth_width, "LegoPET", [1.5, 3]),
        (osem_width, "LegoPET, calibrated", [4.3, 4.7]),
        (truth_width, "cDPM, calibrated", [4.1, 20.5]),
    ):
        points = lines_of(axis, label)[0].get_xydata()
        assert np.allclose(points, np.transpose([[0.333, 0.778], values])), label
    assert np.array_equal(lines_of(truth, "right")[0].get_xydata(), [[0, 0], [1, 1]])
    for axis in (osem_width, truth_width):
        assert axis.get_ylim()[0] == 0
        assert axis.get_ylim()[1] > 20.6
    names = [name + part for name in ("LegoPET", "cDPM") for part in ("", ", calibrated")]
    assert legend_of(figure) == ["right", *names]


def test_calibration_without_samples_says_so(tmp_path):
    rows = [("PnPNet", "single", "psnr_db", "osem", "image", 30.0)]
    figure = curves.calibration(write_metrics(tmp_path / "m.csv.gz", rows))
    assert "No model drew more than one sample" in figure.texts[0].get_text()


@pytest.fixture
def regions(tmp_path):
    rows = [
        *regional_rows("FBP", [1, 3], [0, 0]),
        *regional_rows("OSEM", [-2, -4], [1, 2]),
        *regional_rows("cDPM", [-7, -9], [4, 4]),
        *regional_rows("LegoPET", [-5, -6], [2, 3]),
        *regional_rows("LegoPET", [50, 50], [50, 50], estimate="mean"),
    ]
    return write_metrics(tmp_path / "metrics.csv.gz", rows)


def test_regional_bias_draws_every_model_in_order(regions):
    figure = curves.regional_bias(regions, ["LegoPET", "cDPM"])
    grey, white, recovery = figure.axes
    assert [text.get_text() for text in grey.get_yticklabels()] == [
        "FBP",
        "OSEM",
        "LegoPET",
        "cDPM",
    ]
    assert grey.yaxis_inverted()
    for axis, ideal, means in (
        (grey, 0, [2, -3, -5.5, -8]),
        (white, 0, [0, 1.5, 2.5, 4]),
        # Ratios of means: of (100 + grey) / (25 + white) - 1 over 100 / 25 - 1.
        (
            recovery,
            1,
            [(m / w - 1) / 3 for m, w in ((102, 25), (97, 26.5), (94.5, 27.5), (92, 29))],
        ),
    ):
        line, *marks = axis.lines
        assert list(line.get_xdata()) == [ideal, ideal]
        assert np.allclose(np.concatenate([mark.get_xdata() for mark in marks]), means)
        assert [mark.get_ydata()[0] for mark in marks] == [0, 1, 2, 3]
    assert grey.get_title() == "grey matter, true mean 100.0 a.u."
    assert white.get_title() == "white matter, true mean 25.0 a.u."
    assert "[a.u.]" in grey.get_xlabel()
    assert recovery.get_xlabel() == "contrast recovery [1]"


def test_regional_bias_without_labels_says_so(tmp_path):
    rows = [("PnPNet", "single", "psnr_db", "osem", "image", 30.0)]
    figure = curves.regional_bias(write_metrics(tmp_path / "m.csv.gz", rows), ["PnPNet"])
    assert "No test subject has labels" in figure.texts[0].get_text()


def test_regional_bias_of_an_unknown_model_is_refused(regions):
    with pytest.raises(InputError, match="has no rows of DeepPET"):
        curves.regional_bias(regions, ["LegoPET", "DeepPET"])


def test_scripts_write_their_figures(regions, tmp_path):
    sweep = write_sweep(
        tmp_path / "cDPM.csv",
        "cDPM",
        {(20, "ddpm", 1000, 0.0, 0.1, 0.5, 1, 1.0, 0.0): (30, 0.8, 1)},
        names=[
            *("epoch", "sampler", "steps", "eta", "condition_dropout", "guidance"),
            *CONSISTENCY,
        ],
    )
    log = tmp_path / "log.csv"
    log.write_text("step,loss,validation_psnr_db\n10,1,20\n")
    for name, table, params in (
        ("training_curves", log, {"models": ["cDPM"], "reference": "osem", "doses": [1.0]}),
        (
            "epochs",
            sweep,
            {"models": ["cDPM"], "rows": {"cDPM": ["cDPM"]}, "reference": "osem"},
        ),
        ("guidance", sweep, {"reference": "osem"}),
        ("samplers", sweep, {"reference": "osem"}),
        ("consistency", sweep, {"reference": "osem"}),
        ("calibration", regions, {"dose": 1.0}),
        ("regional_bias", regions, {"models": ["LegoPET"], "dose": 1.0}),
    ):
        run_script(name, tmp_path / f"{name}.png", [str(table)], **params)
