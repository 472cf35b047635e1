"""Two processes train as one."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_models_support import job, make_shard, settings

from models import checkpoints
from models.dataset import BatchOrder
from models.devices import make_fabric, share_statistics
from models.training import train
from pipeline.errors import InputError

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_ddp import run
run(Path({folder!r}), {devices})
"""


OWN = {"batch_size": 3, "epochs": 1, "keep_every_epochs": 1}


def config(devices):
    """Batches of 3 and 2 of 5 slices: shares of 2 and 1, then 1 and 1, and uneven validation."""
    changes = {"training__devices": devices, "training__validation_slices": 3}
    changes |= {"training__log_every_steps": 1, "training__validate_every_steps": 2}
    changes |= {f"methods__cDPM__{k}": v for k, v in OWN.items()}
    return settings(**changes)


def run(folder: Path, devices: int) -> None:
    train(
        job(config(devices), "cDPM"),
        [folder.parent / "train.h5"],
        [folder.parent / "validation.h5"],
        output=folder / "cDPM.safetensors",
        kept=folder / "kept",
        run_dir=folder / "run",
        log_csv=folder / "log.csv",
        features=None,
        threads=2,
    )


def test_two_processes_give_the_gradient_of_the_joint_batch(tmp_path):
    make_shard(tmp_path / "train.h5", slices=5)
    make_shard(tmp_path / "validation.h5", subject="subject20", slices=3, seed=1)
    states, logs = [], []
    for devices in (1, 2):
        folder = tmp_path / f"on{devices}"
        folder.mkdir()
        script = tmp_path / f"run{devices}.py"
        text = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), devices=devices)
        script.write_text(text)
        result = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300
        )
        assert result.returncode == 0, result.stderr[-3000:]
        states.append(checkpoints.load_working(folder / "run" / "working.pt"))
        (last,) = (folder / "kept").iterdir()
        assert last.read_bytes() == (folder / "cDPM.safetensors").read_bytes()
        logs.append(list(csv.DictReader((folder / "log.csv").open())))
    # Adam's first moment is a mean of the gradients of all steps.
    optimisers = (state["parts"]["network"]["optimiser"]["state"] for state in states)
    for one, two in zip(*(optimiser.values() for optimiser in optimisers), strict=True):
        scale = float(one["exp_avg"].abs().max())
        torch.testing.assert_close(one["exp_avg"], two["exp_avg"], rtol=1e-3, atol=1e-4 * scale)
    names = ("loss", "gradient_norm", "validation_psnr_db", "validation_ssim")
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]] == ["1", "2"]
    for one, two in zip(*logs, strict=True):
        for name in names:
            assert (one[name] == "") == (two[name] == "")
            if one[name]:
                assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-4), name


def test_shares_make_up_the_batch_and_count_by_their_size():
    plain = list(BatchOrder(7, 3, 0, 0, 6))
    shares = [BatchOrder(7, 3, 0, 0, 6, (rank, 2)) for rank in (0, 1)]
    for step, (batch, *parts) in enumerate(zip(plain, *shares, strict=True)):
        counted = [
            part if share.weight(step) else [] for part, share in zip(parts, shares, strict=True)
        ]
        assert sorted(index for part in counted for index in part) == sorted(batch)
        assert sum(share.weight(step) for share in shares) == pytest.approx(1)
        assert all(parts)  # nobody is left waiting for the others


def test_batch_norms_of_several_cpu_processes_are_refused(monkeypatch):
    fabric = make_fabric(settings()["training"], 1, 1)
    monkeypatch.setattr(type(fabric), "world_size", 2)
    with pytest.raises(InputError, match=r"training\.devices: is 2 on the CPU"):
        share_statistics(torch.nn.BatchNorm2d(1), fabric)
    convolution = torch.nn.Conv2d(1, 1, 1)
    assert share_statistics(convolution, fabric) is convolution


def test_missing_gpus_are_named():
    if torch.cuda.is_available():
        pytest.skip("there are GPUs")
    training = settings(training__device="cuda")["training"]
    with pytest.raises(InputError, match=r"asks for 1 GPU.*sees 0"):
        make_fabric(training, 1, 1)
