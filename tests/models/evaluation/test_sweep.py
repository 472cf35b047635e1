from dataclasses import replace

import h5py
import numpy as np
import pytest

from helpers.small_models import SAMPLING, job, make_shard, settings
from helpers.trainings import run, split
from models import checkpoints
from models.evaluation.catalogue import SAMPLES, ordered
from models.evaluation.metrics_table import COLUMNS, read_table
from models.evaluation.sweep import sweep
from models.reconstruct import Reconstructor
from models.settings import Sweep
from pipeline.storage.errors import InputError

METRICS = {
    *(key for metric, key in ordered() if key[2] == "image" and metric.of != SAMPLES),
    ("reconstruction_seconds", "", ""),
}
SLICE = ["subject", "slice_index"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """LegoPET with a checkpoint of each of three epochs, and two subjects of five slices."""
    folder = tmp_path_factory.mktemp("study")
    own = {"epochs": 3, "keep_every_epochs": 1}
    config = settings(**{f"methods__LegoPET__{key}": value for key, value in own.items()})
    features = run(folder, split(folder), "p", config=config)
    weights = run(folder, split(folder), "l", "LegoPET", features, config)
    shards = [make_shard(folder / f"{n}.h5", subject=f"subject{n}", seed=n) for n in (42, 43)]
    return config, sorted((weights.parent / "kept").iterdir()), features, shards


def swept(study, tmp_path, sampling, slices=2, weights=None):
    config, checkpoints_of, features, shards = study
    varied = Sweep(["LegoPET"], slices, sampling)
    weights = checkpoints_of[-1:] if weights is None else weights
    output = tmp_path / "sweep.csv"
    sweep(weights, shards, output, job(config, "LegoPET"), varied, features, threads=1)
    return read_table(output)


def test_a_sweep_over_epochs(study, tmp_path):
    """Rows for each checkpoint, subject, slice and metric; checkpoints in their order."""
    config, weights, _, _ = study
    table = swept(study, tmp_path, [{}], weights=weights)
    assert list(table.columns) == list(COLUMNS)
    assert table["epoch"].is_monotonic_increasing
    assert list(table["epoch"].unique()) == [1, 2, 3]
    assert list(table["checkpoint"].unique()) == [checkpoints.sha256(w)[:16] for w in weights]
    measured = table.groupby(["epoch", *SLICE])[["metric", "reference", "region"]]
    assert measured.ngroups == 3 * 2 * 2
    for _, group in measured:
        assert len(group) == len(METRICS)
        assert set(group.itertuples(index=False, name=None)) == METRICS
    facts = {
        "model": "LegoPET",
        "method": "LegoPET",
        "conditioning": "sinogram",
        "condition_dropout": 0.2,
        "training_seed": 7,
        "estimate": "single",
        "samples": 1,
        "sampling_seed": 7,
        **{name: config["sampling"][name] for name in ("sampler", "steps", "eta", "guidance")},
    }
    assert {name: table[name].unique().tolist() for name in facts} == {
        name: [value] for name, value in facts.items()
    }
    psnr_db = table[(table["metric"] == "psnr_db") & (table["reference"] == "osem")]
    assert psnr_db.groupby(SLICE)["value"].nunique().eq(3).all()


def test_a_sweep_over_samplings_says_what_was_varied(study, tmp_path):
    sampling = [
        {"guidance": 0.0},
        {"guidance": 2.0},
        {"sampler": "dpm-solver++", "steps": 5, "samples": 3},
        {"sampler": "ddpm", "steps": 10},
    ]
    table = swept(study, tmp_path, sampling)
    names = ["sampler", "steps", "guidance", "samples", "estimate"]
    assert table[names].drop_duplicates().to_numpy().tolist() == [
        ["ddim", 4, 0.0, 1, "single"],
        ["ddim", 4, 2.0, 1, "single"],
        ["dpm-solver++", 5, 0.5, 3, "mean"],
        ["ddpm", 10, 0.5, 1, "single"],
    ]
    assert len(table) == 4 * 2 * 2 * len(METRICS)
    assert set(table["epoch"]) == {3}


@pytest.mark.parametrize(
    ("slices", "expected"), [(1, [12]), (2, [10, 14]), (3, [10, 12, 14]), (9, [10, 11, 12, 13, 14])]
)
def test_slices_are_evenly_spaced(study, tmp_path, slices, expected):
    table = swept(study, tmp_path, [{"steps": 1}], slices)
    for subject in ("subject42", "subject43"):
        assert sorted(set(table.loc[table["subject"] == subject, "slice_index"])) == expected


@pytest.mark.parametrize("samples", [1, 3])
def test_numbers_are_those_of_the_mean_of_the_samples(study, tmp_path, samples):
    config, weights, features, shards = study
    table = swept(study, tmp_path, [{"guidance": 1.0}, {"samples": samples}])
    table = table[table["guidance"] == 0.5]
    model = Reconstructor(weights[-1], features, job(config, "LegoPET"), threads=1)
    sampling = replace(SAMPLING, samples=samples)
    for shard, (_, rows) in zip(shards, table.groupby("subject"), strict=True):
        found = model.samples(model.slices([shard]), [0, 4], sampling).mean(axis=1)
        with h5py.File(shard) as file:
            for reference, name in (("osem", "osem"), ("truth", "activity")):
                wanted = rows[(rows["metric"] == "psnr_db") & (rows["reference"] == reference)]
                error = (found - file[name][[0, 4]]) / model.metadata.scales.activity
                expected = -10 * np.log10(np.square(error).mean(axis=(1, 2)))
                assert wanted["value"].tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_seconds_are_those_of_a_slice(study, tmp_path):
    table = swept(study, tmp_path, [{"steps": 1}, {"steps": 40}])
    table = table[table["metric"] == "reconstruction_seconds"]
    assert table.groupby(["steps", "subject"])["value"].nunique().eq(1).all()
    short, long = (table.loc[table["steps"] == n, "value"].min() for n in (1, 40))
    assert 0 < 3 * short < long


def test_a_checkpoint_of_another_model_is_refused(study, tmp_path):
    _, weights, features, _ = study
    with pytest.raises(InputError, match="is of PnPNet, not LegoPET"):
        swept(study, tmp_path, [{}], weights=[*weights, features])
    assert not (tmp_path / "sweep.csv").exists()


def test_methods_that_do_not_sample_have_no_sampler(study, tmp_path):
    config, _, features, shards = study
    varied = Sweep(["PnPNet"], 2, [{"samples": 3}])
    output = tmp_path / "sweep.csv"
    sweep([features], shards, output, job(config, "PnPNet"), varied, None, threads=1)
    table = read_table(output)
    assert set(table["estimate"]) == {"single"}
    assert set(table["samples"]) == {1}
    assert set(table["sampler"]) == {""}
    assert (
        table[["steps", "eta", "guidance", "sampling_seed", "condition_dropout"]]
        .isna()
        .all(axis=None)
    )
