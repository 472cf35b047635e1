"""The workflow killed at random moments ends with the same results as if left alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helpers.killing import Kill, Run, jobs_of, name_of, plan, steps
from helpers.sameness import differences, finals
from helpers.workflow import ROOT, snakemake, workplace
from models.training.resume import load_working

SEED = 2411
TINY = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
INTERVAL = TINY["training"]["checkpoint_every_steps"]
pytestmark = pytest.mark.dag


def test_a_run_killed_anywhere_ends_with_the_same_results(finished, tmp_path, pytestconfig, capsys):
    """Snakemake and its jobs are killed; after each kill no file under a final name is incomplete.

    A kill that came too late, after its job had ended, is repeated sooner, if need be with that
    job's outputs deleted and asked for.
    """
    folder = workplace(tmp_path / "killed")
    kills = pytestconfig.getoption("kills")
    planned = plan(jobs_of(finished), kills, SEED)
    asked = ["all"]
    while planned:
        run = Run(folder, *asked)
        hit = run.kill_at(planned)
        if hit is None:
            assert run.wait() == 0, run.output[-4000:]
            # What is missing is only made again where it is asked for: what needed it is there.
            late = {path for kill in planned for path in kill.target.outputs}
            for output in late:
                remove(folder / output)
            asked = sorted({*asked, *late})
            planned = [sooner(kill) for kill in planned]
            continue
        kill, running = hit
        planned.remove(kill)
        if kill.target.log not in running:
            planned.append(sooner(kill))
        lost = {log: lost_steps(folder, log) for log in running if "/train/" in log}
        with capsys.disabled():
            print(report(kills - len(planned), kills, kill, running, lost))
        assert differences(folder, finished) == []
        assert max(lost.values(), default=0) <= INTERVAL
        unlocked = snakemake(folder, "--unlock")
        assert unlocked.returncode == 0, unlocked.stdout
    last = Run(folder, *asked)
    assert last.wait() == 0, last.output[-4000:]
    assert differences(folder, finished) == []
    assert finals(folder) == finals(finished)


def sooner(kill: Kill) -> Kill:
    return replace(kill, fraction=kill.fraction / 2)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def lost_steps(folder: Path, log: str) -> int:
    """Count the steps that a killed training had reported and its checkpoint does not hold."""
    runs = folder / "results" / "tiny" / "runs" / Path(log).stem
    kept = max((load_working(path)["step"] for path in runs.glob("*/working.pt")), default=0)
    return max(0, steps(folder / log)[0] - kept)


def report(number: int, kills: int, kill: Kill, running: list[str], lost: dict[str, int]) -> str:
    """Describe a kill in a line."""
    moment = f"{kill.fraction:.0%} into {kill.target.name}"
    others = [name_of(log) for log in running if log != kill.target.log]
    parts = [f"{number:2d} of {kills}", f"{kill.number.name} {moment}"]
    if kill.target.log not in running:
        parts.append("too late, again")
    if others:
        parts.append(f"also running: {', '.join(others)}")
    parts += [f"{name_of(log)} lost {steps} steps" for log, steps in lost.items()]
    return "; ".join(parts)
