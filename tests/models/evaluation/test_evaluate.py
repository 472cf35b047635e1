import gzip

import h5py
import numpy as np
import pandas as pd
import pytest
from skimage.metrics import structural_similarity

from helpers.reconstructions import SCALE, make_reconstruction
from helpers.small_models import make_shard
from models.dataset import Scales
from models.evaluation.catalogue import IMAGES, SAMPLES, ordered
from models.evaluation.evaluate import evaluate
from models.evaluation.measure import measure, tidy
from models.evaluation.metrics_table import (
    COLUMNS,
    join_tables,
    read_parts,
    read_table,
    write_table,
)
from models.evaluation.slices import Slices
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION

KEY = ["subject", "rotation", "slice_index", "model", "estimate", "metric", "reference", "region"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two shards of three slices in two rotations; a model without and one with five samples."""
    folder = tmp_path_factory.mktemp("made")
    shards = [
        make_shard(folder / f"{n}.h5", subject=f"subject{n}", slices=3, seed=n) for n in (42, 43)
    ]
    for path in shards:
        with h5py.File(path, "r+") as file:
            file["rotation"][:] = [0, 1, 0]
            file["rotation_deg"][:] = [0, -7.5, 0]
            file["slice_index"][:] = [10, 10, 11]
    reconstructions = [
        {
            model: make_reconstruction(
                folder / f"{model}-{n}.h5", shard, model, samples=samples, seed=n
            )
            for model, samples in (("PnPNet", 1), ("LegoPET-fbp", 5))
        }
        for n, shard in enumerate(shards)
    ]
    (folder / "metrics").mkdir()
    tables = [folder / "metrics" / f"{shard.stem}.csv.gz" for shard in shards]
    for shard, files, table in zip(shards, reconstructions, tables, strict=True):
        evaluate(shard, files, Scales(50.0, SCALE), table)
    join_tables(tables, folder / "metrics.csv.gz")
    return shards, reconstructions, folder / "metrics.csv.gz"


def value(table, metric, reference, region, **where):
    """The one value of a table with these properties."""
    where = {"metric": metric, "reference": reference, "region": region, **where}
    chosen = table[np.logical_and.reduce([table[name] == wanted for name, wanted in where.items()])]
    (found,) = chosen["value"]
    return found


def test_table_has_one_row_per_slice_estimate_and_metric(made):
    table = read_table(made[2])
    assert list(table.columns) == list(COLUMNS)
    assert not table.duplicated(KEY).any()
    assert np.isfinite(table["value"]).all()
    assert list(table["model"].unique()) == ["FBP", "OSEM", "PnPNet", "LegoPET-fbp"]
    estimates = table.groupby("model")["estimate"].unique().map(set).to_dict()
    assert estimates == {
        "FBP": {"single"},
        "OSEM": {"single"},
        "PnPNet": {"single"},
        "LegoPET-fbp": {"single", "mean"},
    }
    images = {key for metric, key in ordered() if metric.of == IMAGES}
    levels = ("_0.667", "_0.333")
    samples = {
        (f"{name}{level}", *place)
        for metric, (name, *place) in ordered()
        if metric.of == SAMPLES
        for level in (levels if name in ("coverage", "width") else ("",))
    }
    expected = {"PnPNet": images, "LegoPET-fbp": images | samples}
    expected["OSEM"] = {key for key in expected["PnPNet"] if key[1] != "osem"}
    for model, keys in expected.items():
        rows = table[table["model"] == model]
        assert set(zip(rows["metric"], rows["reference"], rows["region"], strict=True)) == keys
    slices = table[["subject", "rotation", "slice_index"]].drop_duplicates()
    assert sorted(map(tuple, slices.to_numpy())) == [
        (f"subject{n}", *key) for n in (42, 43) for key in ((0, 10), (0, 11), (1, 10))
    ]


def test_values_are_those_of_the_files(made):
    shards, reconstructions, path = made
    table = read_table(path)
    found = reconstructions[1]["PnPNet"]
    with h5py.File(shards[1]) as shard, hdf5.opened(found, RECONSTRUCTION) as file:
        osem, labels = shard["osem"][1], shard["labels"][1]
        image, grey, white = file["image"][1], labels == 2, labels == 3
    where = {"subject": "subject43", "rotation": 1, "slice_index": 10, "model": "PnPNet"}
    error, head = ((image - osem) / SCALE) ** 2, labels > 0
    assert value(table, "psnr_db", "osem", "image", **where) == pytest.approx(
        -10 * np.log10(error.mean()), abs=1e-3
    )
    assert value(table, "psnr_db", "osem", "head", **where) == pytest.approx(
        -10 * np.log10(error[head].mean()), abs=1e-3
    )
    ssim = structural_similarity(
        osem / SCALE,
        image / SCALE,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1]
    # Windows at the edge of this tiny head reach the border, which the two mirror differently.
    assert value(table, "ssim", "osem", "head", **where) == pytest.approx(
        ssim[head].mean(), abs=0.01
    )
    means = image[grey].mean(), image[white].mean()
    assert value(table, "mean", "", "grey", **where) == pytest.approx(means[0], rel=1e-5)
    assert value(table, "mean_error", "truth", "grey", **where) == pytest.approx(
        means[0] - 128, abs=1e-3
    )
    assert value(table, "mean_error", "truth", "white", **where) == pytest.approx(
        means[1] - 32, abs=1e-3
    )


def test_single_is_the_first_sample_and_mean_the_mean_of_all(made):
    shards, reconstructions, path = made
    table = read_table(path)
    found = reconstructions[0]["LegoPET-fbp"]
    with h5py.File(shards[0]) as shard, hdf5.opened(found, RECONSTRUCTION) as file:
        osem, grey = shard["osem"][2], shard["labels"][2] == 2
        samples = file["samples"][2]
    where = {"subject": "subject42", "slice_index": 11, "model": "LegoPET-fbp"}
    for estimate, image in (("single", samples[0]), ("mean", samples.mean(axis=0))):
        found = value(table, "psnr_db", "osem", "image", estimate=estimate, **where)
        mse = (((image - osem) / SCALE) ** 2).mean()
        assert found == pytest.approx(-10 * np.log10(mse), abs=1e-3)
        found = value(table, "mean", "", "grey", estimate=estimate, **where)
        assert found == pytest.approx(image[grey].mean(), rel=1e-4)
    rows = table[table["model"] == "LegoPET-fbp"]
    assert set(rows.loc[rows["estimate"] == "single", "samples"]) == {1}
    assert set(rows.loc[rows["estimate"] == "mean", "samples"]) == {5}


def test_posterior_statistics(made):
    shards, reconstructions, path = made
    table = read_table(path)
    found = reconstructions[0]["LegoPET-fbp"]
    with h5py.File(shards[0]) as shard, hdf5.opened(found, RECONSTRUCTION) as file:
        head, activity = shard["labels"][0] > 0, shard["activity"][0]
        samples, std = np.sort(file["samples"][0], axis=0), file["std"][0]
    where = {"subject": "subject42", "rotation": 0, "slice_index": 10, "estimate": "mean"}
    error = np.abs(samples.mean(axis=0) - activity)
    outer, inner = (samples[n] <= activity for n in (0, 1))
    outer, inner = outer & (activity <= samples[4]), inner & (activity <= samples[3])
    expected = {
        ("sd_mean", ""): std[head].mean(),
        ("sd_error_correlation", "truth"): np.corrcoef(std[head], error[head])[0, 1],
        ("coverage_0.667", "truth"): outer[head].mean(),
        ("coverage_0.333", "truth"): inner[head].mean(),
        ("width_0.667", ""): (samples[4] - samples[0])[head].mean(),
        ("width_0.333", ""): (samples[3] - samples[1])[head].mean(),
    }
    for (metric, reference), number in expected.items():
        found = value(table, metric, reference, "head", **where)
        assert found == pytest.approx(number, rel=1e-3, abs=1e-4)


def test_rows_say_how_the_images_were_made(made):
    table = read_table(made[2])
    sampling = ["sampler", "steps", "eta", "guidance", "sampling_seed"]
    sampled = table[table["model"] == "LegoPET-fbp"].iloc[0]
    assert sampled[sampling].tolist() == ["ddim", 4, 0.5, 0.25, 20260101]
    assert sampled["method"] == "LegoPET"
    assert sampled["checkpoint"] == "0123456789abcdef"
    for model in ("PnPNet", "FBP"):
        row = table[table["model"] == model].iloc[0]
        assert row["sampler"] == ""
        assert row[sampling[1:]].isna().all()
    assert table.loc[table["model"] == "PnPNet", "epoch"].eq(12).all()
    assert table.loc[table["model"] == "FBP", ["epoch", "samples"]].isna().all(axis=None)


def test_images_without_a_network_have_no_weights_and_no_scale(tmp_path):
    shard = make_shard(tmp_path / "s.h5", slices=2)
    nothing = {"weights_sha256": "", "epoch": -1, "training_seed": -1, "conditioning": ""}
    file = make_reconstruction(tmp_path / "map.h5", shard, "MAP", scale=np.nan, **nothing)
    evaluate(shard, {"MAP": file}, Scales(50.0, SCALE), tmp_path / "m.csv")
    table = read_table(tmp_path / "m.csv")
    rows = table[table["model"] == "MAP"]
    assert {"osem", "truth"} <= set(rows["reference"])
    assert (rows["method"] == "MAP").all()
    assert rows[["epoch", "training_seed", "samples"]].isna().all(axis=None)
    assert (rows[["checkpoint", "conditioning"]] == "").all(axis=None)


def test_values_that_do_not_exist_are_left_out(tmp_path):
    shard = make_shard(tmp_path / "s.h5", slices=2)
    with h5py.File(shard, "r+") as file:
        file["labels"][0] = 1  # no grey or white matter
    evaluate(shard, {}, Scales(50.0, SCALE), tmp_path / "m.csv")
    table = read_table(tmp_path / "m.csv").set_index("slice_index")
    assert {"psnr_db", "ssim", "nrmse"} <= set(table.loc[10, "metric"])
    of_tissues = {"mean", "mean_error"}
    assert not of_tissues & set(table.loc[10, "metric"])
    assert of_tissues <= set(table.loc[11, "metric"])


def test_the_same_table_has_the_same_bytes(made, tmp_path):
    shards, reconstructions, path = made
    again = tmp_path / "another.name.csv.gz"
    evaluate(shards[0], reconstructions[0], Scales(50.0, SCALE), again)
    assert again.read_bytes() == (path.parent / "metrics" / "42.csv.gz").read_bytes()
    plain = pd.read_csv(path)  # as anybody would
    assert list(plain.columns) == list(COLUMNS)
    write_table([read_table(path)], tmp_path / "copy.csv")
    assert (tmp_path / "copy.csv").read_bytes() == gzip.decompress(path.read_bytes())


def test_chosen_metrics_of_chosen_slices(made):
    shards, _, path = made
    with h5py.File(shards[0]) as file:
        slices = Slices.read(file, np.array([0, 2]))
    scales = Scales(50.0, SCALE)
    values = measure(slices.fbp, slices, scales, references=["osem"], regions=["image"])
    values["reconstruction_seconds", "", ""] = np.array([0.25, 0.5])
    table = tidy(slices, {"model": "FBP", "method": "FBP", "estimate": "single"}, values)
    assert list(table.columns) == list(COLUMNS)
    assert set(table["reference"]) == {"osem", ""}
    assert set(table["region"]) == {"image", ""}
    assert table["metric"].tolist() == [name for name, _, _ in values for _ in range(2)]
    assert {"psnr_db", "ssim", "nrmse", "reconstruction_seconds"} <= set(table["metric"])
    whole = read_table(path)
    where = {"subject": "subject42", "slice_index": 11, "model": "FBP"}
    assert value(table, "ssim", "osem", "image", **where) == pytest.approx(
        value(whole, "ssim", "osem", "image", **where), abs=1e-5
    )


def test_joined_tables_are_those_of_the_subjects(made, tmp_path):
    parts = [read_table(made[2].parent / "metrics" / f"{n}.csv.gz") for n in (42, 43)]
    assert [set(part["subject"]) for part in parts] == [{"subject42"}, {"subject43"}]
    pd.testing.assert_frame_equal(read_table(made[2]), pd.concat(parts, ignore_index=True))
    (tmp_path / "other.csv").write_text("method,psnr\nFBP,30\n")
    with pytest.raises(InputError, match=r"other\.csv: has the columns method, psnr"):
        join_tables([made[2], tmp_path / "other.csv"], tmp_path / "both.csv.gz")
    assert not (tmp_path / "both.csv.gz").exists()


def test_reconstructions_of_something_else_are_refused(made, tmp_path):
    shards, reconstructions, _ = made
    other = make_shard(tmp_path / "o.h5", subject="subject42", slices=2)
    with pytest.raises(InputError, match="was made of other slices"):
        evaluate(other, reconstructions[0], Scales(50.0, SCALE), tmp_path / "m.csv")
    with pytest.raises(InputError, match="was made of other slices"):  # of the other subject
        evaluate(shards[0], reconstructions[1], Scales(50.0, SCALE), tmp_path / "m.csv")
    with pytest.raises(InputError, match="or with another scale"):
        evaluate(shards[0], reconstructions[0], Scales(50.0, SCALE + 1), tmp_path / "m.csv")
    mistaken = {"cDPM": reconstructions[0]["PnPNet"]}
    with pytest.raises(InputError, match="is by PnPNet, not by cDPM"):
        evaluate(shards[0], mistaken, Scales(50.0, SCALE), tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


def test_a_table_is_the_same_in_parts(made, monkeypatch):
    whole = read_table(made[2])
    monkeypatch.setattr("models.evaluation.metrics_table.PART", 7)
    assert len(list(read_parts(made[2]))) == -(-len(whole) // 7)
    pd.testing.assert_frame_equal(read_table(made[2]), whole)


def test_a_table_without_rows_has_its_columns(tmp_path):
    (tmp_path / "none.csv").write_text(",".join(COLUMNS) + "\n")
    assert list(read_table(tmp_path / "none.csv").columns) == list(COLUMNS)


def test_a_table_that_cannot_be_read_is_named(made, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_table(tmp_path / "none.csv.gz")
    (tmp_path / "cut.csv.gz").write_bytes(made[2].read_bytes()[:-50])
    with pytest.raises(InputError, match="is damaged"):
        read_table(tmp_path / "cut.csv.gz")
    (tmp_path / "other.csv").write_text("method,psnr\nFBP,30\n")
    with pytest.raises(InputError, match="has the columns method, psnr"):
        read_table(tmp_path / "other.csv")
