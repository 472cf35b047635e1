"""An experiment of three doses, small enough to be run by tests."""

from pathlib import Path

import yaml

from helpers.workflow import ROOT, snakemake, workplace

DOSES = {0.2: "dose_0.2/", 1.0: "", 0.05: "dose_0.05/"}
SEEN = {"conditioning": ["line_integrals", "osem_input"]}
OVERLAY = {
    "name": "low",
    "simulation": {"doses": list(DOSES)},
    "training": {"target": "activity"},
    "methods": {
        "PnPNet": {"epochs": 2, **SEEN, "residual": True},
        "LegoPET": {"epochs": 1, **SEEN, "residual": True},
    },
    "evaluation": {
        "models": ["PnPNet", "LegoPET"],
        "sweeps": {name: {"models": []} for name in ("epochs", "guidance", "samplers")},
    },
}


def run_doses(folder: Path) -> Path:
    """Run the workflow at several doses in a new folder, whose file low.yaml is its overlay."""
    place = workplace(folder)
    (place / "low.yaml").write_text(yaml.safe_dump(OVERLAY), encoding="utf-8")
    files = ("--configfile", str(ROOT / "tests" / "tiny.yaml"), "low.yaml")
    result = snakemake(place, "--cores", "2", *files, tiny=False)
    assert result.returncode == 0, result.stdout[-4000:]
    return place
