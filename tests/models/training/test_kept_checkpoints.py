"""Weights after every few epochs, kept beside the final ones."""

import pytest
import torch
from safetensors.torch import load_file

from helpers.small_models import settings
from helpers.trainings import Killed, die_at_call, kept, kill, run, split
from models import checkpoints
from pipeline.storage.errors import InputError


@pytest.fixture
def data(tmp_path):
    return split(tmp_path)


def test_a_kept_checkpoint_is_what_a_run_of_so_many_epochs_ends_with(tmp_path, data):
    config = settings(methods__PnPNet__epochs=5, methods__PnPNet__keep_every_epochs=2)
    config["training"]["ema_decay"] = 0.5
    output = run(tmp_path, data, "x", config=config)
    assert list(kept(output)) == ["epoch0002.safetensors", "epoch0004.safetensors"]
    for epoch in (2, 4):
        path = output.parent / "kept" / f"epoch{epoch:04}.safetensors"
        metadata = checkpoints.read_metadata(path)
        assert (metadata.epoch, metadata.step) == (epoch, 3 * epoch)
        config["methods"]["PnPNet"]["epochs"] = epoch
        shorter = load_file(run(tmp_path, data, f"to{epoch}", config=config))
        found = load_file(path)
        assert found.keys() == shorter.keys()
        assert all(torch.equal(found[name], shorter[name]) for name in found)


def test_nothing_is_kept_unless_asked_for(tmp_path, data):
    assert kept(run(tmp_path, data, "x")) == {}
    config = settings(methods__PnPNet__keep_every_epochs=3)  # of two
    assert kept(run(tmp_path, data, "y", config=config)) == {}


def test_an_unfinished_run_may_keep_more_from_where_it_was(tmp_path, data, monkeypatch):
    config = settings(methods__PnPNet__keep_every_epochs=1)
    with monkeypatch.context() as patch:
        die_at_call(patch, 2, kill)
        with pytest.raises(Killed):
            run(tmp_path, data, "x")
    resumed = run(tmp_path, data, "x", config=config)
    whole = run(tmp_path, data, "whole", config=config)
    assert resumed.read_bytes() == whole.read_bytes()
    assert kept(resumed) == kept(whole)
    assert len(kept(whole)) == 2


def test_a_checkpoint_that_was_not_kept_is_named(tmp_path, data, monkeypatch):
    """A finished run is not trained again for it."""
    output = run(tmp_path, data, "x")
    before = output.stat().st_mtime_ns
    die_at_call(monkeypatch, 0, kill)
    with pytest.raises(InputError, match=r"epoch0001\.safetensors: was not kept") as refused:
        run(tmp_path, data, "x", config=settings(methods__PnPNet__keep_every_epochs=1))
    (folder,) = (tmp_path / "x" / "run").iterdir()
    assert f"delete {folder} to train again" in refused.value.remedy
    assert output.stat().st_mtime_ns == before


def test_checkpoints_of_another_run_are_not_taken_for_ones_own(tmp_path, data):
    run(tmp_path, data, "x", config=settings(methods__PnPNet__keep_every_epochs=1))
    changed = settings(methods__PnPNet__learning_rate=2e-3)
    run(tmp_path, data, "x", config=changed)
    changed["methods"]["PnPNet"]["keep_every_epochs"] = 1
    with pytest.raises(InputError, match=r"epoch0001\.safetensors: was not kept"):
        run(tmp_path, data, "x", config=changed)
