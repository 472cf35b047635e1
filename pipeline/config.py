"""Check of the configuration: types and limits by the schema, contradictions here."""

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from pipeline import projector
from pipeline.errors import InputError
from pipeline.geometry import grid_from, ring_from
from pipeline.subjects import Subject, read_subjects


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
    rules = yaml.safe_load(schema.read_text())
    validator = _strict()(rules)
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.path)))
    if errors:
        raise _as_input_error(errors[0])
    _check_geometry(config)
    subjects = read_subjects(Path(config["subjects"]))
    if config["source"] == "brainweb":
        _check_known(subjects, config)
    return subjects


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
    problem = f"is {error.instance!r}"
    if isinstance(error.instance, str) and error.validator == "type" and _is_number(error.instance):
        problem += " as text (YAML takes numbers like 5.0e+6, not 5e6 or '5')"
    meaning = error.schema.get("description", "").strip()
    return InputError(where, problem, f"give {_wanted(error.schema)}. {meaning}".strip())


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
    "minItems": "of at least {} entries",
    "maxItems": "of at most {} entries",
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
    projector.check_geometry(ring, grid, config["osem"]["subsets"])
    slices = config["slices"]
    if slices["per_volume"] > slices["volume_slices"]:
        raise InputError(
            "slices.per_volume",
            f"{slices['per_volume']} slices asked for, the volume holds {slices['volume_slices']}",
            f"ask for at most {slices['volume_slices']}",
        )
    projector.resolve(config["projector"])
    _check_network(config, ring.views, ring.radial_bins)


def _check_network(config: Mapping[str, Any], views: int, radial_bins: int) -> None:
    """Contradictions between the networks and the images and sinograms that they see."""
    size, stages = config["network"]["size"], len(config["network"]["multipliers"])
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
    if size % 2 ** (stages - 1):
        raise InputError(
            "network.multipliers",
            f"{stages} stages halve {size} pixels {stages - 1} times, which leaves a remainder",
            f"choose a size that {2 ** (stages - 1)} divides, or fewer stages",
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
    for name, method in config["methods"].items():
        if method.get("beta_start", 0) > method.get("beta_end", 1):
            raise InputError(
                f"methods.{name}.beta_start",
                f"{method['beta_start']} is above beta_end {method['beta_end']}",
                "noise must grow with the step: give beta_start the smaller value",
            )
        for where, steps in (
            ("sampling.steps", config["sampling"]["steps"]),
            (
                "training.validation_sampling.steps",
                config["training"]["validation_sampling"]["steps"],
            ),
        ):
            if method.get("timesteps", steps) % steps:
                raise InputError(
                    where,
                    f"{steps} does not divide the {method['timesteps']} timesteps of {name}",
                    f"choose a divisor of {method['timesteps']}",
                )


def _check_known(subjects: Mapping[str, Subject], config: Mapping[str, Any]) -> None:
    unverified = [name for name, subject in subjects.items() if subject.labels_sha256 is None]
    if unverified:
        raise InputError(
            config["subjects"],
            f"gives no label hash for {', '.join(unverified)}",
            "copy the hashes from data/subjects.tsv: BrainWeb's volumes are always verified",
        )
