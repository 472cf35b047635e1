"""Check of the configuration: types and limits by the schema, contradictions here."""

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jsonschema

from pipeline.jobs.config_files import take_scanner
from pipeline.jobs.config_models import check_models
from pipeline.jobs.config_values import convert
from pipeline.jobs.experiment import models_of
from pipeline.jobs.variants import check_different, check_names, check_origins
from pipeline.scans.registry import files_of
from pipeline.sources.base import IMAGES
from pipeline.sources.registry import facts
from pipeline.sources.subjects import Subject, read_subjects
from pipeline.storage.errors import InputError
from pipeline.storage.files import check_readable
from pipeline.tomography import backend
from pipeline.tomography.geometry import check_geometry, grid_from
from pipeline.tomography.scanners import scanner_from


def check(config: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Subject]:
    """Refuse a configuration that is misspelt, out of range or contradictory.

    Parameters
    ----------
    config : dict
        The merged configuration; texts of numbers become numbers, see
        `pipeline.jobs.config_values`, and the name of a scanner its section.
    schema : mapping
        JSON schema, see `models.configuration.schema`.

    Returns
    -------
    dict of subjects by name
        From the table that the configuration names.

    Raises
    ------
    InputError
        Naming the key, its value and the remedy.
    """
    schema = take_scanner(config, schema)
    convert(config, schema)
    _check_schema(config, schema)
    if config["name"] == "labels":
        problem = "is 'labels', and data/labels has the phantoms' labels"
        raise InputError("name", problem, "choose another name")
    source = facts(config["source"])
    _check_variants(config, schema)
    _check_geometry(config)
    _check_doses(config)
    _check_lesions(config)
    subjects = read_subjects(Path(config["subjects"]))
    check_models(config, schema, subjects)
    source.check(subjects, config["subjects"])
    if source.gives == IMAGES and (fraction := config["texture"]["fraction"]) > 0:
        problem = f"is {fraction}, and images have a texture of their own"
        raise InputError("texture.fraction", problem, "set it to 0")
    return subjects


SCAN_FILES = ("sinogram", "randoms", "scatter", "factors")
"""Settings of a scan that name files."""


def files_of_scan(scan: Mapping[str, Any]) -> dict[str, str]:
    """Give the files that a scan's section names, by its keys; of ``file#array`` the file."""
    return {key: scan[key].partition("#")[0] for key in SCAN_FILES if scan.get(key)}


def check_scans(scans: Mapping[str, Any]) -> None:
    """Refuse scans whose files are missing: Snakemake would take images of earlier ones for theirs.

    So are names that Snakemake takes for patterns, or cannot write into its records.

    Raises
    ------
    InputError
    """
    for name, scan in scans.items():
        for key, path in files_of_scan(scan).items():
            remedy = f"correct scans.{name}.{key}, or take that scan out"
            try:
                check_readable(path, "file of a scan", remedy)
            except InputError as error:
                raise error if path == scan[key] else _cut(scan[key], error) from None
            for file in map(str, files_of(path)):
                if strange := [letter for letter in file if letter in "{}" or _half(letter)]:
                    problem = f"has {strange[0]!r} in its name, which Snakemake cannot have there"
                    remedy = f"rename it, and correct scans.{name}.{key}, or its header"
                    raise InputError(file, problem, remedy)


def _cut(given: str, error: InputError) -> InputError:
    """Say of a refused file where its name was cut off."""
    path, _, array = given.partition("#")
    problem = f"{error.problem}; # separates the name of an array, here '{array}', from '{path}'"
    remedy = f"{error.remedy}; if # is part of the name of a folder or file, rename that"
    return InputError(given, problem, remedy)


def check_images(config: Mapping[str, Any], subjects: Iterable[str]) -> None:
    """Refuse a source that lacks subjects, as far as can be told before any is fetched.

    Parameters
    ----------
    config : mapping
    subjects : iterable of str
        Those that are still to be fetched.

    Raises
    ------
    InputError
    """
    facts(config["source"]).check_there(subjects, config)


def _half(letter: str) -> bool:
    """Whether a letter stands for a byte of a file's name that is no UTF-8."""
    return "\ud800" <= letter <= "\udfff"


def _check_schema(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    errors = _strict()(schema).iter_errors(config)
    first = min(errors, key=lambda error: list(map(str, error.path)), default=None)
    if first is not None:
        raise _as_input_error(first)


def _check_variants(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Each variant's settings must suit its method's schema; each has a name and network alone."""
    check_names(config["variants"], config["methods"])
    check_origins(config["variants"], config["methods"])
    models = models_of(config)
    for name in config["variants"]:
        model = models[name]
        changed = {**config, "methods": {**config["methods"], model.method: model.settings}}
        try:
            _check_schema(changed, schema)
        except InputError as error:
            where = error.where.replace(f"methods.{model.method}", f"variants.{name}", 1)
            raise InputError(where, error.problem, error.remedy) from None
    check_different(models.values())


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
        unknown = sorted((key for key in error.instance if key not in known), key=str)[0]
        nearest = difflib.get_close_matches(str(unknown), known, n=1)
        guess = f"did you mean '{nearest[0]}'? " if nearest else "leave it out. "
        return InputError(
            str(unknown) if where == "configuration" else f"{where}.{unknown}",
            f"is not a known key (value {error.instance[unknown]!r})",
            f"{guess}Known here: {', '.join(known)}",
        )
    if error.validator == "required":
        missing = sorted(set(error.validator_value) - set(error.instance))
        remedy = "start from config/config.yaml, which has all"
        return InputError(where, f"lacks {', '.join(missing)}", remedy)
    problem, remedy = f"is {error.instance!r}", f"give {_wanted(error.schema)}."
    if error.validator_value == "string" and not isinstance(error.instance, dict | list):
        remedy += " In YAML, quotes make a text of a number or of a word like null or no."
    meaning = error.schema.get("description", "").strip()
    return InputError(where, problem, f"{remedy} {meaning}".strip())


WANTED = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section with keys",
    "null": "null",
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
        phrase.format(
            ", ".join(filter(None, map(str, schema[key]))) if key == "enum" else schema[key]
        )
        for key, phrase in WANTED.items()
        if key in schema
    ]
    types = schema.get("type", [])
    kind = [" or ".join(WANTED[name] for name in ([types] if isinstance(types, str) else types))]
    kind = kind if types else []
    if choices := schema.get("items", {}).get("enum"):
        kind = [f"a list of names out of {', '.join(choices)}"]
    return ", ".join(kind + limits)


def _check_geometry(config: Mapping[str, Any]) -> None:
    """Contradictions between the image grid, the ring and the subsets."""
    ring, grid = scanner_from(config["scanner"]), grid_from(config)
    check_geometry(ring, grid, config["osem"]["subsets"])
    slices = config["slices"]
    if slices["per_volume"] > slices["volume_slices"]:
        raise InputError(
            "slices.per_volume",
            f"{slices['per_volume']} slices asked for, the volume holds {slices['volume_slices']}",
            f"ask for at most {slices['volume_slices']}",
        )
    backend.resolve(config["projector"])


def _check_doses(config: Mapping[str, Any]) -> None:
    """Doses must leave something: slices without a count have no image."""
    prompts = config["simulation"]["prompts_per_slice"]
    for dose in config["simulation"]["doses"]:
        if dose * prompts < 1:
            raise InputError(
                "simulation.doses",
                f"has {dose}, which leaves {dose * prompts:.2g} of {prompts:g} prompts of a slice",
                "raise it, or simulation.prompts_per_slice",
            )


def _check_lesions(config: Mapping[str, Any]) -> None:
    """Contradictions within ``lesions``, and with the slices that there are."""
    lesions, slices = config["lesions"], config["slices"]
    if (wanted := lesions["per_volume"]) > slices["per_volume"]:
        problem = f"is {wanted}, and a volume has {slices['per_volume']} slices"
        remedy = f"give at most {slices['per_volume']}, or raise slices.per_volume"
        raise InputError("lesions.per_volume", problem, remedy)
    least, largest = lesions["diameter_mm"]
    if least > largest:
        problem = f"is {lesions['diameter_mm']}, the larger first"
        raise InputError("lesions.diameter_mm", problem, f"give [{largest}, {least}]")
    if lesions["training"] and not wanted:
        problem = "is true, and lesions.per_volume is 0"
        remedy = "set lesions.per_volume to the number of slices that have lesions, or it to false"
        raise InputError("lesions.training", problem, remedy)
