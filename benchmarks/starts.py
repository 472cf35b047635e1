"""Processor time until each job of the workflow has imported what it needs.

python -m benchmarks.starts --before ../another-checkout

Both checkouts take turns, in the environment that this is called in.
"""

import ast
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

ROOT = Path(__file__).resolve().parents[1]


def imports_of(script: Path) -> str:
    """Give the import statements at the top of a script."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    statements = [s for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, statements))


def seconds_to_import(folder: Path, script: str) -> float:
    """Measure user and system time of a process that imports what a script imports."""
    text = imports_of(folder / "workflow" / "scripts" / script)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-P", "-c", text],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def starts(folders: dict[str, Path], turns: int) -> pd.DataFrame:
    """One row a script that all checkouts have: seconds in each, the median of some turns."""
    scripts = ({p.name for p in (f / "workflow/scripts").glob("*.py")} for f in folders.values())
    names = sorted(set.intersection(*scripts))
    rows = []
    for name in names:
        found: dict[str, list[float]] = {label: [] for label in folders}
        for _ in range(turns + 1):  # the first fills the cache of files
            for label, folder in folders.items():
                found[label].append(seconds_to_import(folder, name))
        rows.append({"script": name} | {k: statistics.median(v[1:]) for k, v in found.items()})
    return pd.DataFrame(rows)


def main(
    before: Annotated[Path | None, typer.Option(help="Checkout to compare with.")] = None,
    turns: Annotated[int, typer.Option(help="Of each checkout and script.", min=1)] = 3,
) -> None:
    """Print the table."""
    folders = {} if before is None else {"before": before.resolve()}
    table = starts(folders | {"now": ROOT}, turns)
    if before is not None:
        table["ratio"] = table["now"] / table["before"]
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    typer.run(main)
