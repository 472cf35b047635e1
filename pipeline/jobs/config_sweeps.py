"""Check of the sweeps in the configuration: a figure must be able to show what differs."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.jobs.experiment import SAMPLING_DECIDES, Model, replaced, sampling_of
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
        found = config["evaluation"]["sweeps"][sweep]
        entries = {
            name: [
                replaced(sampling_of(config, models[name]), entry) for entry in found["sampling"]
            ]
            for name in found["models"]
        }
        if sweep == "epochs":  # each model has a line of its own
            for own in entries.values():
                _check_alike(sweep, own, drawn)
        else:
            _check_alike(sweep, [entry for own in entries.values() for entry in own], drawn)


def _check_alike(sweep: str, entries: Iterable[Mapping[str, Any]], drawn: tuple[str, ...]) -> None:
    values: dict[str, list[Any]] = {}
    for entry in entries:
        for key, value in entry.items():
            if key == "consistency" and not value["steps"]:
                value = {"steps": 0}
            if (
                key in SAMPLING_DECIDES
                and key not in drawn
                and value not in values.setdefault(key, [])
            ):
                values[key].append(value)
    for key, several in values.items():
        if len(several) > 1:
            shown = f", which shows {' and '.join(drawn)} alone" if drawn else ""
            raise InputError(
                f"evaluation.sweeps.{sweep}.sampling",
                f"has entries with different {key}: {', '.join(map(str, several))}; its figure"
                f"{shown} would draw their mean",
                f"give all of them the same {key}, or list them under evaluation.sweeps.samplers",
            )
