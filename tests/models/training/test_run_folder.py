"""What one run leaves is never touched by another, nor taken for its own."""

import json
import random

import h5py
import pytest

from helpers.small_models import PHYSICS, job, settings
from helpers.trainings import Killed, die_at_call, kept, kill, rows, run, split, working
from models import checkpoints
from models.evaluation.sweep import sweep
from models.settings import Sweep
from models.training import resume
from pipeline.storage.errors import InputError

TIMING = ("slices_per_second", "seconds")


def of_a_run(**changes):
    """PnPNet for three epochs of three steps, a row of the log and a checkpoint every two steps."""
    config = settings(training__log_every_steps=1, training__checkpoint_every_steps=2)
    config["methods"]["PnPNet"] |= {"epochs": 3, "keep_every_epochs": 1, **changes}
    return config


OTHERS = {
    "other rate": {"learning_rate": 2e-3, "epochs": 5},
    "keeps nothing": {"learning_rate": 2e-3, "epochs": 5, "keep_every_epochs": 0},
    "other loss": {"dwt_weight": 0.7, "epochs": 5},
    "longer": {"epochs": 8},
    "keeps fewer": {"epochs": 8, "keep_every_epochs": 2},
}


@pytest.fixture
def data(tmp_path):
    return split(tmp_path)


def published(output):
    """All that a run publishes, but for times."""
    log = [
        {k: v for k, v in row.items() if k not in TIMING} for row in rows(output.parent / "log.csv")
    ]
    return output.read_bytes(), kept(output), log


def killed_at(monkeypatch, step, *arguments, **options):
    """Train until so many more steps are done."""
    with monkeypatch.context() as patch:
        die_at_call(patch, step, kill)
        with pytest.raises(Killed):
            run(*arguments, **options)


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_is_as_it_was_after_another_one_was_killed(tmp_path, data, monkeypatch, name):
    """Killed before and after its first checkpoint, once and again, and at last finished."""
    alone = published(run(tmp_path, data, "alone", config=of_a_run()))
    other = of_a_run(**OTHERS[name])
    numbers = random.Random(name)
    run(tmp_path, data, "x", config=of_a_run())
    for step in [0, 1, *numbers.sample(range(2, 6), 2)]:
        killed_at(monkeypatch, step, tmp_path, data, "x", config=other)
        with monkeypatch.context() as patch:
            die_at_call(patch, 0, kill)  # nothing of it is trained again
            assert published(run(tmp_path, data, "x", config=of_a_run())) == alone
    whole = published(run(tmp_path, data, "whole", config=other))
    assert published(run(tmp_path, data, "x", config=other)) == whole


def test_the_sweep_over_epochs_is_of_the_run_that_was_published(tmp_path, data, monkeypatch):
    """Checkpoints of a run that kept more do not stay beside one's own."""
    many, few = of_a_run(), of_a_run(learning_rate=2e-3, keep_every_epochs=3)
    run(tmp_path, data, "x", config=many)
    output = run(tmp_path, data, "x", config=few)
    assert list(kept(output)) == ["epoch0003.safetensors"]
    varied = Sweep(["PnPNet"], 2, [{}])
    paths = sorted((output.parent / "kept").iterdir())
    sweep(paths, data[1], tmp_path / "sweep.csv", job(few, "PnPNet"), varied, None, 1)
    sums = {row["checkpoint"] for row in rows(tmp_path / "sweep.csv")}
    assert sums == {checkpoints.sha256(output)[:16]}


def test_an_unfinished_run_that_would_be_left_behind_is_named(tmp_path, data, monkeypatch):
    killed_at(monkeypatch, 4, tmp_path, data, "x", config=of_a_run())
    folder = working(tmp_path / "x").parent
    for changes, said in (
        ({"wavelet": "db2"}, r"settings\.wavelet: haar -> db2"),
        ({"epochs": 1}, "has done 4 steps, and 3 are asked for"),
        ({"schedule": "cosine"}, r"settings\.schedule: constant -> cosine"),
    ):
        with pytest.raises(InputError, match=said) as refused:
            run(tmp_path, data, "x", config=of_a_run(**changes))
        assert "restore what differs" in refused.value.remedy
        assert f"delete {folder} to start anew" in refused.value.remedy
    assert published(run(tmp_path, data, "x", config=of_a_run())) == published(
        run(tmp_path, data, "alone", config=of_a_run())
    )


def test_a_run_that_had_no_checkpoint_yet_is_no_loss(tmp_path, data, monkeypatch):
    killed_at(monkeypatch, 1, tmp_path, data, "x", config=of_a_run())
    other = of_a_run(learning_rate=2e-3)
    output = run(tmp_path, data, "x", config=other)
    assert published(output) == published(run(tmp_path, data, "alone", config=other))
    assert len(list((tmp_path / "x" / "run").iterdir())) == 1


def test_other_data_under_the_same_name_are_another_run(tmp_path, data, monkeypatch):
    """Their configuration's hash may be the same: the code that made them was corrected, say."""
    run(tmp_path, data, "x", config=of_a_run())
    shards = [[path.rename(path.with_suffix(".old")) for path in paths] for paths in data]
    again = split(tmp_path)
    for number in (0, 1):
        changed = [list(paths) for paths in again]
        changed[number][0] = other_seed(changed[number][0])
        with monkeypatch.context() as patch:
            die_at_call(patch, 0, kill)
            with pytest.raises(Killed):
                run(tmp_path, changed, "x", config=of_a_run())
        shards[number][0].replace(changed[number][0])
    die_at_call(monkeypatch, 0, kill)
    run(tmp_path, again, "x", config=of_a_run())


def other_seed(path):
    from helpers.small_models import make_shard

    subject = {"t4": "subject04", "v": "subject20"}[path.stem]
    return make_shard(path, subject=subject, slices=3, seed=77)


def test_shards_that_say_more_are_no_other_run(tmp_path, data, monkeypatch):
    """A run goes on when its shards are made again that did not say their physics."""
    alone = run(tmp_path, data, "alone", config=of_a_run())
    assert checkpoints.read_metadata(alone).physics.slice_mm == PHYSICS["slice_mm"]
    said = {path: path.read_bytes() for paths in data for path in paths}
    for path in said:
        with h5py.File(path, "r+") as file:
            for name in (*PHYSICS, "pixels"):
                del file.attrs[name]
    killed_at(monkeypatch, 5, tmp_path, data, "x", config=of_a_run())
    state = working(tmp_path / "x")
    for path, content in said.items():
        path.write_bytes(content)
    output = run(tmp_path, data, "x", config=of_a_run())
    assert working(tmp_path / "x") == state
    assert output.read_bytes() == alone.read_bytes()


def test_only_the_published_run_and_unfinished_ones_stay(tmp_path, data, monkeypatch):
    first, second, third = (of_a_run(learning_rate=rate) for rate in (1e-3, 2e-3, 3e-3))
    runs = tmp_path / "x" / "run"
    run(tmp_path, data, "x", config=first)
    killed_at(monkeypatch, 4, tmp_path, data, "x", config=second)
    assert len(list(runs.iterdir())) == 2
    run(tmp_path, data, "x", config=first)
    assert len(list(runs.iterdir())) == 2
    run(tmp_path, data, "x", config=second)
    run(tmp_path, data, "x", config=third)
    assert [path.parent for path in runs.glob("*/working.pt")] == list(runs.iterdir())
    assert len(list(runs.iterdir())) == 1


def test_an_unfinished_run_of_other_code_is_named(tmp_path, data, monkeypatch):
    killed_at(monkeypatch, 4, tmp_path, data, "x", config=of_a_run())
    state = resume.load_working(working(tmp_path / "x"))
    before = json.loads(state["identity"])["code"]
    monkeypatch.setattr(resume, "code_of", lambda metadata: "0" * 16)
    with pytest.raises(InputError, match=f"run.code: {before} -> 0000") as refused:
        run(tmp_path, data, "x", config=of_a_run())
    assert f"delete {working(tmp_path / 'x').parent} to start over" in refused.value.remedy
    assert f"--config \"training={{accept_code: '{before}'}}\"" in refused.value.remedy


@pytest.mark.parametrize("finished", [False, True])
def test_code_that_is_accepted_by_name_goes_on(tmp_path, data, monkeypatch, finished):
    config = of_a_run()
    if finished:
        run(tmp_path, data, "x", config=config)
    else:
        killed_at(monkeypatch, 4, tmp_path, data, "x", config=config)
    before = json.loads(resume.load_working(working(tmp_path / "x"))["identity"])["code"]
    monkeypatch.setattr(resume, "code_of", lambda metadata: "0" * 16)
    alone = published(run(tmp_path, data, "alone", config=config))
    config["training"]["accept_code"] = before
    with monkeypatch.context() as patch:
        die_at_call(patch, 0 if finished else 4, kill)
        if finished:
            assert published(run(tmp_path, data, "x", config=config)) == alone
            return
        with pytest.raises(Killed):  # and is itself killed in its last step
            run(tmp_path, data, "x", config=config)
    config["training"]["accept_code"] = ""  # needed once
    assert published(run(tmp_path, data, "x", config=config)) == alone


def test_other_code_than_the_accepted_one_stays_refused(tmp_path, data, monkeypatch):
    config = of_a_run()
    killed_at(monkeypatch, 4, tmp_path, data, "x", config=config)
    monkeypatch.setattr(resume, "code_of", lambda metadata: "0" * 16)
    config["training"]["accept_code"] = "1" * 16
    with pytest.raises(InputError, match=r"run\.code"):
        run(tmp_path, data, "x", config=config)


def test_the_state_of_an_earlier_version_is_named(tmp_path, data):
    state = tmp_path / "x" / "run" / "working.pt"
    state.parent.mkdir(parents=True)
    state.touch()
    with pytest.raises(InputError, match="an earlier version of this project") as refused:
        run(tmp_path, data, "x", config=of_a_run())
    assert f"delete {state.parent}" in refused.value.remedy


def test_a_state_that_was_moved_is_refused(tmp_path, data):
    run(tmp_path, data, "x", config=of_a_run())
    run(tmp_path, data, "y", config=of_a_run(wavelet="db2"))
    working(tmp_path / "y").replace(working(tmp_path / "x"))
    with pytest.raises(InputError, match=r"settings\.wavelet: db2 -> haar"):
        run(tmp_path, data, "x", config=of_a_run())
