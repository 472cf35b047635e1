"""`make gpu` where there is no GPU: every step at a tiny size, and nothing left out in silence."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from benchmarks.gpu import fast, meaning, reference, right
from benchmarks.gpu.machine import TINY, Machine
from benchmarks.gpu.table import NotRun, Row, Table
from benchmarks.steps import noise_shard
from helpers.paths import ROOT
from models.configuration import read_configuration
from models.networks import fused
from models.registry import METHODS

MAY_BE_MISSING = {
    "parallelproj is not installed",
    "there is no GPU, and `auto` is sparse",
    "denoising_diffusion_pytorch is not installed: `make bench` does it",
    "of GPUs alone",
    "on the CPU DeepPET alone is traced",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--output", str(folder), "--budget", "3600"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def found(output):
    return json.loads((output / "cpu.json").read_text())


@pytest.fixture(scope="module")
def machine():
    tiny = read_configuration([TINY])
    return Machine(torch.device("cpu"), "CPU", tiny, tiny, 3600.0)


@pytest.fixture
def gpu():
    """A GPU by its name alone."""
    config = read_configuration([])
    return Machine(torch.device("cuda"), "NVIDIA H100 PCIe", config, config, 540.0)


def test_every_row_says_where_it_ran_and_none_failed(found):
    assert {row["where"] for row in found["rows"]} == {"CPU, tiny"}
    assert {row["verdict"] for row in found["rows"]} == {"passed", "stated", "not run"}
    missing = {row["missing"] for row in found["rows"] if row["verdict"] == "not run"}
    assert missing <= MAY_BE_MISSING


def test_every_part_is_there_for_every_method(found):
    run = [row["what"] for row in found["rows"] if row["verdict"] != "not run"]
    for name in METHODS:
        assert {
            f"{name}, {precise}: outputs of a training step" for precise in ("fp32", "bf16")
        } <= {*run}
        assert {f"{name}, {precise}: gradients" for precise in ("fp32", "bf16")} <= {*run}
        assert f"{name}: what the optimiser changes" in run
        assert f"{name}: images alone and in a batch of 4" in run
        for precise in ("fp32", "bf16"):
            what = f"{name}, {precise}, eager, batch 2"
            assert {f"{what}: training", f"{what}: sampling steps"} <= {*run}
        assert any(what.startswith(f"{name}: training, ") for what in run)
        assert any(what.startswith(f"{name}: ") and what.endswith("passes") for what in run)
    for what in (
        "sparse projector: forward projection",
        "sparse projector: back projection",
        "OSEM with the sparse projector",
        "MAP with the sparse projector",
        "training killed at step 5 of 6 and resumed: largest difference",
        "training on two devices: Adam's mean gradient",
        "sparse: forward projection",
        "norm_silu: time of the fused operation",
        "linear_attention: time of the fused operation",
        "DeepPET, bf16, compiled, batch 2: training",
        "reading shards, 0 workers",
        "snakemake --cores all, with gpu.yaml",
        "snakemake --cores all, without it",
    ):
        assert what in run


def test_what_is_left_out_is_named(found):
    combinations = {
        f"{precise}, {mode}, batch 2"
        for precise in ("fp32", "TF32", "bf16")
        for mode in ("eager", "compiled", "CUDA graphs")
    }
    for name in METHODS:
        named = set()
        for row in found["rows"]:
            if row["part"] == "fast" and row["what"].startswith(f"{name}, "):
                left_out = row["note"].split("; ") if row["verdict"] == "not run" else []
                named |= {*left_out} or {row["what"].removeprefix(f"{name}, ").split(":")[0]}
        assert named == combinations


def test_its_settings_are_an_overlay(output):
    config = read_configuration([output / "gpu.yaml"])
    assert config["training"]["precision"] in ("32-true", "bf16-mixed")
    assert config["training"]["compile"] is False
    assert config["sampling"]["batch_size"] == 2


def test_the_page_has_all_rows(output, found):
    lines = (output / "cpu.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(found["rows"]) + 3  # and headers


def test_a_network_that_errs_is_found(machine, tmp_path, monkeypatch):
    exact = fused.norm_silu
    monkeypatch.setattr(fused, "norm_silu", lambda *given, **more: 1.001 * exact(*given, **more))
    table = Table(machine)
    paths = [noise_shard(tmp_path, 32)]
    table.add("right", "PnPNet", partial(right.one_step, machine, paths, "PnPNet"))
    assert [row.what for row in table.failed] == [
        "PnPNet, fp32: outputs of a training step",
        "PnPNet, fp32: gradients",
    ]


def test_what_fails_is_a_row_and_the_others_go_on(machine, tmp_path):
    def fails():
        yield Row("first", 1.0)
        raise RuntimeError("no such kernel\nat line 5")

    def cannot():
        raise NotRun("one device")

    table = Table(machine)
    table.add("right", "second", fails)
    table.add("right", "third", cannot)
    table.add("right", "fourth", lambda: [Row("fourth", float("nan"), limit=1.0)])
    assert [row.verdict for row in table.rows["right"]] == ["stated", "failed", "not run", "failed"]
    assert [row.what for row in table.failed] == ["second", "fourth"]
    assert table.failed[0].error == "RuntimeError: no such kernel"
    table.write(tmp_path, {})
    rows = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert [row["verdict"] for row in rows] == ["stated", "failed", "not run", "failed"]


def test_a_limit_may_be_reached_and_not_passed():
    assert [Row("x", value, limit=0.5).verdict for value in (0.5, 0.51)] == ["passed", "failed"]


def test_the_paper_is_measured_first_and_compiled_late(gpu):
    order = list(map(str, fast.combinations(gpu)))
    assert len(set(order)) == 36
    assert order[0] == "bf16, eager, batch 4"
    assert order.index("TF32, eager, batch 4") < order.index("bf16, compiled, batch 4") < 10
    assert order[-1] == "fp32, CUDA graphs, batch 8"


def test_without_time_nothing_is_measured_and_all_of_it_named(machine):
    late = Machine(machine.device, "CPU", machine.config, machine.tiny, budget_s=0.0)
    table, speeds = Table(late), fast.Speeds(late, [])
    speeds.measure(table)
    rows = table.rows["fast"]
    assert sorted(row.what for row in rows) == sorted(
        f"{name}, 9 other combinations" for name in METHODS
    )
    assert {row.missing for row in rows} == {"time"}
    table.add("fast", "reading", speeds.reading)
    assert table.rows["fast"][-1].missing == "no training was measured"


def test_shares_are_of_the_cards_own_peak(gpu):
    for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H200"):
        card = Machine(gpu.device, name, gpu.config, gpu.tiny, 540.0)
        assert card.peak_tflops("TF32") == 494.7
    for name in ("NVIDIA X1", "NVIDIA H100 PCIe"):  # of which the module's would be wrong
        card = Machine(gpu.device, name, gpu.config, gpu.tiny, 540.0)
        assert card.peak_tflops("bf16") is None


def measured(name, precise, batch=4, training_s=4.0, sampling_s=4.0, mode="eager"):
    return fast.Measurement(name, precise, mode, batch, training_s, sampling_s, 0.6, 10.0)


def test_hours_are_steps_times_seconds(gpu, tmp_path):
    """At a slice a second: 119, 500 and 200 epochs of 4675 slices, 1000 passes of 550."""
    speeds = [measured(name, "TF32") for name in METHODS]
    rows = list(meaning.rows(gpu, speeds, tmp_path / "gpu.yaml"))
    hours = {row.what: row.value for row in rows}
    assert hours["PnPNet: training, 119 epochs"] == pytest.approx(119 * 4675 / 3600)
    assert hours["LegoPET-p01: training, 500 epochs"] == pytest.approx(500 * 4675 / 3600)
    assert hours["cDPM: 550 test slices, 1000 passes"] == pytest.approx(550 * 1000 / 3600)
    assert hours["DeepPET: 550 test slices, 1 passes"] == pytest.approx(550 / 3600)
    epochs = 119 * 2 + 500 * 3 + 200 * 2 + 500 * 3  # the last: LegoPET with other p_dp
    total = (epochs * 4675 + 550 * (3 * 1000 + 4)) / 3600
    for what in ("with gpu.yaml", "without it"):
        assert hours[f"snakemake --cores all, {what}"] == pytest.approx(total)


def test_the_fastest_settings_are_those_of_all_models_together(gpu, tmp_path):
    speeds = [measured(name, "TF32") for name in METHODS]
    speeds += [measured(name, "bf16", training_s=2.0) for name in METHODS]
    speeds += [measured(name, "bf16", 32, sampling_s=8.0) for name in METHODS]
    speeds += [measured(name, "bf16", training_s=1.0, mode="compiled") for name in METHODS]
    speeds += [measured(name, "bf16", training_s=0.1, mode="CUDA graphs") for name in METHODS]
    speeds += [measured("PnPNet", "fp32", training_s=0.1)]
    list(meaning.rows(gpu, speeds, tmp_path / "gpu.yaml"))
    config = read_configuration([tmp_path / "gpu.yaml"])
    assert config["training"]["precision"] == "bf16-mixed"
    assert config["training"]["compile"] is True
    assert config["sampling"]["batch_size"] == 32


def test_without_a_measurement_of_every_method_there_are_no_hours(gpu, tmp_path):
    speeds = [measured(name, "bf16") for name in METHODS if name != "cGAN"]
    with pytest.raises(NotRun, match="not every method"):
        list(meaning.rows(gpu, speeds, tmp_path / "gpu.yaml"))
    assert not (tmp_path / "gpu.yaml").exists()


def test_our_network_is_timed_as_the_reference_is(machine):
    found = reference.measure("own", machine, "bf16", 1, 16, 8)
    assert found.keys() == {"training", "sampling"}
    assert min(found.values()) > 0
