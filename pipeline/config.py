"""Check of the configuration: types and limits by the schema, contradictions here."""

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from pipeline import backend
from pipeline.errors import InputError
from pipeline.experiment import Model, models_of
from pipeline.geometry import check_geometry, grid_from, ring_from
from pipeline.subjects import Subject, read_subjects
from pipeline.variants import check_different, check_names


def check(config: Mapping[str, Any], schema: Path) -> dict[str, Subject]:
    """Refuse a configuration that is misspelt, out of range or contradictory.

    Parameters
    ----------
    config
        The merged configuration.
    schema : Path
        JSON schema as YAML.

    Returns
    -------
    dict of subjects by name
        From the table that the configuration names.

    Raises
    ------
    InputError
        Naming the key, its value and the remedy.
    """
    rules = yaml.safe_load(schema.read_text(encoding="utf-8"))
    _check_schema(config, rules)
    if config["name"] == "labels":
        problem = "is 'labels', and data/labels has the phantoms' labels"
        raise InputError("name", problem, "choose another name")
    _check_variants(config, rules)
    _check_geometry(config)
    _check_models(config)
    subjects = read_subjects(Path(config["subjects"]))
    if config["source"] == "brainweb":
        _check_known(subjects, config)
    return subjects


def _check_schema(config: Mapping[str, Any], rules: Mapping[str, Any]) -> None:
    errors = _strict()(rules).iter_errors(config)
    first = min(errors, key=lambda error: list(map(str, error.path)), default=None)
    if first is not None:
        raise _as_input_error(first)


def _check_variants(config: Mapping[str, Any], rules: Mapping[str, Any]) -> None:
    """Each variant's settings must suit its method's schema; each has a name and network alone."""
    check_names(config["variants"], config["methods"])
    models = models_of(config)
    for name in config["variants"]:
        model = models[name]
        changed = {**config, "methods": {**config["methods"], model.method: model.settings}}
        try:
            _check_schema(changed, rules)
        except InputError as error:
            where = error.where.replace(f"methods.{model.method}", f"variants.{name}", 1)
            raise InputError(where, error.problem, error.remedy) from None
    check_different(models.values())


def _check_models(config: Mapping[str, Any]) -> None:
    """Models that others refer to must exist and fit."""
    models, evaluation = models_of(config), config["evaluation"]
    for name, model in models.items():
        _check_features(name, model, models)
        _check_noise(name, model.settings, config)
    sampling = [name for name, model in models.items() if "timesteps" in model.settings]
    for where, names, known in (
        ("evaluation.models", evaluation["models"], list(models)),
        ("evaluation.uncertainty", [evaluation["uncertainty"]], ["", *sampling]),
        *(
            (f"evaluation.sweeps.{sweep}.models", settings["models"], sampling)
            for sweep, settings in evaluation["sweeps"].items()
        ),
    ):
        for name in names:
            if name not in known:
                raise InputError(
                    where,
                    f"names {name!r}, which is no model for this",
                    f"choose from {', '.join(filter(None, known))}, or add it to variants",
                )
    if evaluation["uncertainty"] and config["sampling"]["samples"] < 2:
        raise InputError(
            "evaluation.uncertainty",
            f"is {evaluation['uncertainty']}, and sampling.samples is 1: nothing varies",
            "set sampling.samples to 2 or more (8, say), or evaluation.uncertainty to ''",
        )
    if evaluation["uncertainty"] not in ("", *evaluation["models"]):
        raise InputError(
            "evaluation.uncertainty",
            f"is {evaluation['uncertainty']}, which is not among evaluation.models",
            "add it there",
        )
    for name in evaluation["sweeps"]["epochs"]["models"]:
        every, epochs = (models[name].settings[key] for key in ("keep_every_epochs", "epochs"))
        if not 0 < every <= epochs:
            raise InputError(
                "evaluation.sweeps.epochs.models",
                f"names {name}, whose keep_every_epochs is {every} of {epochs}: none is kept",
                f"set keep_every_epochs of {name} to 1 to {epochs}, or take it out",
            )


def _check_features(name: str, model: Model, models: Mapping[str, Model]) -> None:
    wanted = model.settings.get("features")
    if wanted is None:
        return
    source = models.get(wanted)
    if source is None or source.method != "PnPNet":
        raise InputError(
            f"{name}: features",
            f"{wanted!r} is not PnPNet nor a variant of it",
            "name PnPNet or a variant of it",
        )
    if source.settings["conditioning"] != model.settings["conditioning"]:
        raise InputError(
            f"{name}: features",
            f"{wanted} sees {source.settings['conditioning']}, and {name} "
            f"{model.settings['conditioning']}",
            "give both the same conditioning",
        )


def _check_noise(name: str, settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if settings.get("beta_start", 0) > settings.get("beta_end", 1):
        raise InputError(
            f"{name}: beta_start",
            f"{settings['beta_start']} is above beta_end {settings['beta_end']}",
            "noise must grow with the step: give beta_start the smaller value",
        )
    sweeps = config["evaluation"]["sweeps"].items()
    asked = [
        ("sampling", config["sampling"]),
        ("training.validation_sampling", config["training"]["validation_sampling"]),
        *(
            (f"evaluation.sweeps.{sweep}.sampling", entry)
            for sweep, found in sweeps
            if name in found["models"]
            for entry in found["sampling"]
        ),
    ]
    for where, entry in asked:
        steps = entry.get("steps", 1)
        if settings.get("timesteps", steps) % steps:
            raise InputError(
                f"{where}.steps",
                f"{steps} does not divide the {settings['timesteps']} timesteps of {name}",
                f"choose a divisor of {settings['timesteps']}",
            )


def _strict() -> Any:
    """JSON schema's rules, except that 5.0 is no integer, and infinity and NaN are no numbers."""
    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and math.isfinite(value)
            ),
        }
    )
    return jsonschema.validators.extend(base, type_checker=types)


def _as_input_error(error: Any) -> InputError:
    where = ".".join(map(str, error.path)) or "configuration"
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = sorted(set(map(str, error.instance)) - set(known))[0]
        nearest = difflib.get_close_matches(unknown, known, n=1, cutoff=0.0)
        key = unknown if where == "configuration" else f"{where}.{unknown}"
        return InputError(
            key,
            f"is not a known key (value {error.instance.get(unknown)!r})",
            f"did you mean '{nearest[0]}'? Known here: {', '.join(known)}",
        )
    if error.validator == "required":
        missing = sorted(set(error.validator_value) - set(error.instance))
        return InputError(
            where, f"lacks {', '.join(missing)}", "start from config/config.yaml, which has all"
        )
    problem, remedy = f"is {error.instance!r}", f"give {_wanted(error.schema)}."
    if error.validator_value == "string" and not isinstance(error.instance, dict | list):
        remedy += " In YAML, quotes make a text of a number or of a word like null or no."
    if isinstance(error.instance, str) and error.validator == "type" and _is_number(error.instance):
        problem += " as text (YAML takes numbers like 5.0e+6, not 5e6 or '5')"
    meaning = error.schema.get("description", "").strip()
    return InputError(where, problem, f"{remedy} {meaning}".strip())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


WANTED = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section with keys",
    "enum": "one of {}",
    "const": "{}",
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "divisible by {}",
    "pattern": "matching {}",
    "minLength": "of at least {} characters",
    "maxLength": "of at most {} characters",
    "minItems": "of at least {} entries",
    "maxItems": "of at most {} entries",
    "uniqueItems": "without repetitions",
}
"""What types and limits of the schema ask for."""


def _wanted(schema: Mapping[str, Any]) -> str:
    """Say what the schema of one key asks for."""
    limits = [
        phrase.format(", ".join(map(str, schema[key])) if key == "enum" else schema[key])
        for key, phrase in WANTED.items()
        if key in schema
    ]
    kind = [WANTED[schema["type"]]] if "type" in schema else []
    return ", ".join(kind + limits)


def _check_geometry(config: Mapping[str, Any]) -> None:
    """Contradictions between the image grid, the ring and the subsets."""
    ring, grid = ring_from(config), grid_from(config)
    check_geometry(ring, grid, config["osem"]["subsets"])
    slices = config["slices"]
    if slices["per_volume"] > slices["volume_slices"]:
        raise InputError(
            "slices.per_volume",
            f"{slices['per_volume']} slices asked for, the volume holds {slices['volume_slices']}",
            f"ask for at most {slices['volume_slices']}",
        )
    backend.resolve(config["projector"])
    _check_network(config, ring.views, ring.radial_bins)


def _check_network(config: Mapping[str, Any], views: int, radial_bins: int) -> None:
    """Contradictions between the networks and the images and sinograms that they see."""
    size, stages = config["network"]["size"], len(config["network"]["multipliers"])
    patch = config["network"]["patch"]
    if size != config["slices"]["size"]:
        raise InputError(
            "network.size",
            f"{size} differs from the images' {config['slices']['size']} pixels (slices.size)",
            "give both the same value",
        )
    if size < max(views, radial_bins):
        raise InputError(
            "network.size",
            f"{size} is less than the sinograms' {views} views x {radial_bins} radial bins",
            f"choose at least {max(views, radial_bins)}, or a larger scanner.radial_trim",
        )
    if size % (patch * 2 ** (stages - 1)):
        raise InputError(
            "network.multipliers",
            f"{stages} stages halve {size} pixels in patches of {patch} {stages - 1} times, "
            "which leaves a remainder",
            f"choose a size that {patch * 2 ** (stages - 1)} divides, or fewer stages",
        )
    if size % 4 or size < 24:
        raise InputError(
            "network.size",
            f"{size} does not suit the adversarial networks (cGAN, Pix2Pix)",
            "choose a multiple of 4, at least 24",
        )
    stages = len(config["methods"]["DeepPET"]["convolutions"])
    if size % 2 ** (stages - 1):
        raise InputError(
            "methods.DeepPET.convolutions",
            f"{stages} stages halve {size} pixels {stages - 1} times, which leaves a remainder",
            f"choose a size that {2 ** (stages - 1)} divides, or fewer stages",
        )
    if config["sampling"]["weights"] == "ema" and not config["training"]["ema_decay"]:
        raise InputError(
            "sampling.weights",
            "is ema, and training.ema_decay is 0: there is no moving average",
            "set training.ema_decay, e.g. to 0.9999, or sampling.weights to raw",
        )


def _check_known(subjects: Mapping[str, Subject], config: Mapping[str, Any]) -> None:
    unverified = [name for name, subject in subjects.items() if subject.labels_sha256 is None]
    if unverified:
        raise InputError(
            config["subjects"],
            f"gives no label hash for {', '.join(unverified)}",
            "copy the hashes from data/subjects.tsv: BrainWeb's volumes are always verified",
        )
