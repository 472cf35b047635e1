"""One of many is the middle one, wherever a few slices stand for all; and has no interval."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_models import job, make_shard, settings
from helpers.trainings import run, split
from models.dataset import Scales, ShardSlices
from models.evaluation.bootstrap import Bootstrap
from models.evaluation.metrics_table import COLUMNS, write_table
from models.evaluation.sweep import sweep
from models.registry import load
from models.report.table1 import table1
from models.settings import Sweep
from pipeline.slices import brain_slices

pytestmark = pytest.mark.usefixtures("one_thread")


# --- slices --------------------------------------------------------------------------------------


@given(planes=st.integers(1, 90), below=st.integers(0, 40), above=st.integers(0, 40))
def test_one_slice_of_a_brain_is_its_middle(planes, below, above):
    labels = np.zeros((below + planes + above, 1, 1), np.uint8)
    labels[below : below + planes] = 2
    chosen = brain_slices(labels, 1.0, 1.0, len(labels), 1)
    assert abs(chosen - (below + (planes - 1) / 2)).max() <= 0.5


@given(planes=st.integers(2, 90), below=st.integers(0, 40), count=st.integers(2, 90))
def test_several_reach_from_one_end_of_the_brain_to_the_other(planes, below, count):
    labels = np.zeros((below + planes, 1, 1), np.uint8)
    labels[below:] = 3
    count = min(count, planes)
    chosen = brain_slices(labels, 1.0, 1.0, len(labels), count)
    expected = np.rint(np.linspace(below, below + planes - 1, count))
    np.testing.assert_array_equal(chosen, expected)


@pytest.mark.parametrize("rotations", [1, 2, 3, 4])
@pytest.mark.parametrize("subjects", [1, 2, 3])
def test_one_slice_of_many_volumes_is_the_middle_of_one(tmp_path, rotations, subjects):
    """Also where the middle of the list is the border of two rotations or subjects."""
    paths = [
        make_shard(
            tmp_path / f"{n}.h5", subject=f"subject4{n}", slices=7 * rotations, rotations=rotations
        )
        for n in range(subjects)
    ]
    slices = ShardSlices(paths, 16, Scales(1, 1), ["sinogram"])
    (chosen,) = slices.evenly_spaced(1)
    assert slices.keys[chosen].slice_index == 13  # of 10 to 16
    total = 7 * rotations * subjects
    assert slices.evenly_spaced(2) == [0, total - 1]
    assert slices.evenly_spaced(3) == [0, round((total - 1) / 2), total - 1]
    assert slices.evenly_spaced(total) == slices.evenly_spaced(9999) == list(range(total))


def test_training_is_validated_on_the_middle_slice(tmp_path, monkeypatch):
    seen, plain = [], load("PnPNet").predict

    def predict(self, inputs, keys, *rest):
        seen.extend(key.slice_index for key in keys)
        return plain(self, inputs, keys, *rest)

    monkeypatch.setattr(load("PnPNet"), "predict", predict)
    run(tmp_path, split(tmp_path), "run", config=settings(training__validation_slices=1))
    assert set(seen) == {11}  # of 10 to 12


@pytest.mark.parametrize("rotations", [1, 2])
def test_a_sweep_of_one_slice_takes_the_middle_one(tmp_path, rotations):
    config = settings()
    weights = run(tmp_path, split(tmp_path), "run", config=config)
    shard = make_shard(tmp_path / "s.h5", slices=5 * rotations, rotations=rotations)
    varied = Sweep(["PnPNet"], 1, [{}])
    output = tmp_path / "sweep.csv"
    sweep([weights], [shard], output, job(config, "PnPNet"), varied, None, threads=1)
    assert set(pd.read_csv(output)["slice_index"]) == {12}  # of 10 to 14


# --- intervals -----------------------------------------------------------------------------------


def rows(model, slices, rotations, psnr_db):
    for slice_index in slices:
        for rotation in range(rotations):
            for reference in ("osem", "truth"):
                yield {
                    "model": model,
                    "method": model.partition("-")[0],
                    "conditioning": "sinogram",
                    "estimate": "single",
                    "sampler": "ddim",
                    "samples": 1,
                    "subject": "subject41",
                    "dose": 1.0,
                    "slice_index": slice_index,
                    "rotation": rotation,
                    "metric": "psnr_db",
                    "reference": reference,
                    "region": "image",
                    "value": psnr_db + slice_index + rotation,
                }


def made(folder, slices, rotations, seeds):
    """Table 1 of so many slices and seeds of LegoPET and cDPM: contents by name."""
    groups = {
        name: [name if seed == 0 else f"{name}-seed{seed}" for seed in range(seeds)]
        for name in ("cDPM", "LegoPET")
    }
    lines = [
        row
        for name, models in groups.items()
        for seed, model in enumerate(models)
        for row in rows(model, range(slices), rotations, (6 if name == "cDPM" else 8) + seed)
    ]
    table = pd.DataFrame(lines, columns=list(COLUMNS)).astype(COLUMNS)
    write_table([table], folder / "metrics.csv.gz")
    paths = {name: folder / name for name in ("csv", "differences", "markdown", "latex", "html")}
    outputs = {f"output_{name}": path for name, path in paths.items()}
    table1(folder / "metrics.csv.gz", groups, {}, **outputs)
    return paths


@pytest.mark.parametrize("rotations", [1, 3])
def test_one_slice_of_one_seed_has_no_interval(tmp_path, rotations):
    paths = made(tmp_path, 1, rotations, 1)
    for name in ("csv", "differences"):
        table = pd.read_csv(paths[name])
        assert table["psnr_db_osem_image"].notna().all()
        ends = table.filter(regex="_(low|high)$")
        assert ends.shape[1] > 4
        assert ends.isna().all(axis=None)
    mean = f"{6 + (rotations - 1) / 2:.2f}"
    for name, cell in (
        ("markdown", f"| {mean} |"),
        ("latex", f"{{{mean}}}"),
        ("html", f"<td>{mean}</td>"),
    ):
        assert cell in paths[name].read_text()


@pytest.mark.parametrize(("slices", "seeds"), [(2, 1), (1, 2), (5, 1)])
def test_two_of_either_have_one(tmp_path, slices, seeds):
    paths = made(tmp_path, slices, 1, seeds)
    table = pd.read_csv(paths["csv"])
    assert (table["psnr_db_osem_image_low"] < table["psnr_db_osem_image_high"]).all()
    assert pd.read_csv(paths["differences"])["psnr_db_osem_image_low"].notna().all()
    for name in ("markdown", "latex", "html"):
        mean = f"{6 + (slices - 1) / 2 + (seeds - 1) / 2:.2f}"
        assert f"{mean} [" in paths[name].read_text()


@given(
    subjects=st.integers(1, 3),
    slices=st.integers(1, 4),
    rotations=st.integers(1, 2),
    replicates=st.integers(1, 3),
    data=st.data(),
)
def test_an_interval_needs_two_that_have_a_value(subjects, slices, rotations, replicates, data):
    """Of many images, one alone may have a value: contrast recovery exists in some slices."""
    index = pd.MultiIndex.from_product([range(subjects), range(slices), range(rotations)])
    images = index.to_frame(index=False, name=["subject", "slice_index", "rotation"])
    values = np.full((replicates, len(images)), np.nan)
    image = data.draw(st.integers(0, len(images) - 1))
    values[data.draw(st.integers(0, replicates - 1)), image] = 4.0
    bootstrap = Bootstrap(images, draws=50)
    mean, low, high = bootstrap.interval(values)
    assert mean == 4
    assert np.isnan([low, high]).all()
    if subjects * slices > 1:
        values[:, (image + rotations) % len(images)] = 4.0
        assert bootstrap.interval(values) == (4.0, 4.0, 4.0)
