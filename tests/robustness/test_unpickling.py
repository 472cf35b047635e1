"""No code path may unpickle, or run in any other way, what a file holds."""

import ast
import re

import pytest

from helpers.configurations import ROOT

UNSAFE = {"dill", "joblib", "cloudpickle", "shelve", "marshal"}
RENAMED = r"^import (pickle|torch|yaml) as|^from (torch|numpy|yaml) import .*load|^from pickle "


def dangers(source):
    """Calls and imports in Python source by which the contents of a file could be run."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            text = ast.unparse(node)
            modules = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            if modules & UNSAFE or re.search(RENAMED, text):
                yield text
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("pickle."):
            yield from {ast.unparse(node)} - {"pickle.UnpicklingError"}
        if isinstance(node, ast.Call):
            called, text = ast.unparse(node.func), ast.unparse(node)
            if (
                called in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
                or called.endswith(("read_pickle", "jit.load", "unsafe_load", "full_load"))
                or (called.endswith("torch.load") and "weights_only=True" not in text)
                or (called == "yaml.load" and "SafeLoader" not in text)
                or "allow_pickle=True" in text
                or "shell=True" in text
            ):
                yield text


DANGEROUS = [
    *("import dill", "from joblib import load", "from pickle import loads", "pickle.load(f)"),
    *("pickle.Unpickler(f)", "torch.load(f)", "torch.load(f, weights_only=False)"),
    *("np.load(f, allow_pickle=True)", "yaml.load(f)", "yaml.load(f, Loader=yaml.Loader)"),
    *("yaml.unsafe_load(f)", "eval(text)", "exec(text)", "pd.read_pickle(f)", "os.system(text)"),
    *("subprocess.run(text, shell=True)", "import pickle as p", "from torch import load"),
]


@pytest.mark.parametrize("source", DANGEROUS)
def test_dangers_are_found(source):
    assert list(dangers(source))


def test_nothing_unpickles_or_runs_what_a_file_holds():
    found = {}
    for folder in ("models", "pipeline", "workflow", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found[path] = list(dangers(path.read_text()))
    assert len(found) > 50
    assert {path: lines for path, lines in found.items() if lines} == {}
    rules = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    assert len(rules) > 3
    words = r"\b(pickle|dill|joblib|torch|import yaml|eval|exec|compile|os\.system|allow_pickle)\b"
    assert not [path for path in rules if re.search(words, path.read_text())]
