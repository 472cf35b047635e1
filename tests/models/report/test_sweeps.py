"""What the figures of the sweeps show: values, order and labels."""

import numpy as np
import pandas as pd
import pytest

from helpers.measurements import legend_of, lines_of, write_sweep
from models.report import sweeps
from pipeline.storage.errors import InputError


def pixels(axis):
    (image,) = axis.images
    return np.ma.filled(image.get_array(), np.nan)


def test_epochs_draws_means_of_replicates_and_each_of_them(tmp_path):
    made = {
        model: write_sweep(tmp_path / f"{model}.csv", model, settings, names=["epoch"])
        for model, settings in {
            "LegoPET": {(20,): (30, 0.8, 1), (40,): (34, 0.9, 1)},
            "LegoPET-seed2": {(20,): (32, 0.7, 1), (40,): (35, 0.8, 1), (60,): (99, 1, 1)},
            "cDPM": {(20,): (28, 0.6, 1), (40,): (29, 0.7, 1)},
        }.items()
    }
    figure = sweeps.epochs(
        {"LegoPET": [made["LegoPET"], made["LegoPET-seed2"]], "cDPM": [made["cDPM"]]}
    )
    psnr_db, ssim = figure.axes
    (mean,) = lines_of(psnr_db, "LegoPET (mean of 2 seeds)")
    assert np.allclose(mean.get_xydata(), [[20, 31], [40, 34.5]])
    (single,) = lines_of(psnr_db, "cDPM")
    assert np.allclose(single.get_xydata(), [[20, 28], [40, 29]])
    assert len(psnr_db.lines) == 2 + 2  # and one for each seed
    assert sorted(line.get_ydata()[0] for line in psnr_db.lines) == [28, 30, 31, 32]
    assert np.allclose(lines_of(ssim, "cDPM")[0].get_ydata(), [0.6, 0.7])
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
    figure = sweeps.guidance(paths)
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
        sweeps.guidance([path])


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
    figure = sweeps.samplers(paths)
    psnr_db, ssim, seconds = figure.axes
    (line,) = lines_of(psnr_db, "LegoPET: ddim, η = 0")
    assert np.allclose(line.get_xydata(), [[10, 30], [100, 33]])
    assert np.allclose(lines_of(ssim, "cDPM: ddpm")[0].get_xydata(), [[1000, 0.9]])
    assert np.allclose(lines_of(seconds, "cDPM: ddim, η = 0")[0].get_ydata(), [0.2, 2])
    assert len(psnr_db.lines) == 6
    assert seconds.get_ylabel() == "time per slice [s]"
    assert {psnr_db.get_xscale(), seconds.get_xscale(), seconds.get_yscale()} == {"log"}
    assert len({(each.get_linestyle(), each.get_marker()) for each in psnr_db.lines}) == 6
    assert "means of 8 samples" in figure.get_suptitle()
    assert legend_of(sweeps.samplers(paths[:1])) == ["ddim, η = 0", "ddim, η = 0.5", "ddpm"]


def test_samplers_that_differ_in_more_are_lines_of_their_own(tmp_path):
    names = ["sampler", "steps", "eta", "antithetic", "consistency_steps"]
    settings = {
        ("dpm-solver++", 10, 0.0, 0, 0): (30, 0.7, 1),
        ("dpm-solver++", 10, 0.0, 1, 0): (32, 0.8, 1),
        ("dpm-solver++", 10, 0.0, 1, 2): (34, 0.9, 1),
    }
    path = write_sweep(tmp_path / "s.csv", "cDPM", settings, names=names, samples=8)
    psnr_db = sweeps.samplers([path]).axes[0]
    found = {line.get_label(): line.get_ydata().tolist() for line in psnr_db.lines}
    assert found == {
        "dpm-solver++, antithetic 0, 0 EM steps": [30],
        "dpm-solver++, antithetic 1, 0 EM steps": [32],
        "dpm-solver++, antithetic 1, 2 EM steps": [34],
    }


def test_single_samples_beside_means_at_a_dose_say_so(tmp_path):
    settings = {
        ("dpm-solver++", 2, 0.0, 1, 0): (29, 0.7, 1),
        ("dpm-solver++", 20, 0.0, 1, 0): (26, 0.8, 1),
        ("dpm-solver++", 20, 0.0, 10, 1): (30, 0.9, 1),
    }
    names = ["sampler", "steps", "eta", "samples", "antithetic"]
    path = write_sweep(tmp_path / "s.csv", "cDPM", settings, names=names, dose=0.05)
    figure = sweeps.samplers([path])
    axis = figure.axes[0]
    found = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    assert found == {
        "dpm-solver++, single": [[2, 29], [20, 26]],
        "dpm-solver++, mean of 10": [[20, 30]],
    }
    assert figure.get_suptitle().startswith(
        "Validation split, 5 % of the counts: mean over 2 slices, single samples and means of 10"
    )
    figure.draw_without_rendering()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "20"]


def test_the_title_of_a_small_table_is_not_cut(tmp_path):
    names, made = ["condition_dropout", "guidance"], {(0.1, 0.0): (30, 0.8, 1)}
    facts = {"names": names, "slices": 100, "samples": 16, "dose": 0.05}
    figure = sweeps.guidance([write_sweep(tmp_path / "a.csv", "cDPM", made, **facts)], "truth")
    figure.draw_without_rendering()
    (title,) = (text for text in figure.texts if text.get_text() == figure.get_suptitle())
    box = title.get_window_extent()
    assert "5 % of the counts: mean over 100 slices, means of 16 samples" in title.get_text()
    assert box.x0 > 0
    assert box.x1 < figure.bbox.x1


@pytest.mark.parametrize("figure", ["consistency", "guidance"])
@pytest.mark.parametrize(("name", "values"), [("steps", (10, 20)), ("antithetic", (0, 1))])
def test_what_a_figure_does_not_show_is_not_averaged(tmp_path, figure, name, values):
    shown = {"consistency_steps": 1, "consistency_strength": 1.0, "consistency_start": 0.0}
    shown |= {"guidance": 0.5, "condition_dropout": 0.1}
    settings = {(*shown.values(), value): (30 + value, 0.7, 1) for value in values}
    path = write_sweep(tmp_path / "s.csv", "cDPM", settings, names=[*shown, name])
    with pytest.raises(InputError, match=f"s.csv: are of entries with different {name}: "):
        getattr(sweeps, figure)([path])


def test_epochs_of_different_samplings_are_not_averaged(tmp_path):
    settings = {(10, 50): (30, 0.7, 1), (10, 20): (28, 0.7, 1)}
    path = write_sweep(tmp_path / "s.csv", "cDPM", settings, names=["epoch", "steps"])
    with pytest.raises(InputError, match="different steps: 20, 50"):
        sweeps.epochs({"cDPM": [path]})


def test_consistency_is_lines_over_em_steps_that_begin_without(tmp_path):
    names = ["consistency_steps", "consistency_strength", "consistency_start"]
    settings = {
        (0, 0.0, 0.0): (30, 0.7, 1),
        (2, 1.0, 0.0): (32, 0.8, 2),
        (1, 1.0, 0.0): (31, 0.75, 1.5),
        (1, 0.5, 0.25): (33, 0.85, 1.25),
    }
    paths = [
        write_sweep(tmp_path / f"{model}.csv", model, settings, names=names)
        for model in ("LegoPET", "cDPM")
    ]
    figure = sweeps.consistency(paths)
    psnr_db, ssim, seconds = figure.axes
    (line,) = lines_of(psnr_db, "LegoPET: strength 1, from 0 on")
    assert np.allclose(line.get_xydata(), [[0, 30], [1, 31], [2, 32]])
    (line,) = lines_of(ssim, "cDPM: strength 0.5, from 0.25 on")
    assert np.allclose(line.get_xydata(), [[0, 0.7], [1, 0.85]])
    assert np.allclose(lines_of(seconds, "cDPM: strength 1, from 0 on")[0].get_ydata(), [1, 1.5, 2])
    assert len(psnr_db.lines) == 4
    assert len({(each.get_linestyle(), each.get_marker()) for each in psnr_db.lines}) == 4
    assert "Validation split" in figure.get_suptitle()
    alone = write_sweep(tmp_path / "off.csv", "cDPM", {(0, 0.0, 0.0): (30, 0.7, 1)}, names=names)
    (line,) = sweeps.consistency([alone]).axes[0].lines
    assert np.allclose(line.get_xydata(), [[0, 30]])


def test_a_sweep_without_a_metric_is_refused(tmp_path):
    path = write_sweep(tmp_path / "s.csv", "cDPM", {(20,): (30, 0.8, 1)}, names=["epoch"])
    table = pd.read_csv(path)
    table[table["metric"] != "ssim"].to_csv(path, index=False)
    with pytest.raises(InputError, match=r"s\.csv: has no rows of ssim"):
        sweeps.epochs({"cDPM": [path]})
