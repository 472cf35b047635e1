"""What launchers say of a process in its environment, whole, in part, or wrongly."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.configurations import ROOT
from helpers.small_models import job, settings
from models.devices import make_fabric
from pipeline.jobs import launch
from pipeline.storage.errors import InputError

MASTER = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


def variables(*numbers):
    return dict(zip(launch.NUMBERS, map(str, numbers), strict=True))


@pytest.fixture
def environment(monkeypatch):
    """Replace the environment by these variables."""

    def replace(**found):
        monkeypatch.setattr(os, "environ", dict(found))

    return replace


@pytest.mark.parametrize(
    "said",
    [
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
        ALONE,
    ],
)
def test_a_process_that_is_alone_needs_to_be_told_no_more(environment, said):
    environment(**said)
    assert launch.adopt_launcher()
    assert {name: os.environ[name] for name in ALONE} == ALONE


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, (1, 4, 1, 4)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "1"}, (3, 4, 0, 1)),
        (variables(5, 8, 1, 4), (5, 8, 1, 4)),
    ],
)
def test_what_can_mean_one_thing_alone_is_completed(environment, said, whole):
    environment(**said, **MASTER)
    assert launch.rank() == whole[0]
    assert os.environ == variables(*whole) | MASTER


def test_nothing_said_is_no_launcher(environment):
    environment(**MASTER)
    assert not launch.adopt_launcher()
    assert launch.rank() == 0
    assert os.environ == MASTER


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"RANK": "1"}, "WORLD_SIZE and LOCAL_RANK and LOCAL_WORLD_SIZE: is missing .* RANK=1"),
        ({"LOCAL_RANK": "0"}, "RANK and WORLD_SIZE and LOCAL_WORLD_SIZE: is missing"),
        ({"WORLD_SIZE": "2"}, "RANK and LOCAL_RANK and LOCAL_WORLD_SIZE: is missing"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK and LOCAL_WORLD_SIZE: is missing"),
        (
            {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
            "LOCAL_RANK: is missing .* RANK=1, WORLD_SIZE=4, LOCAL_WORLD_SIZE=2",
        ),
        ({"RANK": ""}, "RANK: is '' in the environment"),
        ({**ALONE, "LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE: is ''"),
        ({"RANK": "-1", "WORLD_SIZE": "1"}, "RANK: is '-1'"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE: is 'two'"),
        ({"RANK": "0", "WORLD_SIZE": "1.0"}, "WORLD_SIZE: is '1.0'"),
        ({"RANK": "\u0661", "WORLD_SIZE": "2"}, "RANK: is '\u0661'"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK: is 1 in the environment, and WORLD_SIZE 1"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "is missing"),
        (variables(0, 0, 0, 1), "RANK: is 0 in the environment, and WORLD_SIZE 0"),
        (variables(4, 4, 0, 4), "RANK: is 4 in the environment, and WORLD_SIZE 4"),
        (variables(1, 2, 2, 2), "LOCAL_RANK: is 2 in the environment, and LOCAL_WORLD_SIZE 2"),
        (variables(0, 4, 0, 3), "LOCAL_WORLD_SIZE: is 3 .* does not divide WORLD_SIZE 4"),
        (variables(0, 1, 0, 2), "LOCAL_WORLD_SIZE: is 2 .* does not divide WORLD_SIZE 1"),
        (variables(1, 4, 0, 2), "LOCAL_RANK: is 0 in the environment, and RANK 1 of nodes with 2"),
        (variables(0, 2, 0, 2) | {"MASTER_ADDR": ""}, "MASTER_ADDR: is missing or empty"),
        (variables(0, 2, 0, 2) | {"MASTER_PORT": "http"}, "MASTER_PORT: is 'http'"),
        (variables(0, 2, 0, 2) | {"MASTER_PORT": "70000"}, "MASTER_PORT: is 70000"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_TASKS_PER_NODE: is '' .* srun"),
    ],
)
def test_what_is_wrong_or_not_enough_is_named(environment, said, message):
    environment(**MASTER | said)
    with pytest.raises(InputError, match=message) as refused:
        make_fabric(job(settings(), "PnPNet").training, 1, 1)
    assert refused.value.remedy
    assert os.environ == MASTER | said  # nothing is half-adopted


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_every_process_of_a_launcher_is_understood(nodes, here, data):
    number = data.draw(st.integers(0, nodes * here - 1))
    whole = variables(number, nodes * here, number % here, here) | MASTER
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", dict(whole))
        assert launch.rank() == number
        assert os.environ == whole


def test_one_process_of_a_launcher_computes(tmp_path):
    """As Kubeflow and Vertex start one; libraries read the environment of the process itself."""
    code = (
        "from types import SimpleNamespace\n"
        "from models.devices import make_fabric\n"
        "training = SimpleNamespace(device='cpu', precision='32-true')\n"
        "fabric = make_fabric(training, 1, 1)\n"
        "print(fabric.world_size, fabric.global_rank)"
    )
    own = {"RANK": "0", "WORLD_SIZE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["1", "0"]
