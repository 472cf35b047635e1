import pytest
import yaml

from helpers.paths import ROOT
from helpers.small_models import settings
from models.registry import METHODS
from pipeline.jobs.experiment import Model, deciding, models_of, replicates, sampling_of

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


EM = {"consistency": {"steps": 1}}


def test_a_variant_may_have_the_weights_of_another_and_be_sampled_otherwise():
    config = settings(
        variants={
            "again": {"weights": "LegoPET-seed2", "sampling": {"steps": 2, **EM}},
            "LegoPET-seed2": {"method": "LegoPET", "seed": 2},
        }
    )
    found = models_of(config)
    assert list(found) == [*config["methods"], "again", "LegoPET-seed2"]
    whole = {"steps": 1, "strength": 1.0, "start": 0.0}
    changes = {"steps": 2, "consistency": whole}
    lego = config["methods"]["LegoPET"]
    assert found["again"] == Model("again", "LegoPET", 2, lego, "LegoPET-seed2", changes)
    assert (found["again"].trained, found["LegoPET-seed2"].trained) == ("LegoPET-seed2",) * 2
    assert sampling_of(config, found["again"]) == config["sampling"] | changes
    assert sampling_of(config, found["LegoPET-seed2"]) == config["sampling"]
    for name, steps in (("again", 2), ("LegoPET", 4)):
        made = deciding(found[name], config, "network", "sampling")["sampling"]
        assert made["steps"] == steps
        assert ("consistency" in made) == (name == "again")
    assert "sampling" not in deciding(found["LegoPET"], config, "network", "training")


@pytest.mark.parametrize(
    ("changes", "effective"),
    [
        ({"steps": 4}, {}),
        ({"eta": 0.5, "guidance": 0.25}, {"guidance": 0.25}),
        ({"sampler": "ddpm", "eta": 1.0}, {"sampler": "ddpm", "eta": 1.0}),
        ({"consistency": {"strength": 0.5, "start": 0.5}}, {}),
        ({"consistency": {"steps": 1, "strength": 0}}, {}),
    ],
)
def test_what_replaces_sampling_without_effect_is_left_out(changes, effective):
    variants = {"other": {"weights": "cDPM", "sampling": changes}}
    assert models_of(settings(variants=variants))["other"].sampling == effective


def test_rows_of_other_samplings_are_replicates_of_each_other_alone():
    variants = {
        "LegoPET-seed2": {"method": "LegoPET", "seed": 2},
        "LegoPET-em": {"weights": "LegoPET", "sampling": EM},
        "LegoPET-seed2-em": {"weights": "LegoPET-seed2", "sampling": EM},
        "LegoPET-em2": {"weights": "LegoPET", "sampling": {"consistency": {"steps": 2}}},
    }
    found = models_of(settings(variants=variants))
    assert replicates(found[name] for name in ("LegoPET", *variants)) == {
        "LegoPET": ["LegoPET", "LegoPET-seed2"],
        "LegoPET-em": ["LegoPET-em", "LegoPET-seed2-em"],
        "LegoPET-em2": ["LegoPET-em2"],
    }


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
