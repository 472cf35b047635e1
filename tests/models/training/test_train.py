import multiprocessing
import os
import signal
import subprocess

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.small_models import GAN_SIZE, NETWORK, make_shard, settings
from helpers.trainings import Killed, die_at_call, kept, kill, rows, run, split, working
from models import checkpoints
from models.draws import keyed_rng
from models.methods.base import Objective
from models.methods.pnpnet import PnPNet
from models.registry import METHODS
from models.training import resume
from pipeline.jobs.used_code import code_hash
from pipeline.storage.errors import InputError


@pytest.fixture
def data(tmp_path):
    return split(tmp_path)


def test_same_seeds_give_the_same_bits_and_others_do_not(tmp_path, data):
    first, again = (run(tmp_path, data, name).read_bytes() for name in ("a", "b"))
    assert first == again
    assert first != run(tmp_path, data, "c", config=settings(seed=8)).read_bytes()


def test_workers_do_not_change_a_bit(tmp_path, data):
    here = run(tmp_path, data, "a")
    there = run(tmp_path, data, "b", config=settings(training__workers=1))
    assert here.read_bytes() == there.read_bytes()


def sigkill():
    os.kill(os.getpid(), signal.SIGKILL)


def run_in_child(tmp_path, data, name, number, **options):
    """Train in a process that is killed with SIGKILL as its ``number``-th step begins."""
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            die_at_call(patch, number, sigkill, options["model"])
            run(tmp_path, data, name, **options)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("method", ["PnPNet", "cDPM", "Pix2Pix"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, method):
    """Killed at three random steps one after the other, with workers, a schedule and averages."""
    data = [
        [make_shard(tmp_path / f"{n}.h5", subject=f"subject{n}", size=GAN_SIZE, seed=n)]
        for n in (41, 42)
    ]
    config = settings(
        network__size=GAN_SIZE,
        training__workers=1,
        training__checkpoint_every_steps=2,
        training__ema_decay=0.9,
        training__gradient_clip=1.0,
    )
    config["methods"][method] |= {"epochs": 4, "schedule": "cosine", "warmup_steps": 3}
    config["methods"][method]["keep_every_epochs"] = 2
    options = {"model": method, "config": config}
    whole = run(tmp_path, data, "whole", **options)
    steps = torch.randperm(9, generator=keyed_rng(method))[:3].sort().values.tolist()
    for done, step in zip([0, *steps], steps, strict=False):
        # A resumed run begins at the last checkpoint, at an even step.
        calls = step - done // 2 * 2
        assert run_in_child(tmp_path, data, "killed", calls, **options) == signal.SIGKILL
    resumed = run(tmp_path, data, "killed", **options)
    assert resumed.read_bytes() == whole.read_bytes()
    assert kept(resumed) == kept(whole)
    assert list(kept(whole)) == ["epoch0002.safetensors", "epoch0004.safetensors"]
    assert kept(whole)["epoch0004.safetensors"] == whole.read_bytes()
    timing = {"slices_per_second", "seconds"}
    logs = [
        [{k: v for k, v in row.items() if k not in timing} for row in rows(path.parent / "log.csv")]
        for path in (whole, resumed)
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("method", ["LegoPET", "PMDM"])
def test_what_uses_another_network_resumes_to_the_same_bits(tmp_path, data, method):
    frozen = run(tmp_path, data, "p")
    whole = run(tmp_path, data, "whole", method, frozen)
    short = settings(**{f"methods__{method}__epochs": 1})
    run(tmp_path, data, "parts", method, frozen, short)
    longer = run(tmp_path, data, "parts", method, frozen)
    assert longer.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_after_saving(tmp_path, data, monkeypatch, number):
    """Sent, as by Ctrl-C and schedulers, to the processes that read slices, too."""

    def signal_all():
        readers = [process.pid for process in multiprocessing.active_children()]
        assert readers
        # By a process of its own: PyTorch's readers die quietly when their parent tells them to.
        subprocess.run(["kill", f"-{number}", *map(str, readers), str(os.getpid())], check=True)

    config = settings(training__checkpoint_every_steps=100, training__workers=1)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        die_at_call(patch, 1, signal_all)
        with pytest.raises(SystemExit) as stopped:
            run(tmp_path, data, "s", config=config)
    assert stopped.value.code == 128 + number
    assert not (tmp_path / "s" / "PnPNet.safetensors").exists()
    state = resume.load_working(working(tmp_path / "s"))
    assert state["step"] == 2
    assert signal.getsignal(number) is before
    resumed = run(tmp_path, data, "s", config=config)
    assert resumed.read_bytes() == run(tmp_path, data, "whole", config=config).read_bytes()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path, data, monkeypatch):
    plain = PnPNet.training_step
    seen = []

    def step(self, batch, draws):
        seen.append(batch)
        for part, losses in plain(self, batch, draws):
            factor = float("nan") if len(seen) == 3 else 1.0
            yield Objective(part, {k: v * factor for k, v in losses.items()})

    monkeypatch.setattr(PnPNet, "training_step", step)
    with pytest.raises(InputError) as stopped:
        run(tmp_path, data, "n")
    assert "the loss of step 3 is {'loss': nan" in stopped.value.problem
    assert all(str(key) in stopped.value.problem for key in seen[-1].keys)
    assert "learning_rate" in stopped.value.remedy
    state = resume.load_working(working(tmp_path / "n"))
    assert state["step"] == 2
    assert all(t.isfinite().all() for t in state["parts"]["network"]["weights"].values())
    assert not (tmp_path / "n" / "PnPNet.safetensors").exists()


def test_a_gradient_that_is_not_finite_moves_no_weight(tmp_path, data, monkeypatch):
    plain = PnPNet.training_step
    seen = []

    def step(self, batch, draws):
        seen.append(batch)
        for part, losses in plain(self, batch, draws):
            if len(seen) == 2:
                losses["loss"].register_hook(lambda gradient: gradient * float("inf"))
            yield Objective(part, losses)

    monkeypatch.setattr(PnPNet, "training_step", step)
    with pytest.raises(InputError, match=r"the gradient of step 2 is .* on subject") as stopped:
        run(tmp_path, data, "n")
    assert all(str(key) in stopped.value.problem for key in seen[-1].keys)
    assert resume.load_working(working(tmp_path / "n"))["step"] == 1


def test_averages_are_validated_and_saved_beside_the_weights(tmp_path, data):
    output = run(tmp_path, data, "x", config=settings(training__ema_decay=0.5))
    (*_, last) = rows(output.parent / "log.csv")
    for name in ("psnr_db", "ssim"):
        raw, average = float(last[f"validation_{name}"]), float(last[f"validation_ema_{name}"])
        assert raw != average
    raw, _ = checkpoints.load(output, NETWORK)
    average, _ = checkpoints.load(output, NETWORK, "ema")
    assert not torch.equal(raw.network.head.weight, average.network.head.weight)
    without = run(tmp_path, data, "y")
    assert rows(without.parent / "log.csv")[-1]["validation_ema_psnr_db"] == ""
    plain, _ = checkpoints.load(without, NETWORK)
    assert torch.equal(plain.network.head.weight, raw.network.head.weight)


def one_step(tmp_path, data, name, clip, rate=1.0):
    """Weights after a single step of all slices by Adam without memory, and the logged norm."""
    config = settings(training__log_every_steps=1, training__gradient_clip=clip)
    step = {"epochs": 1, "batch_size": 6, "betas": [0.0, 0.0], "learning_rate": rate}
    config["methods"]["PnPNet"] |= step
    output = run(tmp_path, data, name, config=config)
    (row,) = rows(output.parent / "log.csv")
    weights = torch.cat([t.flatten() for _, t in sorted(load_file(output).items())])
    return weights.double(), float(row["gradient_norm"])


def test_clipping_shortens_the_gradient_to_its_limit_and_logs_the_norm_before(tmp_path, data):
    """One step of such an Adam is g / (|g| + 1e-8), from which a short gradient g can be told."""
    start, norm = one_step(tmp_path, data, "start", 0.0, rate=1e-30)
    free, norm_of_free = one_step(tmp_path, data, "free", 0.0)
    loose, norm_of_loose = one_step(tmp_path, data, "loose", 2 * norm)
    clipped, norm_of_clipped = one_step(tmp_path, data, "clipped", 1e-9)
    assert norm_of_free == norm_of_loose == norm_of_clipped == norm > 1e-3
    assert torch.equal(loose, free)
    step = start - clipped
    gradient = 1e-8 * step / (1 - step.abs())
    assert gradient.norm().item() == pytest.approx(1e-9, rel=1e-3)
    assert (step * (start - free) >= 0).all()
    assert ((start - free).abs() > 0.99).double().mean() > 0.9


@pytest.mark.parametrize("method", ["DeepPET", "cGAN", "Pix2Pix"])
def test_every_network_of_a_method_is_trained(tmp_path, method):
    data = [[make_shard(tmp_path / "s.h5", size=GAN_SIZE)], []]
    run(tmp_path, data, "x", method, config=settings(network__size=GAN_SIZE))
    state = resume.load_working(working(tmp_path / "x"))
    adversarial = method != "DeepPET"
    assert list(state["parts"]) == ["network", *["discriminator"] * adversarial]
    for part in state["parts"].values():
        assert {float(s["step"]) for s in part["optimiser"]["state"].values()} == {6.0}
    names = set(rows(tmp_path / "x" / "log.csv")[0])
    assert ("discriminator_gradient_norm" in names) == adversarial


def test_an_unfinished_run_of_another_configuration_is_not_overwritten(tmp_path, data, monkeypatch):
    with monkeypatch.context() as patch:
        die_at_call(patch, 2, kill)
        with pytest.raises(Killed):
            run(tmp_path, data, "x")
    changed = settings(methods__PnPNet__learning_rate=0.5)
    with pytest.raises(InputError, match=r"settings\.learning_rate: 0\.001 -> 0\.5") as refused:
        run(tmp_path, data, "x", config=changed)
    assert "delete" in refused.value.remedy


def test_a_finished_run_gives_way_to_another_configuration(tmp_path, data):
    run(tmp_path, data, "x")
    changed = settings(methods__PnPNet__learning_rate=2e-3)
    again = run(tmp_path, data, "x", config=changed)
    assert again.read_bytes() == run(tmp_path, data, "y", config=changed).read_bytes()
    assert rows(tmp_path / "x" / "log.csv")[0]["step"] == "2"


def test_a_finished_run_gives_way_to_other_code(tmp_path, data, monkeypatch):
    run(tmp_path, data, "x")
    monkeypatch.setattr(resume, "code_of", lambda metadata: "other")
    die_at_call(monkeypatch, 0, kill)
    with pytest.raises(Killed):
        run(tmp_path, data, "x")


def test_a_finished_run_writes_its_outputs_again_without_training(tmp_path, data, monkeypatch):
    first = run(tmp_path, data, "x").read_bytes()
    (tmp_path / "x" / "PnPNet.safetensors").unlink()
    die_at_call(monkeypatch, 0, kill)
    assert run(tmp_path, data, "x").read_bytes() == first


def test_fewer_epochs_than_done_are_refused(tmp_path, data):
    run(tmp_path, data, "x")
    with pytest.raises(InputError, match="has done 6 steps, and 3 are asked for"):
        run(tmp_path, data, "x", config=settings(methods__PnPNet__epochs=1))


def test_a_damaged_working_checkpoint_is_named(tmp_path, data):
    run(tmp_path, data, "x")
    path = working(tmp_path / "x")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        run(tmp_path, data, "x")


def test_log_has_a_row_where_asked(tmp_path, data):
    table = rows(run(tmp_path, data, "x").parent / "log.csv")
    assert [row["step"] for row in table] == ["2", "3", "4", "6"]
    assert [row["epoch"] for row in table] == ["0", "1", "1", "2"]
    assert [bool(row["validation_psnr_db"]) for row in table] == [False, True, False, True]
    for row in table:
        total = float(row["mse"]) + 0.1 * float(row["dwt"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-4)
        assert float(row["learning_rate"]) == 1e-3


def test_training_without_validation_shards(tmp_path, data):
    table = rows(run(tmp_path, (data[0], []), "x").parent / "log.csv")
    assert {row["validation_psnr_db"] for row in table} == {""}


@pytest.mark.parametrize("source", ["PnPNet", "DeepPET"])
def test_the_code_of_a_run_is_that_of_both_methods(tmp_path, data, source):
    frozen = run(tmp_path, data, "s", source)
    config = settings(methods__PMDM__posterior_mean=source)
    metadata = checkpoints.read_metadata(run(tmp_path, data, "m", "PMDM", frozen, config))
    assert metadata.frozen_method == source
    used = (METHODS[name] for name in ("PMDM", source))
    assert resume.code_of(metadata) == code_hash("train.py", *used)


def test_everything_used_is_written_beside_the_weights(tmp_path, data):
    features = run(tmp_path, data, "p")
    output = run(tmp_path, data, "l", "LegoPET", features)
    record = yaml.safe_load(output.with_suffix(".yaml").read_text())
    config = settings()
    assert (record["model"], record["method"], record["seed"]) == ("LegoPET", "LegoPET", 7)
    assert record["settings"] == config["methods"]["LegoPET"]
    assert record["network"] == config["network"]
    validation = {**config["training"]["validation_sampling"], "antithetic": False}
    assert record["training"] == {**config["training"], "validation_sampling": validation}
    assert record["frozen_sha256"] == checkpoints.sha256(features)
    assert record["total_steps"] == 6
    assert record["versions"]["torch"]
    assert {"step", "epoch"}.isdisjoint(record)
    metadata = checkpoints.read_metadata(output)
    assert (metadata.step, metadata.epoch) == (6, 2)
    assert record["scales"] == metadata.scales.to_dict()
    assert not any(name.startswith("frozen") for name in load_file(output))


def test_training_makes_the_loss_smaller(tmp_path, data):
    config = settings(methods__PnPNet__epochs=25, methods__PnPNet__learning_rate=3e-3)
    table = rows(run(tmp_path, data, "x", config=config).parent / "log.csv")
    assert float(table[-1]["loss"]) < 0.5 * float(table[0]["loss"])


def test_global_random_state_is_left_alone(tmp_path, data):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.random.fork_rng():
        run(tmp_path, data, "x")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_variant_is_trained_with_its_own_seed_and_settings(tmp_path, data):
    twin, other = {"method": "PnPNet", "seed": 8}, {"method": "PnPNet", "learning_rate": 2e-3}
    config = settings(variants={"PnPNet-seed8": twin, "PnPNet-fast": other})
    outputs = [run(tmp_path, data, model, model, config=config) for model in config["variants"]]
    facts = [checkpoints.read_metadata(output) for output in outputs]
    assert [(f.model, f.method, f.seed) for f in facts] == [
        ("PnPNet-seed8", "PnPNet", 8),
        ("PnPNet-fast", "PnPNet", 7),
    ]
    assert [f.settings["learning_rate"] for f in facts] == [1e-3, 2e-3]
    # The name alone changes nothing: the same seed gives the same weights.
    seeded = load_file(run(tmp_path, data, "seeded", config=settings(seed=8)))
    assert all(torch.equal(tensor, seeded[n]) for n, tensor in load_file(outputs[0]).items())
