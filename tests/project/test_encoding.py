"""Text is UTF-8 whatever the locale: what the project reads, and what it writes."""

import ast
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from helpers.configurations import ROOT
from helpers.workflow import workplace
from pipeline.storage import hdf5
from pipeline.storage.kinds import OSEM

LOCALES = ["C", "ja_JP.EUC-JP", "de_DE.ISO-8859-1"]
"""Python takes a locale that the machine lacks for C, which knows the fewest characters."""

SOURCES = sorted(
    path
    for folder in ("pipeline", "models", "workflow/scripts", "benchmarks", "tools")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.fixture(params=LOCALES)
def locale(request, tmp_path_factory):
    """Environment of a locale, made where possible, that Python does not replace by UTF-8."""
    folder = tmp_path_factory.mktemp("locales")
    language, _, charset = request.param.partition(".")
    if charset:
        command = ["localedef", "-i", language, "-f", charset, folder / request.param]
        subprocess.run(
            ["sh", "-c", '"$@" || true', "sh", *command], capture_output=True, check=True
        )
    chosen = {"LC_ALL": request.param, "LOCPATH": str(folder)}
    return os.environ | chosen | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def python(locale, folder, *arguments):
    command = [sys.executable, *map(str, arguments)]
    environment = locale | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


def test_the_workflow_is_read(tmp_path, locale):
    folder = workplace(tmp_path / "run")
    done = python(
        locale, folder, "-m", "snakemake", "-n", "--configfile", ROOT / "tests" / "tiny.yaml"
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


WRITE = r"""
import logging
from types import SimpleNamespace
from pipeline.jobs.job import job

with job(SimpleNamespace(log=["job.log"], threads=1, rule="osem")):
    logging.info("\u03bb\u2082 = 3 \u00b5m")
"""


def test_logs_are_written(tmp_path, locale):
    done = python(locale, tmp_path, "-c", WRITE)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert "λ₂ = 3 µm" in (tmp_path / "job.log").read_text(encoding="utf-8")


def test_what_a_file_holds_is_printed(tmp_path, locale):
    path = tmp_path / "file.h5"
    arrays = {
        name: np.ones([8] * len(dataset.axes), dataset.dtype)
        for name, dataset in OSEM.datasets.items()
    }
    hdf5.write(path, OSEM, arrays, hdf5.provenance({}, subject="頭 λ"))
    done = python(locale, tmp_path, "-m", "pipeline.preview", path)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"subject = " in done.stdout


def test_names_of_files_are_printed(tmp_path, locale):
    (tmp_path / "頭.csv").touch()
    record = '{"folder": ".", "inputs": {"λ.h5": "0"}, "files": {}, "code": {}}'
    (tmp_path / "provenance.json").write_text(record, encoding="utf-8")
    done = python(locale, tmp_path, "-m", "pipeline.jobs.provenance", "provenance.json")
    assert done.returncode == 1, done.stderr.decode(errors="replace")
    assert b"missing" in done.stdout


def unnamed(tree):
    """Find calls that read or write text in the locale's encoding, as far as names tell."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {keyword.arg for keyword in node.keywords}
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        modes += [getattr(k.value, "value", None) for k in node.keywords if k.arg == "mode"]
        binary = any(isinstance(mode, str) and "b" in mode for mode in modes)
        text = name in ("read_text", "write_text", "FileHandler", "TextIOWrapper", "fdopen")
        text |= name in ("open", "TemporaryFile", "NamedTemporaryFile") and not binary
        text |= bool(given & {"text", "universal_newlines"})
        if text and "encoding" not in given:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_the_code_names_the_encoding_of_all_text():
    """Ruff's rule asks for it where it can tell the types; this one goes by the names alone."""
    binary = ("os.open", "gzip.open", "io.open_code", "archive.open")
    found = {
        f"{path.relative_to(ROOT)}, {call}"
        for path in SOURCES
        for call in unnamed(ast.parse(path.read_text(encoding="utf-8")))
        if not any(f" {name}(" in call for name in binary)
    }
    assert not found


@pytest.mark.parametrize(
    "call",
    [
        "path.read_text()",
        "path.write_text(x)",
        "open(path)",
        "path.open('a', newline='')",
        "subprocess.run(x, text=True)",
        "logging.FileHandler(path, mode='w')",
        "tempfile.NamedTemporaryFile('w')",
    ],
)
def test_a_call_that_names_no_encoding_is_found(call):
    assert list(unnamed(ast.parse(call)))
    named = re.sub(r"\)$", ", encoding='utf-8')", call)
    assert not list(unnamed(ast.parse(named.replace("(,", "("))))


def test_the_rules_read_and_write_no_text_of_their_own():
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        assert not re.search(r"read_text|write_text|\bopen\(", path.read_text(encoding="utf-8"))
