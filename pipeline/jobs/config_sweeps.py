"""Check of the sweeps in the configuration: a figure must be able to show what differs."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from pipeline.jobs.experiment import SAMPLING_DECIDES, Model, replaced, sampling_of, sees_counts
from pipeline.storage.errors import InputError

DRAWN: Mapping[str, tuple[str, ...]] = {
    "epochs": (),
    "guidance": ("guidance",),
    "consistency": ("consistency",),
}
"""Keys of ``sampling`` that each sweep's figure tells apart; that over samplers tells them all."""


def check_sweeps(config: Mapping[str, Any], models: Mapping[str, Model]) -> None:
    """Refuse entries of a sweep that differ in what its figure does not show.

    Raises
    ------
    InputError
        Naming the sweep, the key and its values.
    """
    for sweep, drawn in DRAWN.items():
        settings = config["evaluation"]["sweeps"][sweep]
        of_models = [
            [_told(models[name], config, entry) for entry in settings["sampling"]]
            for name in settings["models"]
        ]
        # Over epochs each model has a line of its own; the others are drawn together.
        for entries in of_models if sweep == "epochs" else [list(chain.from_iterable(of_models))]:
            _check_alike(sweep, entries, drawn)


def _told(model: Model, config: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the table of a sweep tells of an entry: consistency only where there is any."""
    sampling = replaced(sampling_of(config, model), entry)
    return sampling if sees_counts(model, sampling) else {**sampling, "consistency": "none"}


def _check_alike(sweep: str, entries: Sequence[Mapping[str, Any]], drawn: Sequence[str]) -> None:
    for key in SAMPLING_DECIDES:
        values: list[Any] = []
        for entry in entries:
            if entry[key] not in values:
                values.append(entry[key])
        if len(values) > 1 and key not in drawn:
            shown = f", which shows {' and '.join(drawn)} alone," if drawn else ""
            raise InputError(
                f"evaluation.sweeps.{sweep}.sampling",
                f"has entries with different {key}: {', '.join(map(str, values))}; its figure"
                f"{shown} would draw their mean",
                f"give all of them the same {key}, or list them under evaluation.sweeps.samplers",
            )
