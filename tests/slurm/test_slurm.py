"""The workflow on a real SLURM, disturbed, against the same on this computer alone."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.sameness import differences, finals
from helpers.slurm import cluster, obstacle, output
from helpers.workflow import ROOT, workplace

TESTS = ROOT / "tests"
SETTINGS = yaml.safe_load((TESTS / "slurm.yaml").read_text())
INTERVAL = SETTINGS["training"]["checkpoint_every_steps"]
STEPS = 2 * SETTINGS["methods"]["cDPM"]["epochs"]
ON_SLURM = (
    *("--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10"),
)

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm():
    if reason := obstacle():
        pytest.skip(f"SLURM cannot be tested here: {reason}")
    with cluster():
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder in which the whole DAG has run without a cluster."""
    folder = workplace(tmp_path_factory.mktemp("undisturbed") / "run")
    finish(folder, start(folder, "--cores", "2"))
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start Snakemake; the folder's own overlay, if there is one, comes last."""
    overlays = [TESTS / "tiny.yaml", TESTS / "slurm.yaml", *folder.glob("overlay.yaml")]
    command = [sys.executable, "-m", "snakemake", "--configfile", *map(str, overlays)]
    with (folder / "output").open("w") as text:
        return subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            stdout=text,
            stderr=subprocess.STDOUT,
            env=os.environ | {"MPLBACKEND": "Agg"},
        )


def finish(folder: Path, dag: subprocess.Popen[bytes]) -> str:
    """Wait for Snakemake; give what it said."""
    dag.wait()
    text = (folder / "output").read_text()
    assert dag.returncode == 0, text[-6000:]
    return text


def disturb(
    folder: Path, dag: subprocess.Popen[bytes], acts: dict[str, Callable[[str], None]]
) -> dict[str, tuple[str, int]]:
    """Do something to each of some training jobs once it has a checkpoint, while Snakemake runs.

    Returns
    -------
    dict
        Number of the job, and the last step that it had reported before, by the model.
    """
    found: dict[str, tuple[str, int]] = {}
    while dag.poll() is None and found.keys() != acts.keys():
        time.sleep(0.2)
        for model in acts.keys() - found.keys():
            states = list((folder / "results" / "tiny" / "runs" / model).glob("*/working.pt"))
            if states and (number := running(model)):
                log = states[0].with_name("log.csv")
                step = int(log.read_text().splitlines()[-1].split(",")[0])
                found[model] = number, step
                acts[model](number)
    assert found.keys() == acts.keys(), finish(folder, dag)
    return found


def running(model: str) -> str | None:
    """Give the number of the SLURM job that trains a model."""
    jobs = output("squeue", "--noheader", "--states=RUNNING", "--format=%i %k").splitlines()
    comment = f"rule_train_wildcards_{model}"
    return next((job.split()[0] for job in jobs if job.split()[-1] == comment), None)


def cancel(number: str) -> None:
    """As somebody who cancels the job."""
    subprocess.run(["scancel", number], check=True)


def ask_to_end(number: str) -> None:
    """As SLURM, shortly before a job's time is over (--signal)."""
    subprocess.run(["scancel", "--signal=TERM", number], check=True)


def pre_empt(number: str) -> None:
    """As somebody with a job for the whole node in a partition that goes first."""
    urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true"]
    subprocess.run(urgent, check=True, stdout=subprocess.DEVNULL)


def resumed_at(folder: Path, model: str) -> int:
    """Give the step at which the last job of a training began."""
    text = (folder / "logs" / "tiny" / "train" / f"{model}.log").read_text()
    (step,) = re.findall(r"resumed at step (\d+) of", text)
    return int(step)


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()), one.name


def test_a_disturbed_dag_ends_with_the_undisturbed_runs_results(slurm, undisturbed, tmp_path):
    folder = workplace(tmp_path / "run")
    dag = start(folder, *ON_SLURM)
    acts = {"PnPNet": cancel, "cDPM": pre_empt, "LegoPET": ask_to_end}
    found = disturb(folder, dag, acts)
    said = finish(folder, dag)
    assert "Submitted array job" in said  # of the subjects
    for model, (_, step) in found.items():
        assert step - step % INTERVAL <= resumed_at(folder, model) < STEPS
    # Asked in time, training writes a checkpoint of the step that it has reached.
    assert resumed_at(folder, "LegoPET") >= found["LegoPET"][1]
    pre_empted = output("scontrol", "show", "job", found["cDPM"][0])
    assert "Restarts=1" in pre_empted
    assert "JobState=COMPLETED" in pre_empted
    assert differences(folder, undisturbed) == []
    assert finals(folder) == finals(undisturbed)


def test_srun_trains_as_two_processes_of_one_job(slurm, undisturbed, tmp_path):
    """Interrupted, too: every process is asked to end, and there is one checkpoint."""
    target = ("--", "results/tiny/weights/cDPM.safetensors")
    srun = ("--set-resources", "train:mpi=srun --ntasks-per-node=2", "train:tasks=2")
    for name in ("own", "slurm"):
        folder = tmp_path / name
        shutil.copytree(
            undisturbed, folder, symlinks=True, ignore=shutil.ignore_patterns("results", "logs")
        )
        (folder / "overlay.yaml").write_text("training: {devices: 2}\n")
        if name == "own":
            finish(folder, start(folder, "--cores", "2", *target))
        else:
            dag = start(folder, *ON_SLURM, *srun, *target)
            found = disturb(folder, dag, {"cDPM": ask_to_end})
            finish(folder, dag)
    assert found["cDPM"][1] <= resumed_at(folder, "cDPM") < STEPS
    assert_same_weights(tmp_path / "own" / target[1], folder / target[1])
