"""Two processes train as one."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import ROOT
from helpers.small_models import job, make_shard, settings
from helpers.trainings import working
from models.devices import make_fabric, share_statistics
from models.training import resume
from models.training.order import BatchOrder
from models.training.train import train
from pipeline.jobs import launch
from pipeline.storage.errors import InputError

SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{here!r}, {root!r}, {tests!r}]
from test_ddp import run
run(Path({folder!r}), {devices}, {threads}, {changes})
"""


OWN = {"batch_size": 3, "epochs": 1, "keep_every_epochs": 1}


def config(devices, **others):
    """Batches of 3 and 2 of 5 slices: shares of 2 and 1, then 1 and 1, and uneven validation."""
    changes = {"training__devices": devices, "training__validation_slices": 3}
    changes |= {"training__log_every_steps": 1, "training__validate_every_steps": 2}
    changes |= {f"methods__cDPM__{k}": v for k, v in OWN.items()}
    return settings(**changes | others)


def run(folder: Path, devices: int, threads: int, changes: dict) -> None:
    train(
        job(config(devices, **changes), "cDPM"),
        [folder.parent / "train.h5"],
        [folder.parent / "validation.h5"],
        output=folder / "cDPM.safetensors",
        kept=folder / "kept",
        run_dir=folder / "run",
        log_csv=folder / "log.csv",
        frozen=None,
        threads=threads,
    )


def make_shards(folder):
    make_shard(folder / "train.h5", slices=5)
    make_shard(folder / "validation.h5", subject="subject20", slices=3, seed=1)


def spawn(folder, devices, variables=(), **changes):
    """Start training in a folder: one process, or as many as there are sets of variables."""
    folder.mkdir(exist_ok=True)
    script = folder / "run.py"
    numbers = {"devices": devices, "threads": 1 if variables else 2, "changes": changes}
    places = {"here": str(Path(__file__).parent), "root": str(ROOT)}
    places["tests"] = str(ROOT / "tests")
    script.write_text(SCRIPT.format(**places, folder=str(folder), **numbers))
    return [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=os.environ | own,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in variables or [{}]
    ]


def finish(processes):
    """Wait for processes; give their exit codes and what they said."""
    texts = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], "".join(texts)[-6000:]


def torchrun(count=2, port=29511):
    """Variables that torchrun sets for each of its processes."""
    joint = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    joint["MASTER_ADDR"] = "127.0.0.1"
    each = [{"RANK": n, "LOCAL_RANK": n, **joint} for n in range(count)]
    return [{key: str(value) for key, value in one.items()} for one in each]


def srun(count=2, port=29513):
    """Variables that srun sets for each task of a step on one node."""
    joint = {"STEP_NUM_TASKS": count, "STEP_TASKS_PER_NODE": count, "NODEID": 0, "JOB_ID": 7}
    joint["STEP_NODELIST"] = "localhost"
    each = [{"PROCID": n, "LOCALID": n, **joint} for n in range(count)]
    named = [{f"SLURM_{key}": str(value) for key, value in one.items()} for one in each]
    return [one | {"MASTER_PORT": str(port)} for one in named]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folder of a training that started its second process itself."""
    folder = tmp_path_factory.mktemp("ddp") / "two"
    make_shards(folder.parent)
    codes, said = finish(spawn(folder, 2))
    assert codes == [0], said
    return folder


def test_two_processes_give_the_gradient_of_the_joint_batch(two):
    one = two.parent / "one"
    run(one, 1, 2, {})
    states, logs = [], []
    for folder in (one, two):
        states.append(resume.load_working(working(folder)))
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


def test_processes_of_a_launcher_train_as_those_that_training_starts(two):
    variables = {"torchrun": torchrun(), "srun": srun()}
    started = {name: spawn(two.parent / name, 2, each) for name, each in variables.items()}
    for name, each in started.items():
        codes, said = finish(each)
        assert set(codes) == {0}, f"{name}: {said}"
    own = load_file(two / "cDPM.safetensors")
    for folder in (two.parent / name for name in variables):
        other = load_file(folder / "cDPM.safetensors")
        assert own.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())
        assert len((folder / "log.csv").read_text().splitlines()) == 3


def test_a_signal_to_all_processes_ends_in_one_checkpoint(tmp_path):
    make_shards(tmp_path)
    long = {"methods__cDPM__epochs": 1000, "training__checkpoint_every_steps": 10**6}
    started = spawn(tmp_path / "x", 2, torchrun(port=29512), **long)
    deadline = time.monotonic() + 200
    logs = (tmp_path / "x" / "run").glob
    while not (found := list(logs("*/log.csv"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in started:
        process.send_signal(signal.SIGTERM)
    codes, said = finish(started)
    assert codes == [143, 143], said
    step = resume.load_working(working(tmp_path / "x"))["step"]
    assert said.count(f"signal 15: stopped at step {step};") == 2
    assert int(found[0].read_text().splitlines()[-1].split(",")[0]) == step


def test_another_number_of_processes_is_refused(tmp_path, monkeypatch):
    for name, value in torchrun(3)[0].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"training\.devices: is 2, and 3 processes were started"):
        make_fabric(job(settings(), "PnPNet").training, 2, 1)


def test_uneven_tasks_of_srun_are_refused(monkeypatch):
    for name, value in (srun()[0] | {"SLURM_STEP_TASKS_PER_NODE": "2,1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="started 2,1 processes on the nodes"):
        launch.adopt_launcher()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu7,gpu9", "gpu7"),
        ("node[01-03,05],gpu7", "node01"),
        ("r[2,4]n[1-3]", "r2n1"),
    ],
)
def test_all_meet_at_the_first_node_of_an_srun_step(monkeypatch, nodes, first):
    changes = {"SLURM_STEP_NODELIST": nodes, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
    changes |= {"SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_STEP_NUM_TASKS": "8"}
    monkeypatch.setattr(os, "environ", srun()[0] | changes)
    assert launch.rank() == 6
    found = {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    assert found == {"RANK": "6", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4"}
    assert os.environ["MASTER_ADDR"] == first


def test_tasks_of_a_job_are_not_taken_for_those_of_a_step(monkeypatch):
    """An sbatch script may ask for many and run one command."""
    monkeypatch.setattr(os, "environ", {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"})
    assert launch.rank() == 0
    assert "RANK" not in os.environ


def test_a_launcher_runs_the_script_again(tmp_path):
    script = tmp_path / "twice.py"
    script.write_text(
        "import os, sys\n"
        "from pipeline.jobs.launch import start\n"
        "start('env NAME=value')\n"
        "print(os.environ['NAME'], sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "x"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "value x\n", done.stderr


def test_a_launcher_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(InputError, match="resource mpi: is 'no-such-launcher -n 2'"):
        launch.start("no-such-launcher -n 2")


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
    fabric = make_fabric(job(settings(), "PnPNet").training, 1, 1)
    monkeypatch.setattr(type(fabric), "world_size", 2)
    with pytest.raises(InputError, match=r"training\.devices: is 2 on the CPU"):
        share_statistics(torch.nn.BatchNorm2d(1), fabric)
    convolution = torch.nn.Conv2d(1, 1, 1)
    assert share_statistics(convolution, fabric) is convolution


def test_missing_gpus_are_named():
    if torch.cuda.is_available():
        pytest.skip("there are GPUs")
    training = job(settings(training__device="cuda"), "PnPNet").training
    with pytest.raises(InputError, match=r"asks for 1 GPU.*sees 0"):
        make_fabric(training, 1, 1)
