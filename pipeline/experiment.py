"""The models of an experiment: every method of the configuration, and variants of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Model:
    """One network to train.

    Attributes
    ----------
    name : str
        Of a method or a variant in the configuration; names its files.
    method : str
        Name in ``models.METHODS``.
    seed : int
        Of its weights, batches, training noise and samples.
    settings : mapping
        As ``methods.<method>``.
    """

    name: str
    method: str
    seed: int
    settings: Mapping[str, Any]


def models_of(config: Mapping[str, Any]) -> dict[str, Model]:
    """List an experiment's models by name: its methods, then their variants.

    Parameters
    ----------
    config : mapping
        The configuration. Each entry of ``variants`` names its ``method`` and replaces some of
        that method's settings, or the ``seed``.
    """
    methods, seed = config["methods"], config["seed"]
    found = {name: Model(name, name, seed, settings) for name, settings in methods.items()}
    for name, variant in config["variants"].items():
        changes = {key: value for key, value in variant.items() if key not in ("method", "seed")}
        found[name] = Model(
            name,
            variant["method"],
            variant.get("seed", seed),
            {**methods[variant["method"]], **changes},
        )
    return found


def replicates(models: Iterable[Model]) -> dict[str, list[str]]:
    """Group models that differ in the seed alone, each group named by its first.

    Returns
    -------
    dict of group to names of its models
    """
    groups: list[list[Model]] = []
    for model in models:
        for group in groups:
            if (group[0].method, group[0].settings) == (model.method, model.settings):
                group.append(model)
                break
        else:
            groups.append([model])
    return {group[0].name: [model.name for model in group] for group in groups}
