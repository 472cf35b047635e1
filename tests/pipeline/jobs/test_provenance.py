import hashlib
import json
import os
import subprocess

import h5py
import pytest
import yaml

from pipeline.jobs import provenance
from pipeline.jobs.provenance import Sources
from pipeline.storage.errors import InputError

OWN = {
    "brainweb_dir": "/home/somebody",
    "images_dir": "/home/somebody/scans",
    "scans": {"head": {"sinogram": "/home/somebody/head.hs"}},
}
CONFIG = {"name": "x", "source": "mni152", "seed": 3, **OWN, "a": [1]}
TRAINED = {"seed": 5, "device": "cuda:0", "devices": 2, "code": "c0de", "threads": 7}
RESULTS = ("t.csv", "weights/LegoPET.yaml", "checkpoints/LegoPET/epoch0001.safetensors", "r.h5")


def hdf5_file(path, **attributes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a record of some results, and the times of two jobs."""
    monkeypatch.chdir(tmp_path)
    results, data = tmp_path / "results/x", tmp_path / "data"
    for name in RESULTS:
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(name)
    (results / "weights/LegoPET.yaml").write_text(yaml.safe_dump(TRAINED))
    (results / "checkpoints/LegoPET/.snakemake_timestamp").touch()
    hdf5_file(results / "r.h5", kind="reconstruction", seed=8, device="cpu", epoch=2)
    for subject, device in (("subject01", "cpu"), ("subject02", "cuda:0"), ("subject03", "cpu")):
        hdf5_file(data / f"{subject}.h5", kind="osem", projector="sparse", device=device)
    hdf5_file(data / "labels.h5", kind="labels", subject="subject01", labels_sha256="1abe15")
    (data / "subjects.tsv").write_text("subject\n")
    for name, seconds in (("train/LegoPET", 12.5), ("metrics", 2.0)):
        log = tmp_path / f"logs/{name}.tsv"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:12\t100\n")
    folder = results.relative_to(tmp_path)
    sources = Sources(
        inputs=[data.relative_to(tmp_path) / name for name in ("subjects.tsv", "labels.h5")],
        stages=[path.relative_to(tmp_path) for path in data.glob("subject0*.h5")],
        files=[folder / name for name in ("t.csv", "weights/LegoPET.yaml", "checkpoints", "r.h5")],
        settings=[folder / "weights/LegoPET.yaml"],
        logs=tmp_path / "logs",
    )
    provenance.write(folder / "provenance.json", folder / "config.yaml", CONFIG, sources)
    return tmp_path


def read(place):
    return json.loads((place / "results/x/provenance.json").read_text())


def verified(place, capsys):
    """Exit code and lines of the command."""
    code = provenance.main([str(place / "results/x/provenance.json")])
    return code, capsys.readouterr().out.splitlines()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_record_says_what_was_used(place):
    record = read(place)
    assert record["seconds"] == {"sum": 14.5, "metrics": 2.0, "train/LegoPET": 12.5}
    assert record["versions"]["torch"]
    assert len(record["code"]["train"]) == 16
    assert (record["name"], record["source"], record["seed"]) == ("x", "mni152", 3)
    assert record["command"] == "snakemake --cores all --configfile results/x/config.yaml"
    assert record["labels"] == {"subject01": "1abe15"}
    assert record["trained_with"]["LegoPET"] == {
        name: TRAINED[name] for name in ("seed", "device", "devices", "code")
    }
    assert sorted(record["made_with"].pop("osem")["device"]) == ["cpu", "cuda:0"]
    assert record["made_with"] == {"reconstruction": {"seed": [8], "device": ["cpu"]}}


def test_record_has_hashes_of_inputs_results_and_configuration(place):
    record, results = read(place), place / "results/x"
    assert record["inputs"] == {
        name: sha256(place / name) for name in ("data/labels.h5", "data/subjects.tsv")
    }
    assert record["files"] == {
        f"results/x/{name}": sha256(results / name) for name in sorted([*RESULTS, "config.yaml"])
    }


def test_resolved_configuration_leaves_out_the_users_folder(place):
    resolved = yaml.safe_load((place / "results/x/config.yaml").read_text())
    assert resolved == CONFIG | {"brainweb_dir": "", "images_dir": "", "scans": {}}
    assert "somebody" not in (place / "results/x/provenance.json").read_text()


def test_an_intact_folder_verifies_from_anywhere(place, tmp_path_factory, monkeypatch, capsys):
    intact = (0, ["all files are as recorded"])
    assert verified(place, capsys) == intact
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert verified(place, capsys) == intact
    moved = place.rename(place.with_name("moved"))
    assert verified(moved, capsys) == intact
    (moved / "results").rename(moved / "disk")
    (moved / "results").symlink_to("disk")
    assert verified(moved, capsys) == intact


def test_changed_and_missing_files_are_named(place, capsys):
    (place / "results/x/t.csv").write_text("other")
    (place / "results/x/r.h5").unlink()
    (place / "results/x/config.yaml").write_text("seed: 4\n")
    (place / "data/subjects.tsv").unlink()
    code, lines = verified(place, capsys)
    assert code == 1
    assert lines == [
        "data/subjects.tsv: missing",
        "results/x/config.yaml: changed",
        "results/x/r.h5: missing",
        "results/x/t.csv: changed",
        "4 files are not as recorded",
    ]


def test_what_the_record_does_not_know_is_a_note(place, capsys):
    results = place / "results/x"
    (results / "weights/other.yaml").touch()
    (results / "runs/LegoPET").mkdir(parents=True)
    (results / "runs/LegoPET/working.pt").touch()
    (results / "empty").mkdir()
    (results / "\x1b[2J").touch()
    assert verified(place, capsys) == (
        0,
        [
            r"note: not in the record: results/x/\x1b[2J",
            "note: not in the record: results/x/runs",
            "note: not in the record: results/x/weights/other.yaml",
            "all files are as recorded",
        ],
    )


def test_other_code_is_a_note(place, capsys):
    record = read(place)
    record["code"] |= {"train": "0" * 16, "gone": "0" * 16}
    (place / "results/x/provenance.json").write_text(json.dumps(record))
    code, lines = verified(place, capsys)
    assert code == 0
    assert lines[0] == "note: the code here is not the recorded one: train, gone"


def git(folder, *arguments):
    """Call git as a user does, in a folder."""
    command = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@y", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def repository(folder):
    """Make a repository of one commit; give that."""
    folder.mkdir()
    (folder / "code.py").write_text(folder.name)
    git(folder, "init")
    git(folder, "add", "code.py")
    git(folder, "commit", "-m", "x")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a repository, and take it for the project's folder; give it and its commit."""
    found = repository(tmp_path / "project")
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "project")
    return tmp_path / "project", found


@pytest.mark.parametrize("changed", [False, True])
def test_commit_of_the_code(project, changed):
    folder, found = project
    if changed:
        (folder / "code.py").write_text("2")
    assert provenance.commit() == {"commit": found, "changed": changed}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GIT_DIR", "{}/.git"),
        ("GIT_WORK_TREE", "{}"),
        ("GIT_COMMON_DIR", "{}/.git"),
        ("GIT_INDEX_FILE", "{}/.git/index"),
        ("GIT_OBJECT_DIRECTORY", "{}/.git/objects"),
        ("GIT_NAMESPACE", "other"),
    ],
)
def test_the_environment_of_a_hook_says_nothing_about_the_code(
    project, tmp_path, monkeypatch, variable, value
):
    repository(tmp_path / "other")
    monkeypatch.setenv(variable, value.format(tmp_path / "other"))
    assert provenance.commit() == {"commit": project[1], "changed": False}


def test_commit_of_a_checkout_that_belongs_to_another_user(project, monkeypatch):
    folder, found = project
    if os.geteuid() == 0:
        for path in (folder, folder / ".git"):
            os.chown(path, 65534, 65534)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(subprocess.CalledProcessError):
        git(folder, "rev-parse", "HEAD")
    assert provenance.commit() == {"commit": found, "changed": False}


def test_commit_of_a_further_working_tree(project, tmp_path, monkeypatch):
    git(project[0], "worktree", "add", tmp_path / "second")
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "second")
    assert provenance.commit() == {"commit": project[1], "changed": False}


@pytest.mark.parametrize("leftover", ["nothing", "an empty folder"])
def test_a_repository_around_the_code_is_another_projects(project, monkeypatch, leftover):
    vendored = project[0] / "vendored"
    vendored.mkdir()
    if leftover == "an empty folder":
        (vendored / ".git").mkdir()
    monkeypatch.setattr(provenance, "ROOT", vendored)
    found = provenance.commit()
    assert found.keys() == {"unknown"}
    assert "not a git repository" in found["unknown"]


def test_why_the_commit_is_not_known_is_said(project, tmp_path, monkeypatch):
    folder, _ = project
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/none\n")
    assert "unknown revision" in provenance.commit()["unknown"]
    (folder / ".git" / "config").write_text("[")
    assert "bad config" in provenance.commit()["unknown"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() == {"unknown": "git cannot be run (No such file or directory)"}


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", "[" * 100_000, '{"inputs": {}, "files": 3, "code": {}, "folder": ""}']
)
def test_a_damaged_record_is_refused(place, capsys, text):
    path = place / "results/x/provenance.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"provenance\.json: is no record"):
        provenance.differences(path)
    assert provenance.main([str(path)]) == 2
    assert provenance.main([]) == 2
    assert "usage" in capsys.readouterr().out


def test_a_file_that_may_not_be_read_is_named(place, capsys, monkeypatch):
    def refuse(path):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(provenance, "_sha256", refuse)
    code, lines = verified(place, capsys)
    assert code == 1
    assert lines[0] == "data/labels.h5: cannot be read (Permission denied)"
