"""Factors from validation subjects, and what the metrics of test subjects make of them."""

import json

import h5py
import numpy as np
import pytest

from helpers.reconstructions import SCALE, make_reconstruction
from helpers.small_models import make_shard
from models.conformal import FLOOR, conformal_factor, interval_levels
from models.dataset import Scales
from models.evaluation.calibrate import calibrate
from models.evaluation.catalogue import CALIBRATED, ordered
from models.evaluation.evaluate import evaluate
from models.evaluation.factors import Factors, read_factors, write_factors
from models.evaluation.metrics_table import read_table
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION

COUNT, SCALES = 5, Scales(50.0, SCALE)
LEVELS = interval_levels(COUNT)


def subject(folder, name, seed, model="LegoPET", samples=COUNT, **attributes):
    """A shard of two rotations, and a reconstruction with errors larger than its spread."""
    shard = make_shard(
        folder / f"{name}.h5", subject=name, slices=8, size=32, seed=seed, rotations=2
    )
    path = folder / f"{name}-{model}.h5"
    how = {"error": 10.0, "spread": 3.0, "samples": samples, "seed": seed, **attributes}
    return make_reconstruction(path, shard, model, **how), shard


@pytest.fixture
def validation(tmp_path):
    return [subject(tmp_path, f"subject{n}", n) for n in (18, 19)]


@pytest.fixture
def fitted(validation, tmp_path):
    output = tmp_path / "LegoPET.json"
    calibrate("LegoPET", *zip(*validation, strict=True), output)
    return output


def attributes_of(path):
    with hdf5.opened(path, RECONSTRUCTION) as file:
        return dict(file.attrs)


def test_factors_are_quantiles_over_all_pixels_of_the_heads(validation, fitted):
    factors = read_factors(fitted, attributes_of(validation[0][0]))
    assert factors.floor == pytest.approx(FLOOR * SCALE)
    for reference, dataset in (("osem", "osem"), ("truth", "activity")):
        found = []
        for path, shard in validation:
            with h5py.File(path) as file, h5py.File(shard) as data:
                samples, head = file["samples"][()].astype(float), data["labels"][()] > 0
                error = abs(data[dataset][()] - samples.mean(axis=1))
                found.append((error / samples.std(axis=1, ddof=1))[head])
        pixels = np.concatenate(found)
        expected = {level: conformal_factor(pixels.copy(), level) for level in LEVELS}
        assert factors.of[reference] == pytest.approx(expected, rel=1e-4)
    facts = json.loads(fitted.read_text())
    assert facts["subjects"] == ["subject18", "subject19"]
    assert facts["pixels"] == len(pixels)
    assert facts["samples"] == COUNT


def test_metrics_of_a_test_subject_have_calibrated_intervals(fitted, tmp_path):
    path, shard = subject(tmp_path, "subject41", 41)
    plain = subject(tmp_path, "subject41", 41, model="PnPNet", samples=1)[0]
    files = {"PnPNet": plain, "LegoPET": path}
    evaluate(shard, files, SCALES, tmp_path / "m.csv", {"LegoPET": fitted})
    table = read_table(tmp_path / "m.csv")
    names = {name for metric, (name, *_) in ordered() if metric.of == CALIBRATED}
    found = table[table["metric"].str.startswith(tuple(names))]
    assert set(found["model"]) == {"LegoPET"}
    assert set(found["estimate"]) == {"mean"}
    assert set(found["region"]) == {"head"}
    means = found.groupby(["metric", "reference"])["value"].mean()
    raw = table.groupby(["metric", "reference"])["value"].mean()
    with h5py.File(path) as file, h5py.File(shard) as data:
        deviation, head = file["std"][()], data["labels"][()] > 0
    factors = read_factors(fitted, attributes_of(path)).of
    for reference in ("osem", "truth"):
        for level in LEVELS:
            covered = means[f"coverage_calibrated_{level:.3f}", reference]
            assert covered == pytest.approx(level, abs=0.04)  # some 1600 pixels with own errors
            assert raw[f"coverage_{level:.3f}", reference] < level - 0.1
            width = means[f"width_calibrated_{level:.3f}", reference]
            slices = [deviation[n][head[n]].mean() for n in range(len(head))]
            expected = 2 * factors[reference][level] * np.mean(slices)
            assert width == pytest.approx(expected, rel=1e-4)
            assert width > 1.5 * raw[f"width_{level:.3f}", ""]


def test_without_factors_nothing_is_calibrated(tmp_path):
    path, shard = subject(tmp_path, "subject41", 41)
    evaluate(shard, {"LegoPET": path}, SCALES, tmp_path / "m.csv")
    table = read_table(tmp_path / "m.csv")
    assert not table["metric"].str.contains("calibrated").any()
    assert table["metric"].str.startswith("width_").any()


def test_factors_are_written_as_they_are_read(fitted, validation, tmp_path):
    attributes = attributes_of(validation[0][0])
    factors = Factors(0.1, {"osem": {2 / 3: 1 / 3}, "truth": {1 / 3: 7.0}})
    write_factors(tmp_path / "x.json", factors, attributes_of_json(fitted))
    assert read_factors(tmp_path / "x.json", attributes) == factors


def attributes_of_json(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 6}, "of images with samples 5, not 6"),
        ({"weights_sha256": "f" * 64}, "of images with weights_sha256 0123"),
        ({"steps": 9}, "of images with steps 4, not 9"),
        ({"model": "cDPM"}, "of images with model LegoPET, not cDPM"),
    ],
)
def test_factors_of_other_samples_are_refused(fitted, validation, change, words):
    attributes = attributes_of(validation[0][0]) | change
    with pytest.raises(InputError, match=words):
        read_factors(fitted, attributes)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", "[" * 100_000, '{"model": "LegoPET"}', "\x00"],
    ids=lambda text: text[:10],
)
def test_a_file_of_factors_that_is_none_is_named(fitted, validation, text):
    fitted.write_text(text)
    with pytest.raises(InputError, match=r"LegoPET\.json: is no file of factors"):
        read_factors(fitted, attributes_of(validation[0][0]))
    fitted.unlink()
    with pytest.raises(InputError, match=r"LegoPET\.json: does not exist"):
        read_factors(fitted, attributes_of(validation[0][0]))


@pytest.mark.parametrize("floor", ["NaN", "0", "-1", "Infinity", "1" + "0" * 400, '"much"', "[]"])
def test_factors_are_numbers_above_zero(fitted, validation, floor):
    text = fitted.read_text().replace('"floor": 0.15', f'"floor": {floor}')
    assert floor in text
    fitted.write_text(text)
    with pytest.raises(InputError, match=r"LegoPET\.json: is no file of factors"):
        read_factors(fitted, attributes_of(validation[0][0]))


def test_reconstructions_that_do_not_belong_together_are_refused(validation, tmp_path):
    (first, shard), (_, other) = validation
    output = tmp_path / "out.json"
    with pytest.raises(InputError, match="was made of other slices"):
        calibrate("LegoPET", [first, first], [shard, other], output)
    with pytest.raises(InputError, match="is by LegoPET, not by cDPM"):
        calibrate("cDPM", [first], [shard], output)
    single, other = subject(tmp_path, "subject20", 20, samples=1)
    with pytest.raises(InputError, match="has one sample a slice, and so no spread"):
        calibrate("LegoPET", [single], [other], output)
    slower, other = subject(tmp_path, "subject21", 21, steps=8)
    with pytest.raises(InputError, match=r"subject21-LegoPET\.h5: was sampled otherwise than .*18"):
        calibrate("LegoPET", [first, slower], [shard, other], output)
    with h5py.File(shard, "r+") as file:
        file["labels"][...] = 0
    with pytest.raises(InputError, match="has 0 pixels inside the head"):
        calibrate("LegoPET", [first], [shard], output)
    assert not output.exists()
