"""How the workflow grows with the table of subjects, and the benchmark that measures it."""

import re

import pytest

from benchmarks import data_half, scaling
from helpers.workflow import ROOT

pytestmark = pytest.mark.dag

STUDY = ("--cores", "1", "--config", "subjects=subjects.tsv")


def planned(output):
    """Jobs by rule, of a dry run."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output, re.M)}


def test_the_graph_is_measured_and_more_subjects_leave_the_others_alone(tmp_path):
    folder = tmp_path / "study"
    jobs, costs = scaling.graph(folder, 20)
    assert jobs == 194
    assert all(min(cost[:3]) > 0 for cost in costs.values())

    known = [f"data/paper/shards/subject{number:04d}.h5" for number in range(1, 21)]
    names = [f"subject{number:04d}" for number in range(1, 41)]
    scaling.write_subjects(folder, ((n, scaling.split_of(k)) for k, n in enumerate(names, 1)))
    again = scaling.call(folder, [*STUDY, "--dry-run", "--", *known])
    assert "Nothing to be done" in again.output

    panel = "results/paper/figures/panel.png"
    arguments = [*STUDY, "--forcerun", "reconstruct", "--dry-run", "--", panel]
    drawn = planned(scaling.call(folder, arguments).output)
    assert drawn["reconstruct"] == 2 * 7  # of four test subjects two are drawn


def test_jobs_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "BASE", ROOT / "tests" / "tiny.yaml")
    scaling.measure_jobs(tmp_path / "jobs", [1], [2])
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.split(" | ")[:3] == ["| stage", "cores", "subjects"]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| data", "2", "1"],
        ["| evaluation", "2", "1"],
    ]
    for line in lines:
        assert all(float(number) > 0 for number in line.strip("| ").split(" | ")[3:])
    (shard,) = (tmp_path / "jobs" / "data" / "scaling" / "shards").rglob("subject03.h5")
    table = data_half.table(tmp_path / "jobs", "scaling", "mni152", shard.stem)
    assert list(table["rule"]) == list(data_half.FILES)
    assert (table["imports"] > 0).all()
    multiplied = table.set_index("rule").loc[["sinogram", "osem", "fbp"], ["products", "GB/s"]]
    assert (multiplied > 0).all(axis=None)


def test_a_call_that_fails_is_shown(tmp_path):
    with pytest.raises(SystemExit, match=r"nothing\.txt failed"):
        scaling.call(scaling.workplace(tmp_path / "study"), ["--cores", "1", "--", "nothing.txt"])
