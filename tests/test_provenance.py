import hashlib
import json

import pytest
import yaml

from pipeline import provenance
from pipeline.errors import InputError

CONFIG = {"name": "x", "source": "mni152", "seed": 3, "brainweb_dir": "/home/somebody", "a": [1]}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder with two files of results and the times of two jobs, recorded."""
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / "b.csv", tmp_path / "a.png"]
    for path in files:
        path.write_text(path.name)
    logs = tmp_path / "logs"
    (logs / "train").mkdir(parents=True)
    for name, seconds in (("train/LegoPET", 12.5), ("metrics", 2.0)):
        (logs / f"{name}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:12\t100\n")
    relative = [path.relative_to(tmp_path) for path in files]
    provenance.write(tmp_path / "p.json", tmp_path / "config.yaml", CONFIG, relative, logs)
    return tmp_path


def test_record_says_what_was_used(results):
    record = json.loads((results / "p.json").read_text())
    assert record["files"] == {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.png", "b.csv")
    }
    assert record["seconds"] == {"sum": 14.5, "metrics": 2.0, "train/LegoPET": 12.5}
    assert record["versions"]["torch"]
    assert len(record["code"]["train"]) == 16
    assert (record["name"], record["source"], record["seed"]) == ("x", "mni152", 3)


def test_resolved_configuration_leaves_out_the_users_folder(results):
    resolved = yaml.safe_load((results / "config.yaml").read_text())
    assert resolved == CONFIG | {"brainweb_dir": ""}


def test_changed_and_missing_files_are_named(results, capsys):
    assert provenance.main(["p.json"]) == 0
    assert "as recorded" in capsys.readouterr().out
    (results / "a.png").unlink()
    (results / "b.csv").write_text("other")
    assert provenance.main(["p.json"]) == 1
    assert capsys.readouterr().out.splitlines() == ["a.png: missing", "b.csv: changed"]


def test_a_damaged_record_is_refused(results, capsys):
    (results / "p.json").write_text("{")
    with pytest.raises(InputError, match=r"p\.json: is no record"):
        provenance.differences(results / "p.json")
    assert provenance.main(["p.json"]) == 2
    assert provenance.main([]) == 2
    assert "usage" in capsys.readouterr().out
