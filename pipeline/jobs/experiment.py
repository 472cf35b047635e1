"""The models of an experiment: every method of the configuration, and variants of them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

TRAINING_DECIDES = (
    *("precision", "target", "gradient_clip", "ema_decay"),
    *("validate_every_steps", "validation_slices", "validation_sampling"),
)
"""Keys of the configuration's ``training`` that decide what a run's weights and log hold."""

SAMPLING_DECIDES = ("sampler", "steps", "eta", "guidance", "samples", "weights")
"""Keys of ``sampling`` that decide the images of a method that samples."""


@dataclass(frozen=True)
class Model:
    """One network to train.

    Attributes
    ----------
    name : str
        Of a method or a variant in the configuration; names its files.
    method : str
        Name in `models.registry.METHODS`.
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


def network_settings(model: Model) -> dict[str, Any]:
    """Give a model's settings without those that cannot change a weight of its network.

    These are ``keep_every_epochs``; the ends of beta under the cosine schedule, which has none; the
    wavelet and its levels where the weight of their loss is 0; and the choice between Adam and
    AdamW, which differ in weight decay alone, where that is 0.
    """
    unused = {"keep_every_epochs"}
    if model.settings.get("noise_schedule") == "cosine":
        unused |= {"beta_start", "beta_end"}
    if model.settings.get("dwt_weight") == 0:
        unused |= {"wavelet", "levels"}
    if model.settings.get("weight_decay") == 0:
        unused |= {"optimiser"}
    return {key: value for key, value in model.settings.items() if key not in unused}


def deciding(model: Model, config: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    """Give the settings that decide what training or reconstructing with a model makes.

    Parameters
    ----------
    sections : str
        Of the configuration, "network", "training" and "sampling" for instance; of the last two
        without what changes nothing but time, memory and how often something is said.
    """
    found: dict[str, Any] = {"model": asdict(model)}
    sampling = SAMPLING_DECIDES if "timesteps" in model.settings else ("weights",)
    chosen = {"training": TRAINING_DECIDES, "sampling": sampling}
    for section in sections:
        keys = chosen.get(section, config[section])
        found[section] = {key: config[section][key] for key in keys}
    return found


def same_but_seed(one: Model, other: Model) -> bool:
    """Whether the networks of two models differ in nothing but, perhaps, the seed."""
    return one.method == other.method and network_settings(one) == network_settings(other)


def replicates(models: Iterable[Model]) -> dict[str, list[str]]:
    """Group models whose networks differ in the seed alone, each group named by its first.

    Returns
    -------
    dict of group to names of its models
    """
    groups: list[list[Model]] = []
    for model in models:
        for group in groups:
            if same_but_seed(group[0], model):
                group.append(model)
                break
        else:
            groups.append([model])
    return {group[0].name: [model.name for model in group] for group in groups}
