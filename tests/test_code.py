import ast
import re
import shutil
from pathlib import Path

import pytest

from pipeline import code

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "workflow" / "scripts").glob("*.py"))

TREE = {
    "pipeline/__init__.py": '"""Package."""',
    "pipeline/errors.py": "class InputError(Exception): ...",
    "pipeline/base.py": "from pipeline.errors import InputError",
    "pipeline/lazy.py": "LAZY = 1",
    "pipeline/middle.py": "from pipeline import base\ndef f():\n    import pipeline.lazy",
    "pipeline/unrelated.py": "import numpy",
    "models/__init__.py": "",
    "models/net.py": "import pipeline.middle as m, json",
    "models/parts/__init__.py": "from models.parts.block import Block",
    "models/parts/block.py": "class Block: ...",
    "workflow/scripts/direct.py": "from pipeline.errors import InputError",
    "workflow/scripts/deep.py": "from models.net import m\nfrom pipeline.job import job",
    "workflow/scripts/package.py": "from models import parts",
    "workflow/scripts/other.py": "from pipeline import unrelated",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Lay out a small project that `code_hash` takes for its own."""
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    code.imported.cache_clear()
    yield tmp_path
    code.imported.cache_clear()


def code_hash(script):
    """Hash as a new process would find it."""
    code.imported.cache_clear()
    return code.code_hash(script)


CHANGES = {
    "pipeline/errors.py": {"direct.py", "deep.py"},
    "pipeline/base.py": {"deep.py"},
    "pipeline/middle.py": {"deep.py"},
    "pipeline/lazy.py": {"deep.py"},
    "models/net.py": {"deep.py"},
    "models/parts/block.py": {"package.py"},
    "models/parts/__init__.py": {"package.py"},
    "pipeline/unrelated.py": {"other.py"},
    "pipeline/__init__.py": {"direct.py", "deep.py", "other.py"},
    "models/__init__.py": {"deep.py", "package.py"},
    "workflow/scripts/deep.py": {"deep.py"},
}
"""Scripts whose hashes change with a file."""


@pytest.mark.parametrize(("changed", "affected"), CHANGES.items(), ids=CHANGES)
def test_hash_changes_with_what_a_script_imports_and_nothing_else(tree, changed, affected):
    scripts = {Path(name).name for name in TREE if name.startswith("workflow")}
    before = {script: code_hash(script) for script in scripts}
    path = tree / changed
    path.write_text(path.read_text() + "\n# changed\n")
    after = {script: code_hash(script) for script in scripts}
    assert {script for script in scripts if before[script] != after[script]} == affected


def test_hash_does_not_depend_on_the_folder(tree, tmp_path_factory, monkeypatch):
    before = code_hash("deep.py")
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(tree, copy)
    monkeypatch.setattr(code, "ROOT", copy)
    assert code_hash("deep.py") == before


def test_swapped_modules_change_the_hash(tree):
    before = code_hash("deep.py")
    one, two = tree / "pipeline" / "base.py", tree / "pipeline" / "lazy.py"
    one_text, two_text = one.read_text(), two.read_text()
    one.write_text(two_text)
    two.write_text(one_text)
    assert code_hash("deep.py") != before


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_has_a_hash(script):
    assert re.fullmatch(r"[0-9a-f]{16}", code_hash(script.name))
    assert ROOT / "pipeline" / "job.py" in code.imported(script)


@pytest.mark.parametrize("folder", code.PACKAGES)
def test_imports_are_absolute_as_the_hash_expects(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}:{node.lineno}"


BODIES = {
    name: body
    for path in (ROOT / "workflow" / "rules").glob("*.smk")
    for name, body in re.findall(
        r"^rule (\w+):\n((?:[ \t].*\n|\n)*)", path.read_text(), flags=re.MULTILINE
    )
}
"""Text of every rule."""


@pytest.mark.parametrize(("name", "body"), BODIES.items(), ids=BODIES)
def test_every_rule_passes_the_hash_of_its_own_script(name, body):
    script = re.search(r'^    script:\s+"\.\./scripts/(\w+\.py)"', body, flags=re.MULTILINE)
    hashed = re.findall(r'code=code_hash\("(\w+\.py)"\)', body)
    assert hashed == ([script[1]] if script else []), f"rule {name}"
    assert script is None or (ROOT / "workflow" / "scripts" / script[1]).is_file()


def test_every_script_belongs_to_a_rule():
    used = {name for body in BODIES.values() for name in re.findall(r"scripts/(\w+\.py)", body)}
    assert {path.name for path in SCRIPTS} == used
