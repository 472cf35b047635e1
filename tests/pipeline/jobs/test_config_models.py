"""What the configuration says of models, their variants and their evaluation."""

import pytest

from helpers.configurations import ROOT, SCHEMA, changed, check_refused
from pipeline.jobs.config import check


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """The configuration names its table of subjects relative to the project."""
    monkeypatch.chdir(ROOT)


def variant(name="LegoPET-x", method="LegoPET", **changes):
    return {f"variants__{name}": {"method": method, **changes}}


def sweep(name, **changes):
    return {f"evaluation__sweeps__{name}__{key}": value for key, value in changes.items()}


BAD_VARIANTS = {
    "unknown setting": (
        variant(condition_drop=0.1),
        ("variants.LegoPET-x.condition_drop", "not a known key", "mean 'condition_dropout'"),
    ),
    "setting of another method": (
        variant("PnPNet-x", "PnPNet", condition_dropout=0.1),
        ("variants.PnPNet-x.condition_dropout", "not a known key", "Known here: batch_size"),
    ),
    "bad value": (
        variant(condition_dropout=1.0),
        ("variants.LegoPET-x.condition_dropout", "is 1.0", "less than 1"),
    ),
    "bad value in a list": (
        variant(betas=[0.9, 2]),
        ("variants.LegoPET-x.betas.1", "is 2", "less than 1"),
    ),
    "bad seed": (variant(seed=-1), ("variants.LegoPET-x.seed", "is -1", "at least 0")),
    "unknown method": (
        variant(method="OSEM"),
        ("variants.LegoPET-x.method", "is 'OSEM'", "one of PnPNet, cDPM"),
    ),
    "no method": (
        {"variants__LegoPET-x": {"seed": 2}},
        ("variants.LegoPET-x", "lacks method", "of which method it is a variant"),
    ),
    "no section": ({"variants__LegoPET-x": None}, ("variants.LegoPET-x", "is None", "a section")),
    "name of a method": (
        variant("cDPM"),
        ("variants.cDPM", "is the name of a method", "another name"),
    ),
    "name of a reference": (
        variant("OSEM"),
        ("variants.OSEM", "is the name of a method", "another name"),
    ),
    "name of an image of scans": (
        variant("OSEM_input"),
        ("variants.OSEM_input", "is the name of something else", "another name"),
    ),
    "too little to divide by": (
        variant(sigma_data=1e-9),
        ("variants.LegoPET-x.sigma_data", "is 1e-09", "at least 0.001"),
    ),
    "name of a folder": (variant("a/b"), ("variants", "is 'a/b'", "matching ^[A-Za-z]")),
}


@pytest.mark.parametrize(("values", "wanted"), BAD_VARIANTS.values(), ids=list(BAD_VARIANTS))
def test_bad_variants_are_named_as_such(values, wanted):
    check_refused(values, *wanted)


@pytest.mark.parametrize(
    "values",
    [
        variant(seed=1),
        variant(seed=0, epochs=3, noise_schedule="cosine"),
        variant("DeepPET-x", "DeepPET", conditioning=["sinogram", "fbp"]),
        {
            **variant("PnPNet-x", "PnPNet", conditioning=["sinogram", "fbp"]),
            **variant(conditioning=["sinogram", "fbp"], features="PnPNet-x"),
            "evaluation__models": ["LegoPET-x", "PnPNet-x", "PnPNet"],
        },
        {**sweep("epochs", models=["LegoPET-x"]), **variant(keep_every_epochs=500, seed=1)},
        {"sampling__samples": 2, "evaluation__uncertainty": "cDPM"},
        {"methods__DeepPET__conditioning": ["osem_input"], "training__target": "activity"},
        {"methods__DeepPET__conditioning": ["osem_input"], "simulation__doses": [0.2]},
        {"methods__cGAN__residual": True, "methods__cGAN__conditioning": ["sinogram", "fbp"]},
        {"methods__PMDM__residual": True},
        sweep(
            "consistency",
            models=["cDPM"],
            sampling=[
                {"consistency": {"steps": 0}},
                {"consistency": {"steps": 1, "strength": 0.5}},
                {"consistency": {"steps": 1, "start": 0.5}},
            ],
        ),
        sweep(
            "guidance",
            sampling=[
                {"steps": 50, "consistency": {"steps": 0, "strength": 0.5}},
                {"steps": 50, "consistency": {"steps": 1, "strength": 0.0}, "guidance": 1},
            ],
        ),
        sweep("guidance", sampling=[{"steps": 50, "guidance": 0}, {"steps": 50, "guidance": 1}]),
        {"methods__LegoPET__residual": True, "methods__LegoPET__regression_image": True},
        {"methods__PMDM__posterior_mean": "DeepPET"},
        {"methods__DeepPET__conditioning": ["osem_input"], "osem_input__iterations": 3},
        {
            "methods__DeepPET__conditioning": ["osem_input"],
            "osem_input__iterations": 4,
            "osem_input__filter_mm": 5,
        },
    ],
    ids=str,
)
def test_good_variants_and_evaluations(values):
    check(changed(**values), SCHEMA)


CONTRADICTIONS = {
    "unknown features": (
        {"methods__LegoPET__features": "PnP"},
        ("methods.LegoPET.features", "'PnP' is not PnPNet, nor a variant", "name PnPNet"),
    ),
    "features of another method": (
        variant(features="LegoPET"),
        ("variants.LegoPET-x.features", "'LegoPET' is not PnPNet", "name PnPNet"),
    ),
    "features of other measurements": (
        variant(conditioning=["sinogram", "fbp"]),
        (
            "variants.LegoPET-x.features",
            "PnPNet sees ['sinogram'], and LegoPET-x ['sinogram', 'fbp']",
            "the same conditioning",
        ),
    ),
    "unknown posterior mean": (
        {"methods__PMDM__posterior_mean": "cDPM"},
        (
            "methods.PMDM.posterior_mean",
            "'cDPM' is not PnPNet or DeepPET, nor a variant",
            "name PnPNet or DeepPET, or a variant",
        ),
    ),
    "posterior mean of other measurements": (
        {"methods__PMDM__conditioning": ["fbp"]},
        (
            "methods.PMDM.posterior_mean",
            "PnPNet sees ['sinogram'], and PMDM ['fbp']",
            "the same conditioning",
        ),
    ),
    "the target as an input": (
        {
            "methods__PnPNet__conditioning": ["osem_input"],
            "methods__LegoPET__conditioning": ["osem_input"],
            "methods__PMDM__conditioning": ["osem_input"],
            "osem_input__iterations": 4,
        },
        (
            "methods.PnPNet.conditioning",
            "has osem_input, which with all counts and 4 iterations is the reference",
            "training.target: activity",
        ),
    ),
    "a difference to nothing": (
        {"methods__cGAN__residual": True, "methods__cGAN__conditioning": ["line_integrals"]},
        (
            "methods.cGAN.residual",
            "is true, and the conditioning ['line_integrals'] has no image",
            "add fbp or osem_input",
        ),
    ),
    "noise": (
        {"methods__cDPM__beta_start": 0.5},
        ("methods.cDPM.beta_start", "0.5 is above beta_end 0.02", "the smaller value"),
    ),
    "noise of a variant": (
        variant(beta_end=1.0e-5),
        ("variants.LegoPET-x.beta_start", "0.0001 is above beta_end 1e-05", "the smaller value"),
    ),
    "model": (
        {"evaluation__models": ["PnPNet", "LegoPET-p03"]},
        ("evaluation.models", "names 'LegoPET-p03', which is no model", "LegoPET-p05, or add it"),
    ),
    "image of a scan": (
        {"scans": {"head": {"sinogram": "p.npy", "images": ["osem", "PnPNet", "PnPNt"]}}},
        (
            "scans.head.images",
            "names 'PnPNt', which is no model",
            "from osem, osem_input, fbp, PnPNet, cDPM",
        ),
    ),
    "uncertainty of what does not sample": (
        {"evaluation__uncertainty": "PnPNet", "sampling__samples": 2},
        ("evaluation.uncertainty", "names 'PnPNet', which is no model", "choose from cDPM"),
    ),
    "uncertainty of one sample": (
        {"evaluation__uncertainty": "LegoPET"},
        ("evaluation.uncertainty", "sampling.samples is 1: nothing varies", "to 2 or more"),
    ),
    "uncertainty of a variant's one sample": (
        {
            "variants__LegoPET-one": {"weights": "LegoPET", "sampling": {"samples": 1}},
            "evaluation__uncertainty": "LegoPET-one",
            "sampling__samples": 4,
        },
        (
            "evaluation.uncertainty",
            "is LegoPET-one, and variants.LegoPET-one.sampling.samples is 1: nothing varies",
            "set variants.LegoPET-one.sampling.samples to 2 or more",
        ),
    ),
    "antithetic samples that are no pairs": (
        {"sampling__samples": 3, "sampling__antithetic": True, "sampling__sampler": "dpm-solver++"},
        ("sampling.samples", "3 antithetic samples are no pairs", "an even number"),
    ),
    "antithetic samples by a sampler that adds noise": (
        {"sampling__samples": 2, "sampling__antithetic": True},
        ("sampling.sampler", "is ddpm, which adds noise", "choose dpm-solver++"),
    ),
    "antithetic samples of a sweep with noise": (
        sweep(
            "samplers",
            sampling=[
                {"samples": 4, "antithetic": True, "sampler": "ddim", "steps": 10, "eta": 0.1}
            ],
        ),
        ("evaluation.sweeps.samplers.sampling.sampler", "is ddim with an eta of 0.1", "eta of 0"),
    ),
    "uncertainty of what is not evaluated": (
        {"evaluation__uncertainty": "LegoPET-p01", "sampling__samples": 2},
        ("evaluation.uncertainty", "LegoPET-p01, which is not among evaluation.models", "add it"),
    ),
    "sweep of what does not sample": (
        sweep("samplers", models=["DeepPET"]),
        ("evaluation.sweeps.samplers.models", "names 'DeepPET', which is no", "choose from cDPM"),
    ),
    "sweep without checkpoints": (
        sweep("epochs", models=["LegoPET-x"]) | variant(keep_every_epochs=0, seed=1),
        (
            "evaluation.sweeps.epochs.models",
            "names LegoPET-x, whose keep_every_epochs is 0 of 500: none is kept",
            "1 to 500",
        ),
    ),
    "sweep that ends before its first checkpoint": (
        {"methods__cDPM__epochs": 19},
        ("evaluation.sweeps.epochs.models", "cDPM, whose keep_every_epochs is 20 of 19", "1 to 19"),
    ),
    "steps of a sweep whose figure shows none": (
        sweep("consistency", models=["cDPM"], sampling=[{"steps": 20}, {"steps": 10}]),
        (
            "evaluation.sweeps.consistency.sampling",
            "has entries with different steps: 20, 10; its figure, which shows consistency alone",
            "give all of them the same steps, or list them under evaluation.sweeps.samplers",
        ),
    ),
    "consistency of a sweep whose figure shows none": (
        sweep(
            "guidance",
            sampling=[{"steps": 50, "consistency": {"steps": n, "start": 0}} for n in (0, 1)],
        ),
        ("evaluation.sweeps.guidance.sampling", "different consistency: none, {", "the same"),
    ),
    "samples of a sweep whose figure shows none": (
        sweep("epochs", sampling=[{"samples": 1}, {"samples": 2}]),
        ("evaluation.sweeps.epochs.sampling", "different samples: 1, 2", "the same samples"),
    ),
    "sampling of models in one sweep": (
        sweep("guidance", models=["LegoPET-p01", "LegoPET-few"], sampling=[{"guidance": 1.0}])
        | {"variants__LegoPET-few": {"weights": "LegoPET-p01", "sampling": {"steps": 20}}},
        ("evaluation.sweeps.guidance.sampling", "different steps: 1000, 20", "the same steps"),
    ),
    "steps of a sweep": (
        sweep("samplers", sampling=[{"steps": 50}, {"sampler": "ddim", "steps": 30}]),
        (
            "evaluation.sweeps.samplers.sampling.steps",
            "30 does not divide the 1000 timesteps of LegoPET",
            "a divisor of 1000",
        ),
    ),
    "consistency that never starts": (
        {
            "sampling__steps": 10,
            "sampling__consistency": {"steps": 1, "strength": 1.0, "start": 0.95},
        },
        ("sampling.consistency.start", "0.95 leaves none of 10 steps", "at most 0.9"),
    ),
    "consistency of a sweep that never starts": (
        sweep("samplers", sampling=[{"steps": 4, "consistency": {"steps": 1, "start": 0.8}}]),
        (
            "evaluation.sweeps.samplers.sampling.consistency.start",
            "0.8 leaves none of 4 steps",
            "at most 0.75",
        ),
    ),
    "timesteps of a variant": (
        variant(timesteps=999),
        ("sampling.steps", "1000 does not divide the 999 timesteps of LegoPET-x", "divisor of 999"),
    ),
}


@pytest.mark.parametrize(("values", "wanted"), CONTRADICTIONS.values(), ids=list(CONTRADICTIONS))
def test_contradictions_are_named(values, wanted):
    check_refused(values, *wanted)
