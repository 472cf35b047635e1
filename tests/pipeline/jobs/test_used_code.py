"""A rule's hash is of the code that can change what it makes, and of nothing else."""

import ast
import re
import shutil

import pytest

from helpers.paths import ROOT
from models.registry import METHODS
from pipeline.jobs import used_code

SCRIPTS = sorted((ROOT / "workflow" / "scripts").glob("*.py"))

TREE = {
    "pipeline/__init__.py": '"""Package."""',
    "pipeline/storage/errors.py": "class InputError(Exception): ...",
    "pipeline/lazy.py": "LAZY = 1\nUNUSED = 2",
    "pipeline/base.py": '''
import numpy as np
from pipeline.storage.errors import InputError

FACTOR: float = 3.0
"""What it is for."""

def scaled(x: float) -> float:
    """Scale."""
    if x < 0:
        raise InputError("x")
    return FACTOR * np.abs(x)  # always

def other(x):
    from pipeline import lazy
    return lazy.LAZY * x

class Grid:
    size: int
    def area(self): return scaled(self.size)
''',
    "models/__init__.py": "",
    "models/registry.py": "KINDS = {'a': 'models.kinds:A', 'b': 'models.kinds:B'}\n"
    "def load(name): return KINDS[name]",
    "models/kinds.py": "from pipeline.base import Grid, scaled\n"
    "class Base:\n    def step(self): return 1\n"
    "class A(Base):\n    def step(self): return scaled(2)\n"
    "class B(Base):\n    def step(self): return helper()\n"
    "def helper(): return 5\n",
    "workflow/scripts/scale.py": "from pipeline.base import scaled\nscaled(snakemake)",
    "workflow/scripts/lazy.py": "from pipeline import base\nbase.other(1)",
    "workflow/scripts/grid.py": "from pipeline.base import Grid\nGrid().area()",
    "workflow/scripts/train.py": "from models.registry import load\nload('a')",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Lay out a small project that `code_hash` takes for its own."""
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    take(tmp_path, monkeypatch)
    yield tmp_path
    forget()


def take(folder, monkeypatch):
    monkeypatch.setattr(used_code, "ROOT", folder)
    monkeypatch.setattr(used_code, "SCRIPTS", folder / "workflow" / "scripts")
    forget()


def forget():
    used_code.code_hash.cache_clear()
    used_code._module.cache_clear()


RULES = {
    "scale": ("scale.py",),
    "lazy": ("lazy.py",),
    "grid": ("grid.py",),
    "train": ("train.py",),
    "train a": ("train.py", "models.kinds:A"),
    "train b": ("train.py", "models.kinds:B"),
}


def hashes():
    """Hash of each rule, as a new process would find it."""
    forget()
    return {name: used_code.code_hash(*roots) for name, roots in RULES.items()}


SCALED = {"scale", "grid", "train", "train a"}
BASE = "pipeline/base.py"

CHANGES = {
    "a comment": (BASE, "# always", "# at all times", set()),
    "a docstring": (BASE, "Scale.", "Scale it.", set()),
    "text of a constant": (BASE, "What it is for.", "Why.", set()),
    "a hint": (BASE, "x: float", "x: int", set()),
    "the hint of what is returned": (BASE, "-> float", "-> object", set()),
    "layout": (BASE, "FACTOR * np.abs(x)", "(\n        FACTOR * np.abs( x ) )", set()),
    "words of an error": ("pipeline/storage/errors.py", "...", "words = 'x'", set()),
    "what nothing uses": ("pipeline/lazy.py", "UNUSED = 2", "UNUSED = 3", set()),
    "a new function": (BASE, "def other", "def new(x): return x\n\ndef other", set()),
    "a constant": (BASE, "3.0", "4.0", SCALED),
    "a function": (BASE, "np.abs(x)", "np.abs(x) + 1", SCALED),
    "another library": (BASE, "import numpy as np", "import math as np", SCALED),
    "what is imported late": ("pipeline/lazy.py", "LAZY = 1", "LAZY = 2", {"lazy"}),
    "a field": (BASE, "    size: int", "    size: int\n    pixel_mm: float", {"grid"}),
    "one entry's class": ("models/kinds.py", "scaled(2)", "scaled(3)", {"train", "train a"}),
    "what another uses": ("models/kinds.py", "return 5", "return 6", {"train", "train b"}),
    "their base": ("models/kinds.py", "return 1", "return 2", {"train", "train a", "train b"}),
    "a new entry": (
        "models/registry.py",
        "'a': 'models.kinds:A',",
        "'a': 'models.kinds:A', 'c': 'models.kinds:Base',",
        set(),
    ),
    "how entries are loaded": (
        "models/registry.py",
        "KINDS[name]",
        "KINDS[name.lower()]",
        {"train", "train a", "train b"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_hash_changes_with_what_a_rule_computes_and_nothing_else(tree, name):
    file, old, new, affected = CHANGES[name]
    before, text = hashes(), (tree / file).read_text(encoding="utf-8")
    assert old in text
    (tree / file).write_text(text.replace(old, new), encoding="utf-8")
    after = hashes()
    assert {rule for rule in RULES if before[rule] != after[rule]} == affected


def test_hash_does_not_depend_on_the_folder(tree, tmp_path_factory, monkeypatch):
    before = hashes()
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(tree, copy)
    take(copy, monkeypatch)
    assert hashes() == before


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_has_a_hash(script):
    assert re.fullmatch(r"[0-9a-f]{16}", used_code.code_hash(script.name))


def test_entries_of_the_registry_are_code():
    found = {used_code.code_hash("train.py", entry) for entry in METHODS.values()}
    assert len(found) == len(METHODS)
    assert all(used_code.REFERENCE.fullmatch(entry) for entry in METHODS.values())


def test_modules_that_are_left_out_exist():
    for module in used_code.WITHOUT_EFFECT:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


@pytest.mark.parametrize("folder", used_code.PACKAGES)
def test_imports_are_of_the_kinds_that_the_hash_follows(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            relative = isinstance(node, ast.ImportFrom) and node.level
            dotted = isinstance(node, ast.Import) and any(
                name.name.split(".")[0] in used_code.PACKAGES and not name.asname
                for name in node.names
            )
            assert not relative, f"{path}:{node.lineno}"
            assert not dotted, f"{path}:{node.lineno}"


BODIES = {
    name: body
    for path in (ROOT / "workflow" / "rules").glob("*.smk")
    for name, body in re.findall(
        r"^rule (\w+):\n((?:[ \t].*\n|\n)*)",
        path.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
}
"""Text of every rule."""

OF_MODELS = {"train", "reconstruct", "sweep", "scan_reconstruct"}
"""Rules whose code is of one model's method."""


@pytest.mark.parametrize(("name", "body"), BODIES.items(), ids=BODIES)
def test_every_rule_passes_the_hash_of_its_own_script(name, body):
    script = re.search(r'^    script:\s+"\.\./scripts/(\w+\.py)"', body, flags=re.MULTILINE)
    beside = r'(?:, SOURCES\[config\["source"\]\]|, without=catalogue.__name__)?'
    plain = re.findall(rf'\bcode=code_hash\("(\w+\.py)"{beside}\)', body)
    plain += re.findall(
        r'code=lambda wildcards: code_hash\(\s*"(\w+\.py)", \*scan_readers\(wildcards\.scan\)\s*\)',
        body,
    )
    of_model = re.findall(
        rf'code=lambda wildcards: code_of\(\s*"(\w+\.py)", wildcards.model{beside}\s*\)', body
    )
    assert (plain, of_model)[name in OF_MODELS] == ([script[1]] if script else []), f"rule {name}"
    assert len(plain + of_model) == (script is not None)
    assert script is None or (ROOT / "workflow" / "scripts" / script[1]).is_file()


def test_every_script_belongs_to_a_rule():
    used = {name for body in BODIES.values() for name in re.findall(r"scripts/(\w+\.py)", body)}
    assert {path.name for path in SCRIPTS} == used
