"""Of several calls of make in one folder one builds the environment, the others wait for it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from helpers.configurations import ROOT

PYTHON = f"""#!/bin/sh
case "$1" in
    tools/*) exec {sys.executable} "$@" ;;
    -m) rm -rf .venv && mkdir -p .venv/bin && cp pip .venv/bin/ && echo $$ > .venv/built_by ;;
esac
"""
"""In place of Python: an environment is a fake pip and the number of the call that built it."""

PIP = """#!/bin/sh
before=$(cat .venv/built_by)
echo "$before $1" >> log
[ "$1" = download ] && mkdir -p .venv/torch && touch .venv/torch/torch.whl
sleep 0.4
[ ! -e fail ] || { rm fail; exit 1; }
[ "$before" = "$(cat .venv/built_by)" ]
"""
"""Takes its time, and fails if another has built the environment meanwhile, or if told to."""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "benchmarks").mkdir()
    names = ("Makefile", "requirements.lock", "pyproject.toml", "benchmarks/requirements.txt")
    for name in (*names, *(f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py"))):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in (("python", PYTHON), ("pip", PIP)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def make(project, target="env"):
    return subprocess.Popen(
        ["make", "PYTHON=./python", target],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(*calls):
    """Give exit codes and outputs."""
    outputs = [call.communicate(timeout=60)[0] for call in calls]
    return [call.returncode for call in calls], outputs


def builders(project):
    """Those that built the environment, and how often each called pip."""
    lines = (project / "log").read_text(encoding="utf-8").splitlines()
    numbers = [line.split()[0] for line in lines]
    return [numbers.count(number) for number in dict.fromkeys(numbers)]


def begun(project):
    while not (project / "log").exists():
        time.sleep(0.02)


WAITS = "another call of make holds .venv.lock: waiting until it ends"


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_one_builds_and_the_others_wait(project, calls):
    codes, outputs = ended(*(make(project) for _ in range(calls)))
    assert codes == [0] * calls, outputs
    assert builders(project) == [5]
    assert sum(WAITS in output for output in outputs) == calls - 1


def test_the_next_goes_on_where_the_first_was_killed(project):
    first = make(project)
    begun(project)
    second = make(project)
    time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    codes, outputs = ended(first, second)
    assert codes == [-signal.SIGKILL, 0], outputs
    assert len(builders(project)) == 2
    assert (project / ".venv/.ready").exists()


def test_the_next_tries_itself_where_the_first_failed(project):
    (project / "fail").touch()
    first = make(project)
    begun(project)
    codes, outputs = ended(first, make(project))
    assert codes == [2, 0], outputs
    assert builders(project) == [1, 5]


def test_what_benchmarks_compare_with_is_built_once_too(project):
    assert ended(make(project))[0] == [0]
    codes, outputs = ended(*(make(project, ".reference/.ready") for _ in range(2)))
    assert codes == [2, 2], outputs  # the fake pip installs nothing, so there is no such folder
    (project / "log").unlink()
    (project / "pip").write_text(PIP + "mkdir -p .reference\n", encoding="utf-8")
    shutil.copy(project / "pip", project / ".venv/bin/pip")
    codes, outputs = ended(*(make(project, ".reference/.ready") for _ in range(2)))
    assert codes == [0, 0], outputs
    assert builders(project) == [1]


def test_nothing_waits_where_all_is_built(project):
    assert ended(make(project))[0] == [0]
    (project / ".venv.lock").unlink()
    assert ended(make(project))[0] == [0]
    assert not (project / ".venv.lock").exists()


def test_help_names_every_target():
    said = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, text=True, capture_output=True, check=False
    )
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    named = [line.split()[0] for line in said.stdout.splitlines()]
    assert sorted(named) == sorted(targets.split())
