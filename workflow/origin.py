"""Say whether ``pipeline`` and ``models`` are those beside the Snakefile, or another project's.

``python -P origin.py FOLDER`` prints what is wrong where Snakemake runs the workflow of FOLDER, and
nothing if nothing is. It runs by itself, so that what it finds is what a job's script would import,
and imports nothing of either.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def problem(name: str) -> str | None:
    """Say whose package of a name Python finds, if it is not the one of this project."""
    spec = find_spec(name)
    if spec is None:
        return f"{name}: is not installed\n  -> call make env, or pip install --editable {PROJECT}"
    found = Path([*(spec.submodule_search_locations or []), spec.origin][0])
    if found.resolve() == PROJECT / name:
        return None
    return (
        f"{name}: would be imported from {found}, and not from {PROJECT / name}\n"
        f"  -> take {found.parent} off PYTHONPATH, or uninstall the package that lies there"
    )


if __name__ == "__main__":
    sys.path.append(sys.argv[1])  # as Snakemake does
    print("\n".join(filter(None, map(problem, ("pipeline", "models")))))
