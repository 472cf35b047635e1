"""Folders with this workflow and calls of Snakemake that the tests of the DAG share."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = {"subject01": "train", "subject02": "validation", "subject03": "test"}


def workplace(folder: Path) -> Path:
    """Lay out a folder in which Snakemake finds this workflow and three subjects."""
    (folder / "data").mkdir(parents=True)
    for name in ("Snakefile", "workflow", "config", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data" / "subjects.tsv").symlink_to(ROOT / "data" / "subjects.tsv")
    rows = [f"{subject}\t{split}\t-" for subject, split in SUBJECTS.items()]
    table = "\n".join(["subject\tsplit\tlabels_sha256", *rows]) + "\n"
    (folder / "data" / "subjects.tiny.tsv").write_text(table)
    return folder


def snakemake(folder: Path, *arguments: str, tiny: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake"]
    if tiny:
        command += ["--configfile", str(ROOT / "tests" / "tiny.yaml")]
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"MPLBACKEND": "Agg"},
        check=False,
    )
