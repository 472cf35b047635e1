"""Pixels and values that are not numbers stop whatever meets them; none is taken for absent."""

import diffusers
import h5py
import numpy as np
import pandas as pd
import pytest

from helpers.measurements import write_sweep
from helpers.small_models import job, make_shard, settings
from helpers.table1 import ROWS, make
from helpers.trainings import run, split
from models.dataset import Scales
from models.evaluation.measure import measure, tidy
from models.evaluation.metrics_table import read_table
from models.evaluation.slices import Slices
from models.evaluation.sweep import sweep
from models.reconstruct import reconstruct
from models.registry import load
from models.report import sweeps
from models.settings import Sweep
from pipeline.storage.errors import InputError

SAMPLERS = {
    "ddpm": diffusers.DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "dpm-solver++": diffusers.DPMSolverMultistepScheduler,
}
CONFIG = settings()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """PnPNet and LegoPET with their data, and a shard of five slices."""
    folder = tmp_path_factory.mktemp("study")
    data = split(folder)
    features = run(folder, data, "p", config=CONFIG)
    weights = run(folder, data, "l", "LegoPET", features, CONFIG)
    return folder, data, features, weights, make_shard(folder / "s.h5", subject="subject42", seed=3)


def break_step(monkeypatch, sampler, number, bad=float("nan")):
    """Have one pixel of the batch's last slice wrong after the ``number``-th step of a sampler."""
    kind, calls = SAMPLERS[sampler], []
    plain = kind.step

    def step(self, estimate, t, x, *rest, **options):
        result = plain(self, estimate, t, x, *rest, **options)
        calls.append(t)
        if len(calls) == number:
            result.prev_sample[-1, 0, 3, 4] = bad
        return result

    monkeypatch.setattr(kind, "step", step)


def sampled(sampler, steps):
    return {**CONFIG, "sampling": {**CONFIG["sampling"], "sampler": sampler, "steps": steps}}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("sampler", "steps", "number", "t"),
    [("ddpm", 10, 3, 799), ("ddim", 4, 4, 249), ("dpm-solver++", 5, 1, 999)],
)
def test_reconstruct_names_sampler_step_and_slice(
    study, tmp_path, monkeypatch, sampler, steps, number, t, bad
):
    _, _, features, weights, shard = study
    break_step(monkeypatch, sampler, number, bad)
    output = tmp_path / "r.h5"
    config = sampled(sampler, steps)
    with pytest.raises(InputError) as caught:
        reconstruct(weights, shard, output, job(config, "LegoPET"), features, threads=1)
    assert caught.value.where == f"{sampler}, step {number} of {steps} (t = {t})"
    assert caught.value.problem == (
        "gave pixels that are not finite on subject42, rotation 0, slice 11"
    )
    assert not output.exists()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sweep_names_them_and_writes_nothing(study, tmp_path, monkeypatch, sampler):
    _, _, features, weights, shard = study
    before = sampler == CONFIG["sampling"]["sampler"]  # a step that warms up, of no setting's time
    break_step(monkeypatch, sampler, 2 + before)
    varied = Sweep(["LegoPET"], 2, [{"sampler": sampler, "steps": 5}])
    output = tmp_path / "sweep.csv"
    with pytest.raises(InputError, match="not finite on subject42, rotation 0, slice 14") as caught:
        sweep([weights], [shard], output, job(CONFIG, "LegoPET"), varied, features, threads=1)
    assert caught.value.where.startswith(f"{sampler}, step 2 of 5")
    assert not output.exists()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_validation_names_them_and_training_stops(study, tmp_path, monkeypatch, sampler):
    _, data, features, _, _ = study
    break_step(monkeypatch, sampler, 2)
    config = settings(training__validation_sampling__sampler=sampler)
    with pytest.raises(InputError, match="not finite on subject20, rotation 0, slice 12") as caught:
        run(tmp_path, data, "l", "LegoPET", features, config)
    assert caught.value.where.startswith(f"{sampler}, step 2 of 2")
    assert not (tmp_path / "l" / "LegoPET.safetensors").exists()
    (log,) = (tmp_path / "l" / "run").glob("*/log.csv")
    assert "nan" not in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "where"), [("PnPNet", "PnPNet"), ("LegoPET", "LegoPET, ddim with 4")]
)
def test_images_of_any_method_are_looked_at(study, tmp_path, monkeypatch, name, where):
    """Whatever of a method goes wrong: here all that it predicts for the slices of odd numbers."""
    _, data, features, weights, shard = study
    plain = load(name).predict

    def predict(self, inputs, keys, *rest):
        images = plain(self, inputs, keys, *rest).clone()
        for image, key in zip(images, keys, strict=True):
            if key.slice_index % 2:
                image.fill_(np.nan)
        return images

    monkeypatch.setattr(load(name), "predict", predict)
    paths = (features, None) if name == "PnPNet" else (weights, features)
    with pytest.raises(InputError, match="on subject42, rotation 0, slice 11") as caught:
        reconstruct(paths[0], shard, tmp_path / "r.h5", job(CONFIG, name), paths[1], threads=1)
    assert caught.value.where.startswith(where)
    varied = Sweep([name], 3, [{}])
    output = tmp_path / "s.csv"
    sweep([paths[0]], [shard], output, job(CONFIG, name), varied, paths[1], threads=1)  # 10 12 14
    varied = Sweep([name], 5, [{}])
    with pytest.raises(InputError, match="slice 11"):
        sweep([paths[0]], [shard], output, job(CONFIG, name), varied, paths[1], threads=1)
    config = settings(training__validation_slices=3)  # 10, 11, 12
    with pytest.raises(InputError, match="on subject20, rotation 0, slice 11") as caught:
        run(tmp_path, data, "t", name, paths[1], config)
    assert "validation after step 3" in caught.value.where


# --- values ------------------------------------------------------------------------------------


def slices_of(tmp_path):
    with h5py.File(make_shard(tmp_path / "s.h5", subject="subject42", slices=4)) as file:
        return Slices.read(file, np.arange(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_metrics_of_broken_images_are_refused(tmp_path, bad):
    slices = slices_of(tmp_path)
    images = slices.osem.copy()
    images[1, 8, 8] = bad
    values = measure(images, slices, Scales(50.0, 128.0))
    with pytest.raises(InputError, match="on subject42, rotation 0, slice 11") as caught:
        tidy(slices, {"model": "cDPM"}, values)
    assert caught.value.where == "images by cDPM"


@pytest.mark.parametrize("metric", ["psnr_db", "ssim", "reconstruction_seconds"])
def test_metrics_that_always_exist_must_be_numbers(tmp_path, metric):
    slices = slices_of(tmp_path)
    scales = Scales(50.0, 128.0)
    values = measure(slices.fbp, slices, scales, references=["osem"], regions=["image"])
    values["reconstruction_seconds", "", ""] = np.ones(4)
    assert len(tidy(slices, {"model": "FBP"}, values)) == 4 * len(values)
    for key, found in values.items():
        if key[0] == metric:
            found[[0, 3]] = np.nan
    with pytest.raises(InputError) as caught:
        tidy(slices, {"model": "FBP"}, values)
    assert caught.value.problem == (
        f"their {metric} is not a number on subject42, rotation 0, slice 10; "
        "subject42, rotation 0, slice 13"
    )


def edited(path, value=None, **where):
    """Give the chosen lines of a table another value, or take them out."""
    table = pd.read_csv(path)
    chosen = np.logical_and.reduce([table[name] == wanted for name, wanted in where.items()])
    assert chosen.any()
    if value is None:
        table = table[~chosen]
    else:
        table.loc[chosen, "value"] = value
    table.to_csv(path, index=False)
    return path


LINE = {"model": "cDPM", "estimate": "single", "subject": "subject41", "slice_index": 11}
PSNR = {"metric": "psnr_db", "reference": "osem", "region": "image"}


@pytest.mark.parametrize(
    ("value", "line", "problem"),
    [
        (np.nan, PSNR, "has a line without a value"),
        (np.nan, {"metric": "mean_error"}, "has a line without a value"),
        (None, PSNR, "lacks finite values of psnr_db_osem_image of cDPM: 2 images"),
        (np.inf, PSNR, "lacks finite values of psnr_db_osem_image of cDPM: 2 images"),
        (None, PSNR | {"metric": "ssim"}, "lacks finite values of ssim_osem_image of cDPM"),
    ],
    ids=str,
)
def test_the_table_averages_no_incomplete_metric(metrics, tmp_path, value, line, problem):
    path = edited(metrics, value, **LINE, **line)
    with pytest.raises(InputError, match=problem):
        make(path, ROWS, tmp_path)
    assert not (tmp_path / "csv").exists()


def test_the_table_leaves_out_what_does_not_exist(metrics, tmp_path):
    make(edited(metrics, None, **LINE, metric="mean_error"), ROWS, tmp_path)
    make(edited(metrics, None, **LINE, metric="ssim", region="head"), ROWS, tmp_path)


@pytest.mark.parametrize(("value", "problem"), [(np.nan, "without a value"), (None, "has no rows")])
@pytest.mark.parametrize("metric", ["psnr_db", "ssim", "reconstruction_seconds"])
def test_a_sweep_with_missing_values_is_not_drawn(tmp_path, metric, value, problem):
    """As they were written of settings that gave NaN: all but these settings looked well."""
    names = ["sampler", "steps", "eta"]
    path = write_sweep(
        tmp_path / "s.csv",
        "LegoPET",
        {("ddim", 10, 0.0): (33, 0.8, 2), ("dpm-solver++", 10, 0.0): (30, 0.7, 0.2)},
        names,
    )
    sweeps.samplers([path])
    edited(path, value, sampler="dpm-solver++", metric=metric)
    with pytest.raises(InputError, match=problem):
        sweeps.samplers([path])


def test_tables_of_a_sweep_have_every_value(study, tmp_path):
    _, _, features, weights, shard = study
    changes = [{"steps": 1}, {"sampler": "dpm-solver++", "steps": 1}]
    varied = Sweep(["LegoPET"], 5, changes)
    output = tmp_path / "sweep.csv"
    sweep([weights], [shard], output, job(CONFIG, "LegoPET"), varied, features, threads=1)
    assert read_table(output).groupby(["sampler", "metric", "reference"]).size().eq(5).all()
