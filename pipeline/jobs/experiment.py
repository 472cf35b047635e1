"""The models of an experiment: every method of the configuration, and variants of them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from pipeline.tomography import backend

TRAINING_DECIDES = (
    *("precision", "target", "gradient_clip", "ema_decay"),
    *("validate_every_steps", "validation_slices", "validation_sampling"),
)
"""Keys of the configuration's ``training`` that decide what a run's weights and log hold."""

SAMPLING_DECIDES = (
    "sampler",
    "steps",
    "eta",
    "guidance",
    "samples",
    "antithetic",
    "weights",
    "consistency",
)
"""Keys of ``sampling`` that decide the images of a method that samples."""


@dataclass(frozen=True)
class Model:
    """One network to train, or to sample otherwise: a row of the tables.

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
    weights : str
        Name of the model whose weights it has; "" if it is trained itself.
    sampling : mapping
        What replaces keys of the configuration's ``sampling``, none without effect.
    """

    name: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    weights: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> str:
        """Name of the model whose training made its weights."""
        return self.weights or self.name


class FrozenSetting(NamedTuple):
    """A setting of a method that names another model, whose trained network it uses frozen.

    Attributes
    ----------
    key : str
        Its name.
    methods : list of str
        Of which the named model may be.
    """

    key: str
    methods: list[str]


def frozen_setting(section: Mapping[str, Any]) -> FrozenSetting | None:
    """Find that setting of a method, if it has one.

    Parameters
    ----------
    section : mapping
        The method's part of the configuration's schema, where the setting says ``frozen``: the
        methods of which the model may be.
    """
    for key, setting in section["properties"].items():
        if "frozen" in setting:
            return FrozenSetting(key, setting["frozen"])
    return None


def models_of(config: Mapping[str, Any]) -> dict[str, Model]:
    """List an experiment's models by name: its methods, then their variants.

    Parameters
    ----------
    config : mapping
        The configuration. Each entry of ``variants`` names its ``method`` and replaces some of
        that method's settings, or the ``seed``; or it names the model whose ``weights`` it has, and
        replaces some of the section ``sampling``.
    """
    methods, seed, variants = config["methods"], config["seed"], config["variants"]
    found = {name: Model(name, name, seed, settings) for name, settings in methods.items()}
    for name, variant in variants.items():
        if "weights" in variant:
            continue  # of a model that may be listed later
        changes = {key: value for key, value in variant.items() if key not in ("method", "seed")}
        found[name] = Model(
            name,
            variant["method"],
            variant.get("seed", seed),
            {**methods[variant["method"]], **changes},
        )
    for name, variant in variants.items():
        if origin := variant.get("weights"):
            changes = _effective_changes(config["sampling"], variant.get("sampling", {}))
            found[name] = replace(found[origin], name=name, weights=origin, sampling=changes)
    return {name: found[name] for name in (*methods, *variants)}


def _effective_changes(sampling: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Give those changes of a section ``sampling`` that change an image."""
    found = replaced(sampling, changes)
    before, after = _effective(sampling), _effective(found)
    return {key: found[key] for key in found if before[key] != after[key]}


def _effective(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out ``eta``, ``antithetic`` and ``consistency`` where they have no effect."""
    found = {
        **sampling,
        "eta": sampling["eta"] if sampling["sampler"] == "ddim" else None,
        "antithetic": sampling["antithetic"] and sampling["samples"] > 1,
    }
    return found if _consistent(sampling) else {**found, "consistency": None}


def sampling_of(config: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """Give the section ``sampling`` by which a model is sampled."""
    return replaced(config["sampling"], model.sampling)


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
        values = sampling_of(config, model) if section == "sampling" else config[section]
        found[section] = {key: values[key] for key in chosen.get(section, values)}
    if "sampling" in found and not sees_counts(model, sampling_of(config, model)):
        found["sampling"].pop("consistency", None)  # of no effect
    return found


def replaced(sampling: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Give a section ``sampling`` with other values of some keys, of ``consistency`` one by one."""
    found = {**sampling, **changes}
    if "consistency" in changes:
        found["consistency"] = {**sampling["consistency"], **changes["consistency"]}
    return found


def sees_counts(model: Model, sampling: Mapping[str, Any]) -> bool:
    """Whether a model's samples are kept consistent with the measured counts."""
    return "timesteps" in model.settings and _consistent(sampling)


def _consistent(sampling: Mapping[str, Any]) -> bool:
    consistency = sampling["consistency"]
    return bool(consistency["steps"] > 0 and consistency["strength"] > 0)


def measured_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give what models the measurement on the reconstruction's grid, as rule ``osem`` does."""
    return {
        "scanner": config["scanner"],
        "slices": config["slices"],
        "psf_fwhm_mm": config["simulation"]["psf_fwhm_mm"],
        "projector": backend.resolve(config["projector"]),
    }


def same_but_seed(one: Model, other: Model) -> bool:
    """Whether two models differ in nothing but, perhaps, the seed of their networks."""
    same = network_settings(one) == network_settings(other) and one.sampling == other.sampling
    return same and one.method == other.method


def replicates(models: Iterable[Model]) -> dict[str, list[str]]:
    """Group models that differ in the seed alone, each group named by its first.

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
