"""What the curves, heat maps and intervals show: values, order and labels."""

import gzip

import numpy as np
import pandas as pd
import pytest

from helpers.measurements import legend_of, regional_rows, write_metrics, write_sweep
from helpers.scripts import run_script
from models.report import curves
from pipeline.storage.errors import InputError


def pixels(axis):
    (image,) = axis.images
    return np.ma.filled(image.get_array(), np.nan)


def lines(axis, label):
    return [line for line in axis.lines if line.get_label() == label]


def test_epochs_draws_means_of_replicates_and_each_of_them(tmp_path):
    made = {
        model: write_sweep(tmp_path / f"{model}.csv", model, settings, names=["epoch"])
        for model, settings in {
            "LegoPET": {(20,): (30, 0.8, 1), (40,): (34, 0.9, 1)},
            "LegoPET-seed2": {(20,): (32, 0.7, 1), (40,): (35, 0.8, 1), (60,): (99, 1, 1)},
            "cDPM": {(20,): (28, 0.6, 1), (40,): (29, 0.7, 1)},
        }.items()
    }
    figure = curves.epochs(
        {"LegoPET": [made["LegoPET"], made["LegoPET-seed2"]], "cDPM": [made["cDPM"]]}
    )
    psnr_db, ssim = figure.axes
    (mean,) = lines(psnr_db, "LegoPET (mean of 2 seeds)")
    assert np.allclose(mean.get_xydata(), [[20, 31], [40, 34.5]])
    (single,) = lines(psnr_db, "cDPM")
    assert np.allclose(single.get_xydata(), [[20, 28], [40, 29]])
    assert len(psnr_db.lines) == 2 + 2  # and one for each seed
    assert sorted(line.get_ydata()[0] for line in psnr_db.lines) == [28, 30, 31, 32]
    assert np.allclose(lines(ssim, "cDPM")[0].get_ydata(), [0.6, 0.7])
    assert (mean.get_color(), mean.get_linestyle(), mean.get_marker()) != (
        single.get_color(),
        single.get_linestyle(),
        single.get_marker(),
    )
    assert (psnr_db.get_xlabel(), psnr_db.get_ylabel()) == ("epoch", "PSNR [dB]")
    assert figure.get_suptitle().startswith("Test split: mean over 2 slices, single samples")
    assert legend_of(figure) == ["LegoPET (mean of 2 seeds)", "cDPM"]


def test_guidance_is_a_table_of_dropout_by_guidance(tmp_path):
    names = ["condition_dropout", "guidance"]
    paths = [
        write_sweep(
            tmp_path / "a.csv",
            "LegoPET-p50",
            {(0.5, 0.0): (30, 0.8, 1), (0.5, 2.0): (33, 0.9, 1)},
            names=names,
        ),
        write_sweep(
            tmp_path / "b.csv",
            "LegoPET",
            {(0.1, 2.0): (31, 0.7, 1), (0.1, 0.0): (36, 0.6, 1), (0.1, 4.0): (20, 0.5, 1)},
            names=names,
        ),
    ]
    figure = curves.guidance(paths)
    psnr_db, ssim = figure.axes[:2]
    assert psnr_db.get_title() == "PSNR [dB]"
    assert np.allclose(pixels(psnr_db), [[36, 31, 20], [30, 33, np.nan]], equal_nan=True)
    assert np.allclose(pixels(ssim), [[0.6, 0.7, 0.5], [0.8, 0.9, np.nan]], equal_nan=True)
    written = ["36.00", "31.00", "20.00", "30.00", "33.00", "–"]
    assert [text.get_text() for text in psnr_db.texts] == written
    assert [text.get_text() for text in psnr_db.get_yticklabels()] == [
        "0.1\nLegoPET",
        "0.5\nLegoPET-p50",
    ]
    assert [text.get_text() for text in psnr_db.get_xticklabels()] == ["0", "2", "4"]
    (best,) = ssim.patches
    assert best.get_bbox().contains(1, 1)
    assert "Validation split" in figure.get_suptitle()


def test_guidance_of_a_model_without_guidance_is_refused(tmp_path):
    path = write_sweep(
        tmp_path / "PnPNet.csv",
        "PnPNet",
        {(np.nan, np.nan): (30, 0.8, 1)},
        names=["condition_dropout", "guidance"],
    )
    with pytest.raises(InputError, match=r"PnPNet\.csv: has rows without condition_dropout"):
        curves.guidance([path])


def test_samplers_are_lines_over_their_steps(tmp_path):
    names = ["sampler", "steps", "eta"]
    settings = {
        ("ddim", 100, 0.0): (33, 0.8, 2),
        ("ddim", 10, 0.0): (30, 0.7, 0.2),
        ("ddim", 10, 0.5): (29, 0.6, 0.2),
        ("ddpm", 1000, 0.0): (34, 0.9, 20),
    }
    paths = [
        write_sweep(tmp_path / f"{model}.csv", model, settings, names=names, samples=8)
        for model in ("LegoPET", "cDPM")
    ]
    figure = curves.samplers(paths)
    psnr_db, ssim, seconds = figure.axes
    (line,) = lines(psnr_db, "LegoPET: ddim, η = 0")
    assert np.allclose(line.get_xydata(), [[10, 30], [100, 33]])
    assert np.allclose(lines(ssim, "cDPM: ddpm")[0].get_xydata(), [[1000, 0.9]])
    assert np.allclose(lines(seconds, "cDPM: ddim, η = 0")[0].get_ydata(), [0.2, 2])
    assert len(psnr_db.lines) == 6
    assert seconds.get_ylabel() == "time per slice [s]"
    assert {psnr_db.get_xscale(), seconds.get_xscale(), seconds.get_yscale()} == {"log"}
    assert len({(each.get_linestyle(), each.get_marker()) for each in psnr_db.lines}) == 6
    assert "means of 8 samples" in figure.get_suptitle()
    assert legend_of(curves.samplers(paths[:1])) == ["ddim, η = 0", "ddim, η = 0.5", "ddpm"]


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
        (line,) = lines(psnr_db, label)
        assert np.array_equal(line.get_xydata(), [[20, values[0]], [30, values[1]]])
    assert np.array_equal(lines(loss, "raw")[0].get_xydata(), [[10, 3], [20, 2], [30, 1]])
    assert legend_of(figure) == ["raw", "empty", "ema (EMA)"]


def test_twenty_lines_differ_without_colours():
    styles = [curves._style(n) for n in range(20)]
    assert len({(style["linestyle"], style["marker"]) for style in styles}) == 20


# --- metrics of the test slices ----------------------------------------------------------------


def test_calibration_is_coverage_over_its_level(tmp_path):
    rows = [
        (model, "mean", f"coverage_{level:.3f}", reference, "head", value + slice_off)
        for model, off in (("LegoPET", 0), ("cDPM", -0.1))
        for reference, shift in (("osem", 0.1), ("truth", 0.0))
        for level, value in ((0.778, 0.6 + off + shift), (0.333, 0.2 + off + shift))
        for slice_off in (-0.05, 0.05)
    ]
    rows.append(("LegoPET", "mean", "psnr_db", "osem", "head", 30.0))
    figure = curves.calibration(write_metrics(tmp_path / "m.csv.gz", rows))
    osem, truth = figure.axes
    assert "OSEM" in osem.get_title()
    assert "truth" in truth.get_title()
    assert np.allclose(lines(osem, "LegoPET")[0].get_xydata(), [[0.333, 0.3], [0.778, 0.7]])
    assert np.allclose(lines(truth, "cDPM")[0].get_xydata(), [[0.333, 0.1], [0.778, 0.5]])
    assert np.array_equal(lines(truth, "calibrated")[0].get_xydata(), [[0, 0], [1, 1]])
    assert legend_of(figure) == ["calibrated", "LegoPET", "cDPM"]


def test_calibration_without_samples_says_so(tmp_path):
    rows = [("PnPNet", "single", "psnr_db", "osem", "image", 30.0)]
    figure = curves.calibration(write_metrics(tmp_path / "m.csv.gz", rows))
    assert "No model drew more than one sample" in figure.texts[0].get_text()


@pytest.fixture
def regions(tmp_path):
    rows = [
        *regional_rows("FBP", [1, 3], [0, 0], [1, 1]),
        *regional_rows("OSEM", [-2, -4], [1, 2], [0.9, 0.8]),
        *regional_rows("cDPM", [-7, -9], [4, 4], [0.7, 0.5]),
        *regional_rows("LegoPET", [-5, -6], [2, 3], [0.8, 0.6]),
        *regional_rows("LegoPET", [50, 50], [50, 50], [50, 50], estimate="mean"),
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
        (recovery, 1, [1, 0.85, 0.7, 0.6]),
    ):
        line, *marks = axis.lines
        assert list(line.get_xdata()) == [ideal, ideal]
        assert np.allclose(np.concatenate([mark.get_xdata() for mark in marks]), means)
        assert [mark.get_ydata()[0] for mark in marks] == [0, 1, 2, 3]
    assert grey.get_title() == "grey matter, true mean 100.0 a.u."
    assert white.get_title() == "white matter, true mean 25.0 a.u."
    assert "[a.u.]" in grey.get_xlabel()
    assert recovery.get_xlabel() == "contrast recovery [1]"


def test_regional_bias_of_an_unknown_model_is_refused(regions):
    with pytest.raises(InputError, match="has no rows of DeepPET"):
        curves.regional_bias(regions, ["LegoPET", "DeepPET"])


# --- tables that cannot be drawn, scripts ------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        (b"", "is not a readable CSV table"),
        (gzip.compress(b"model,metric\n" * 99)[:-20], "is not a readable CSV table"),
        (gzip.compress(b"model,metric\n"), "lacks the columns reference, region, value"),
    ],
)
def test_bad_tables_are_named_with_a_remedy(tmp_path, content, problem):
    path = tmp_path / "metrics.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as error:
        curves.calibration(path)
    assert f"snakemake --cores all -- {path}" in error.value.remedy


def test_a_sweep_without_a_metric_is_refused(tmp_path):
    path = write_sweep(tmp_path / "s.csv", "cDPM", {(20,): (30, 0.8, 1)}, names=["epoch"])
    table = pd.read_csv(path)
    table[table["metric"] != "ssim"].to_csv(path, index=False)
    with pytest.raises(InputError, match=r"s\.csv: has no rows of ssim"):
        curves.epochs({"cDPM": [path]})


def test_scripts_write_their_figures(regions, tmp_path):
    sweep = write_sweep(
        tmp_path / "cDPM.csv",
        "cDPM",
        {(20, "ddpm", 1000, 0.0, 0.1, 0.5): (30, 0.8, 1)},
        names=["epoch", "sampler", "steps", "eta", "condition_dropout", "guidance"],
    )
    log = tmp_path / "log.csv"
    log.write_text("step,loss,validation_psnr_db\n10,1,20\n")
    for name, table, params in (
        ("training_curves", log, {"models": ["cDPM"]}),
        ("epochs", sweep, {"models": ["cDPM"], "rows": {"cDPM": ["cDPM"]}}),
        ("guidance", sweep, {}),
        ("samplers", sweep, {}),
        ("calibration", regions, {}),
        ("regional_bias", regions, {"models": ["LegoPET"]}),
    ):
        run_script(name, tmp_path / f"{name}.png", [str(table)], **params)
