import pytest
import yaml

from helpers.paths import ROOT
from helpers.small_models import settings
from models.registry import METHODS
from pipeline.jobs.experiment import Model, models_of, replicates

CONFIG = ROOT / "config" / "config.yaml"


def model(name, method="PnPNet", seed=1, **changes):
    return Model(name, method, seed, {"epochs": 2, "betas": [0.9, 0.999], **changes})


def test_every_method_is_a_model_by_its_own_name():
    config = settings()
    found = models_of(config)
    assert list(found) == list(config["methods"])
    for name, one in found.items():
        assert one == Model(name, name, 7, config["methods"][name])


def test_variants_follow_and_replace_settings_or_the_seed():
    seed2 = {"method": "LegoPET", "seed": 2}
    dropped = {"method": "LegoPET", "condition_dropout": 0.5, "epochs": 9}
    config = settings(variants={"LegoPET-seed2": seed2, "LegoPET-p05": dropped})
    found = models_of(config)
    assert list(found) == [*config["methods"], "LegoPET-seed2", "LegoPET-p05"]
    lego = config["methods"]["LegoPET"]
    assert found["LegoPET-seed2"] == Model("LegoPET-seed2", "LegoPET", 2, lego)
    changed = {**lego, "condition_dropout": 0.5, "epochs": 9}
    assert found["LegoPET-p05"] == Model("LegoPET-p05", "LegoPET", 7, changed)
    assert found["LegoPET"].settings == settings()["methods"]["LegoPET"]


def test_seed_0_is_a_seed():
    config = settings(variants={"PnPNet-seed0": {"method": "PnPNet", "seed": 0}})
    assert models_of(config)["PnPNet-seed0"].seed == 0


def test_variants_of_the_paper_are_its_other_dropouts():
    config = yaml.safe_load(CONFIG.read_text())
    found = models_of(config)
    assert list(found) == [*METHODS, "LegoPET-p01", "LegoPET-p02", "LegoPET-p05"]
    dropouts = [found[name].settings.pop("condition_dropout") for name in list(found)[-3:]]
    assert [found["LegoPET"].settings["condition_dropout"], *dropouts] == [0.0, 0.1, 0.2, 0.5]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], {"a": ["a"]}),
        ([model("b", seed=2), model("c", seed=3)], {"a": ["a", "b", "c"]}),
        ([model("b", epochs=3)], {"a": ["a"], "b": ["b"]}),
        ([model("b", method="DeepPET")], {"a": ["a"], "b": ["b"]}),
        (
            [model("b", epochs=3), model("c", seed=2), model("d", seed=2, epochs=3)],
            {"a": ["a", "c"], "b": ["b", "d"]},
        ),
    ],
)
def test_replicates_differ_in_the_seed_alone(others, expected):
    found = replicates([model("a"), *others])
    assert found == expected
    assert list(found) == list(expected)  # in the order of their first members


def test_a_group_is_named_by_the_first_that_is_asked_for():
    assert replicates([model("b", seed=2), model("a")]) == {"b": ["b", "a"]}
    assert replicates([]) == {}
