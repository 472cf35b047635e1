"""An experiment at several doses, as tests/workflow/conftest.py runs it."""

from helpers.workflow import ROOT

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
    "sampling": {"consistency": {"steps": 2}},
    "evaluation": {
        "models": ["PnPNet", "LegoPET"],
        "sweeps": {
            name: {"models": []} for name in ("epochs", "guidance", "samplers", "consistency")
        },
    },
}
FILES = ("--configfile", str(ROOT / "tests" / "tiny.yaml"), "low.yaml")
"""Its configuration, for calls in its folder."""
