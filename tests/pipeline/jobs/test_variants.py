"""Names of models and of the experiment, and networks that are the same under two names."""

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.configurations import ROOT, SCHEMA, changed, check_refused, refusal
from pipeline.jobs.config import check
from pipeline.jobs.experiment import models_of, replicates

METHODS = list(changed()["methods"])


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """The configuration names its table of subjects relative to the project."""
    monkeypatch.chdir(ROOT)


def variants(**entries):
    """These variants in place of the paper's, which its sweep over guidance names."""
    return {"variants": entries, "evaluation__sweeps__guidance__models": []}


def named(*names):
    """Variants of the same method and different seeds."""
    return variants(**{name: {"method": "cDPM", "seed": n} for n, name in enumerate(names)})


# --- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_variant_that_changes_nothing_is_refused(method):
    own = changed()["methods"][method]
    for changes in ({}, {"seed": changed()["seed"]}, own, {"epochs": own["epochs"]}):
        check_refused(
            variants(again={"method": method, **changes}),
            "variants.again",
            f"is the same network as {method}: method {method}, seed {changed()['seed']}",
            "give it another seed or setting, or take it out",
        )


def test_two_equal_variants_are_refused():
    for changes in ({"seed": 3}, {"epochs": 7}, {"seed": 3, "betas": [0.5, 0.9]}):
        entry = {"method": "PnPNet", **changes}
        error = refusal(**variants(first=entry, other={"method": "PnPNet"} | entry))
        assert error.where == "variants.other"
        assert "is the same network as first" in error.problem


WITHOUT_EFFECT = {
    "kept checkpoints": ("cDPM", {}, {"keep_every_epochs": 7}),
    "ends of no line": ("cDPM", {"noise_schedule": "cosine"}, {"beta_end": 0.03}),
    "wavelet of no loss": ("PnPNet", {"dwt_weight": 0}, {"wavelet": "db2", "levels": 1}),
    "no weight decay to differ in": ("DeepPET", {"weight_decay": 0.0}, {"optimiser": "adamw"}),
    "a whole number": ("Pix2Pix", {"l1_weight": 3}, {"l1_weight": 3.0}),
}


@pytest.mark.parametrize(
    ("method", "common", "changes"), WITHOUT_EFFECT.values(), ids=list(WITHOUT_EFFECT)
)
def test_settings_without_effect_make_no_other_network(method, common, changes):
    first = {"method": method, "seed": 5, **common}
    error = refusal(**variants(first=first, other={**first, **changes}))
    assert (error.where, error.problem.split(":")[0]) == (
        "variants.other",
        "is the same network as first",
    )
    if method != "Pix2Pix":
        assert f"but for {', '.join(changes)}, without effect on it" in error.problem
    config = changed(**variants(first=first, other={**first, **changes, "seed": 6}))
    check(config, SCHEMA)  # replicates, then
    models = models_of(config)
    assert replicates([models["first"], models["other"]]) == {"first": ["first", "other"]}


WITH_EFFECT = {
    "seed": ("cDPM", {}, {"seed": 6}),
    "ends of a line": ("cDPM", {"noise_schedule": "linear"}, {"beta_end": 0.03}),
    "wavelet": ("PnPNet", {"dwt_weight": 0.1}, {"wavelet": "db2"}),
    "weight decay": ("DeepPET", {"weight_decay": 0.1}, {"optimiser": "adamw"}),
    "epochs": ("cGAN", {}, {"epochs": 201}),
    "order": ("cGAN", {"betas": [0.5, 0.9]}, {"betas": [0.9, 0.5]}),
}


@pytest.mark.parametrize(("method", "common", "changes"), WITH_EFFECT.values(), ids=WITH_EFFECT)
def test_other_settings_make_another_network(method, common, changes):
    first = {"method": method, "seed": 5, **common}
    check(changed(**variants(first=first, other={**first, **changes})), SCHEMA)


EM = {"consistency": {"steps": 1}}
SAMPLED_OTHERWISE = {
    "of no model": (
        {"x": {"weights": "LegoPet", "sampling": EM}},
        ("variants.x.weights", "is 'LegoPet', which is no model", "name cDPM, LegoPET"),
    ),
    "of what does not sample": (
        {"x": {"weights": "PnPNet", "sampling": EM}},
        ("variants.x.weights", "is PnPNet, which does not sample", "name cDPM, LegoPET"),
    ),
    "of a variant that does not sample": (
        {"x": {"weights": "y", "sampling": EM}, "y": {"method": "PnPNet", "seed": 2}},
        ("variants.x.weights", "is y, which does not sample", "name cDPM, LegoPET"),
    ),
    "a chain": (
        {
            "x": {"weights": "cDPM", "sampling": EM},
            "y": {"weights": "x", "sampling": {"samples": 2}},
        },
        ("variants.y.weights", "is x, which has no weights of its own", "give cDPM"),
    ),
    "itself": (
        {"x": {"weights": "x", "sampling": EM}},
        (
            "variants.x.weights",
            "is x, which has no weights of its own",
            "give one that is trained: cDPM",
        ),
    ),
    "each other": (
        {
            "x": {"weights": "y", "sampling": EM},
            "y": {"weights": "x", "sampling": {"samples": 2}},
        },
        ("variants.x.weights", "is y, which has no weights of its own", "one that is trained"),
    ),
    "with more": (
        {"x": {"weights": "cDPM", "sampling": EM, "seed": 3}},
        ("variants.x.seed", "stands beside weights, and cDPM decides it", "take it out"),
    ),
    "with a method": (
        {"x": {"weights": "cDPM", "method": "cDPM", "sampling": EM}},
        ("variants.x.method", "stands beside weights", "take it out"),
    ),
    "sampling of what is trained": (
        {"x": {"method": "cDPM", "seed": 3, "sampling": EM}},
        ("variants.x.sampling", "a variant that is trained itself", "take it out, or say"),
    ),
    "no other sampling": (
        {"x": {"weights": "cDPM"}},
        ("variants.x.sampling", "gives the same images as cDPM", "change what it replaces"),
    ),
    "no other sampling that has an effect": (
        {"x": {"weights": "cDPM", "sampling": {"eta": 0.5, "steps": 1000}}},
        ("variants.x.sampling", "gives the same images as cDPM", "change what it replaces"),
    ),
    "no other sampling, and listed first": (
        {"x": {"weights": "y"}, "y": {"method": "cDPM", "seed": 3}},
        ("variants.x.sampling", "gives the same images as y", "change what it replaces"),
    ),
    "twice the same": (
        {
            "x": {"weights": "cDPM", "sampling": EM},
            "y": {"weights": "cDPM", "sampling": {"consistency": {"steps": 1, "strength": 1}}},
        },
        ("variants.y.sampling", "gives the same images as x", "take the variant out"),
    ),
    "a misspelt key": (
        {"x": {"weights": "cDPM", "sampling": {"step": 10}}},
        ("variants.x.sampling.step", "is not a known key", "did you mean 'steps'?"),
    ),
    "what changes no image": (
        {"x": {"weights": "cDPM", "sampling": {"batch_size": 10}}},
        ("variants.x.sampling.batch_size", "is not a known key", "Known here"),
    ),
    "steps that do not fit": (
        {"x": {"weights": "cDPM", "sampling": {"steps": 300}}},
        ("variants.x.sampling.steps", "300 does not divide the 1000 timesteps of x", "a divisor"),
    ),
    "a start after the last step": (
        {
            "x": {
                "weights": "cDPM",
                "sampling": {"steps": 2, "consistency": {"steps": 1, "start": 0.6}},
            }
        },
        ("variants.x.sampling.consistency.start", "0.6 leaves none of 2 steps", "at most 0.5"),
    ),
    "an average that is not there": (
        {"x": {"weights": "cDPM", "sampling": {"weights": "ema"}}},
        ("variants.x.sampling.weights", "training.ema_decay is 0", "set training.ema_decay"),
    ),
}


@pytest.mark.parametrize(
    ("entries", "said"), SAMPLED_OTHERWISE.values(), ids=list(SAMPLED_OTHERWISE)
)
def test_what_cannot_be_sampled_otherwise_is_refused(entries, said):
    check_refused(variants(**entries), *said)


def test_a_model_is_sampled_otherwise():
    entries = {"x": {"weights": "y", "sampling": EM}, "y": {"method": "cDPM", "seed": 3}}
    check(changed(**variants(**entries)), SCHEMA)


def test_texts_of_numbers_in_it_are_numbers():
    entries = {"x": {"weights": "cDPM", "sampling": {"consistency": {"strength": "0.5"}}}}
    config = changed(**variants(**entries), sampling__consistency__steps=1)
    check(config, SCHEMA)
    assert config["variants"]["x"]["sampling"]["consistency"]["strength"] == 0.5


def test_a_model_is_evaluated_once():
    assert "without repetitions" in refusal(evaluation__models=["cDPM", "PnPNet", "cDPM"]).remedy


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["None", "NA", "nan", "NaN", "null", "true", "no", "inf", "e5"])
def test_words_that_programs_take_for_something_else_are_names(name):
    check(changed(**named(name)), SCHEMA)


@pytest.mark.parametrize("key", ["2024", "1.5", "null", "~", "true", "no", "2024-01-02", "? [a]"])
def test_keys_that_yaml_takes_for_something_else_are_refused(key):
    entry = yaml.safe_load(f"{key}: {{method: cDPM, seed: 1}}") if key[0] != "?" else {(1,): {}}
    error = refusal(variants=entry)
    assert error.where == "variants"
    assert repr(next(iter(entry))) in error.problem
    assert "give a text, matching ^[A-Za-z]" in error.remedy
    assert "quotes" in error.remedy or key[0] == "?"


@pytest.mark.parametrize("name", ["2024", "N/A", "", " ", "a b", "a.b", "ä", "-a", "a\n", "a" * 65])
def test_texts_that_are_no_names_are_refused(name):
    error = refusal(**named(name))
    assert (error.where, error.problem) == ("variants", f"is {name!r}".replace("\n", "\\n"))
    assert "matching ^[A-Za-z]" in error.remedy
    assert "of at most 64 characters" in error.remedy


TAKEN = [*METHODS, "FBP", "OSEM", "OSEM-filter", "MAP", "truth", "sinogram", "calibrated"]


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("spelt", [str, str.swapcase], ids=["same", "case"])
def test_names_that_are_taken_are_refused(name, spelt):
    error = refusal(**named("fine", spelt(name)))
    assert error.where == f"variants.{spelt(name)}"
    assert f"({name})" in error.problem
    assert error.remedy == "choose another name"


@given(st.text("aBc_-", min_size=1, max_size=5), st.data())
@settings(max_examples=10)
def test_variants_must_differ_in_more_than_case(name, data):
    assume(name[0].isalpha())
    flips = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    other = "".join(c.swapcase() if f else c for c, f in zip(name, flips, strict=True))
    assume(other != name)
    error = refusal(**named(name, other))
    assert error.where == f"variants.{other}"
    assert f"is the name of another variant ({name})" in error.problem


@pytest.mark.parametrize(
    ("name", "problem"), [("labels", "data/labels"), ("x" * 65, "is 'xxx"), (2024, "is 2024")]
)
def test_bad_names_of_the_experiment_are_refused(name, problem):
    error = refusal(name=name)
    assert error.where == "name"
    assert problem in error.problem


@pytest.mark.parametrize("name", ["none", "na", "nan", "null", "2024", "x" * 64])
def test_names_of_experiments(name):
    check(changed(name=name), SCHEMA)
