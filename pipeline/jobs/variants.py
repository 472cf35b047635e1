"""Check of the models of an experiment as a whole: different names, networks and samples."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.baselines import BASELINES
from pipeline.jobs.experiment import Model, same_but_seed
from pipeline.storage.errors import InputError

SHOWN = ("truth", "sinogram", "osem_input", "calibrated")
"""What figures show beside models, and scans have as images, under these names."""


def check_names(variants: Iterable[str], methods: Iterable[str]) -> None:
    """Refuse names of variants that are taken, or that differ in upper and lower case alone.

    Some disks take ``legopet.h5`` and ``LegoPET.h5`` for the same file.

    Raises
    ------
    InputError
        Naming the variant, and the name that it would be confused with.
    """
    taken = {name.casefold(): f"a method ({name})" for name in (*methods, *BASELINES)}
    taken |= {name: f"something else in the figures ({name})" for name in SHOWN}
    for name in variants:
        if owner := taken.get(name.casefold()):
            problem = f"is the name of {owner}; upper and lower case make no difference"
            raise InputError(f"variants.{name}", problem, "choose another name")
        taken[name.casefold()] = f"another variant ({name})"


def check_origins(variants: Mapping[str, Any], methods: Mapping[str, Any]) -> None:
    """Refuse variants of no method, and those of weights that cannot be sampled otherwise.

    Raises
    ------
    InputError
        Naming the variant, what is wrong and what it may say.
    """
    for name, variant in variants.items():
        where = f"variants.{name}"
        if "weights" in variant:
            _check_origin(where, variant, variants, methods)
        elif "method" not in variant:
            remedy = "say of which method it is a variant, or which model's weights it has"
            raise InputError(where, "lacks method", remedy)
        elif "sampling" in variant:
            problem = "replaces keys of sampling in a variant that is trained itself"
            remedy = "take it out, or say in another variant which model's weights it samples"
            raise InputError(f"{where}.sampling", problem, remedy)


def _check_origin(
    where: str,
    variant: Mapping[str, Any],
    variants: Mapping[str, Any],
    methods: Mapping[str, Any],
) -> None:
    origin = variant["weights"]
    for key in variant:
        if key not in ("weights", "sampling"):
            problem = f"stands beside weights, and {origin} decides it"
            remedy = "take it out: weights and sampling are all that such a variant has"
            raise InputError(f"{where}.{key}", problem, remedy)
    above = variants.get(origin, {})
    sampled = [known for known in methods if "timesteps" in methods[known]]
    if "weights" in above:
        problem = f"is {origin}, which has no weights of its own"
        untrained = "weights" in variants.get(above["weights"], {})
        trained = f"one that is trained: {', '.join(sampled)} or a variant of them"
        remedy = f"give {trained if untrained else above['weights']}"
        raise InputError(f"{where}.weights", problem, remedy)
    method = origin if origin in methods else above.get("method")
    if method not in methods:
        problem = f"is {origin!r}, which is no model"
        raise InputError(f"{where}.weights", problem, f"name {', '.join(sampled)} or a variant")
    if method not in sampled:
        problem = f"is {origin}, which does not sample: its images would be the same"
        raise InputError(f"{where}.weights", problem, f"name {', '.join(sampled)} or a variant")


def check_different(models: Iterable[Model]) -> None:
    """Refuse models with the same network: tables would count one training as several.

    Raises
    ------
    InputError
        Naming the later of the two, which is a variant.
    """
    seen: list[Model] = []
    for model in sorted(models, key=lambda one: bool(one.weights)):  # the trained ones first
        for other in seen:
            if other.seed == model.seed and same_but_seed(other, model):
                raise _same(model, other)
        seen.append(model)


def _same(model: Model, other: Model) -> InputError:
    if model.weights:
        return InputError(
            f"variants.{model.name}.sampling",
            f"gives the same images as {other.name}: nothing that has an effect differs",
            "change what it replaces, or take the variant out",
        )
    return InputError(
        f"variants.{model.name}",
        f"is the same network as {other.name}: {_common(model, other)}",
        "give it another seed or setting, or take it out",
    )


def _common(model: Model, other: Model) -> str:
    same = f"method {model.method}, seed {model.seed}, the same settings"
    differing = [key for key, value in model.settings.items() if other.settings[key] != value]
    return same + (f" but for {', '.join(differing)}, without effect on it" if differing else "")
