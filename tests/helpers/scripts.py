"""The workflow's scripts, run as Snakemake runs them."""

import runpy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from helpers.paths import ROOT
from pipeline.jobs import job

SCRIPTS = ROOT / "workflow" / "scripts"


def run_script(name, output, inputs, **params):
    """Run a script of the workflow as Snakemake does, without taking over the process's log."""
    snakemake = SimpleNamespace(
        input=inputs, params=SimpleNamespace(**params), output=[str(output)]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "job", lambda snakemake: nullcontext())
        runpy.run_path(str(SCRIPTS / f"{name}.py"), init_globals={"snakemake": snakemake})
    assert output.read_bytes().startswith(b"\x89PNG"), name
    assert list(output.parent.glob(f".{output.name}.*")) == []
