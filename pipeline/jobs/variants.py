"""Check of the models of an experiment as a whole: different names, different networks."""

from collections.abc import Iterable

from pipeline.baselines import BASELINES
from pipeline.jobs.experiment import Model, same_but_seed
from pipeline.storage.errors import InputError

SHOWN = ("truth", "sinogram", "calibrated")
"""What figures show beside models, under these names."""


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


def check_different(models: Iterable[Model]) -> None:
    """Refuse models with the same network: tables would count one training as several.

    Raises
    ------
    InputError
        Naming the later of the two, which is a variant.
    """
    seen: list[Model] = []
    for model in models:
        for other in seen:
            if other.seed == model.seed and same_but_seed(other, model):
                raise InputError(
                    f"variants.{model.name}",
                    f"is the same network as {other.name}: {_common(model, other)}",
                    "give it another seed or setting, or take it out",
                )
        seen.append(model)


def _common(model: Model, other: Model) -> str:
    same = f"method {model.method}, seed {model.seed}, the same settings"
    differing = [key for key, value in model.settings.items() if other.settings[key] != value]
    return same + (f" but for {', '.join(differing)}, without effect on it" if differing else "")
