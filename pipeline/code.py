"""Hash of the code that a rule runs, so that Snakemake reruns the rule when it changes."""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "models")


@cache
def imported(path: Path) -> frozenset[Path]:
    """Return the project's modules that a Python file imports, directly or not, and itself."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        for node in ast.walk(ast.parse(current.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                parts = name.split(".")
                if parts[0] not in PACKAGES:
                    continue
                for depth in range(1, len(parts) + 1):  # Python imports every package on the way
                    module = ROOT.joinpath(*parts[:depth])
                    candidates = (module.with_suffix(".py"), module / "__init__.py")
                    waiting.extend(file for file in candidates if file.is_file())
    return frozenset(found)


def code_hash(script: str) -> str:
    """Hash (16 hex digits) of a script of ``workflow/scripts`` and of all it imports from here."""
    digest = hashlib.sha256()
    for path in sorted(imported(ROOT / "workflow" / "scripts" / script)):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
