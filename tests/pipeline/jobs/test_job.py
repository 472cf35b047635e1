import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.configurations import ROOT
from helpers.volumes import HTML
from pipeline.jobs.job import job
from pipeline.storage.errors import InputError


@pytest.fixture(autouse=True)
def restored():
    """Put back what a job sets for its whole process."""
    threads, handlers, level = torch.get_num_threads(), logging.root.handlers[:], logging.root.level
    yield
    for handler in logging.root.handlers[:]:
        if handler not in handlers:
            logging.root.removeHandler(handler)
            handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.captureWarnings(False)
    torch.set_num_threads(threads)


@pytest.fixture
def snakemake(tmp_path):
    return SimpleNamespace(log=[str(tmp_path / "job.log")], threads=1, rule="osem")


def log(snakemake):
    return Path(snakemake.log[0]).read_text(encoding="utf-8")


def test_messages_reach_the_log_file_and_stderr(snakemake, capsys):
    with job(snakemake):
        logging.info("slice %d of %d", 3, 55)
        warnings.warn("a warning", stacklevel=1)
    for text in (log(snakemake), capsys.readouterr().err):
        assert re.search(r"^\d{4}-\d\d-\d\d \S+ slice 3 of 55$", text, flags=re.MULTILINE)
        assert "UserWarning: a warning" in text


def test_bad_input_ends_with_its_message_and_no_traceback(snakemake, capsys):
    with pytest.raises(SystemExit) as exit_, job(snakemake):
        raise InputError("some/file.h5", "is empty", "run rule 'fbp' again")
    assert exit_.value.code == 1
    for text in (log(snakemake), capsys.readouterr().err):
        assert "Rule 'osem' stopped.\nsome/file.h5: is empty\n  -> run rule 'fbp' again" in text
        assert "Traceback" not in text


def test_other_errors_end_with_a_traceback(snakemake, capsys):
    with pytest.raises(SystemExit) as exit_, job(snakemake):
        raise ZeroDivisionError("a mistake of ours")
    assert exit_.value.code == 1
    for text in (log(snakemake), capsys.readouterr().err):
        assert "Rule 'osem' failed.\nTraceback" in text
        assert "test_job.py" in text
        assert "ZeroDivisionError: a mistake of ours" in text


def test_interruption_is_passed_on(snakemake):
    with pytest.raises(KeyboardInterrupt), job(snakemake):
        raise KeyboardInterrupt


def test_a_second_run_replaces_the_log(snakemake):
    for text in ("first", "second"):
        with job(snakemake):
            logging.info(text)
    assert "second" in log(snakemake)
    assert "first" not in log(snakemake)


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_uses_the_threads_of_the_rule(snakemake, threads):
    snakemake.threads = threads
    with job(snakemake):
        assert torch.get_num_threads() == threads


RUN_SCRIPT = """
import json, runpy, sys, types
snakemake = json.loads(sys.argv[1], object_hook=lambda values: types.SimpleNamespace(**values))
snakemake.config = vars(snakemake.config)
snakemake.params.decided_by = vars(snakemake.params.decided_by)
runpy.run_path(sys.argv[2], {"snakemake": snakemake})
"""


def test_a_rule_ends_with_exit_code_1(tmp_path):
    """The script of a rule, as Snakemake runs it, without Snakemake."""
    name = "subject04_crisp_v.mnc.gz"
    (tmp_path / name).write_bytes(HTML)
    namespace = {
        "output": [str(tmp_path / "labels.h5")],
        "log": [str(tmp_path / "job.log")],
        "wildcards": {"subject": "subject04"},
        "params": {"source": "brainweb", "decided_by": {}},
        "config": {"brainweb_dir": str(tmp_path), "subjects": "data/subjects.tsv"},
        "threads": 1,
        "rule": "fetch",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN_SCRIPT, json.dumps(namespace), "workflow/scripts/fetch.py"],
        **{"cwd": ROOT, "capture_output": True, "text": True, "check": False},
    )
    assert done.returncode == 1
    assert "Rule 'fetch' stopped." in done.stderr
    assert "is an HTML page, not a volume" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "job.log").read_text() == done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.log", name]


def launched(monkeypatch, rank):
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_of_joint_work_the_first_process_writes_the_log(snakemake, monkeypatch):
    for rank in (1, 0):
        launched(monkeypatch, rank)
        with job(snakemake, joint=True):
            logging.info("step 1")
        assert Path(snakemake.log[0]).exists() == (rank == 0)


def test_who_is_alone_writes_the_log_whatever_the_environment(snakemake, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with job(snakemake):
        logging.info("slice 1")
    assert "slice 1" in log(snakemake)


def test_what_a_launcher_says_wrongly_stands_in_the_log(snakemake, monkeypatch):
    monkeypatch.setenv("RANK", "")
    with pytest.raises(SystemExit), job(snakemake, joint=True):
        raise AssertionError
    assert "RANK: is '' in the environment" in log(snakemake)
