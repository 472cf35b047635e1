"""Data that are not what a network was trained for are refused; what is doubtful is said."""

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SHARD
from pipeline.tomography.physics import COUNTS, DECIDING, SEEN, TINY, Physics, of_shard

log = logging.getLogger(__name__)

ROUNDING = 1e-3
"""Part of a number that is rounding: planes 2.0312 mm and 2.03125 mm apart are the same ones."""

COUNTS_FACTOR = 2.0
"""Counts of a slice may differ by this factor from those of training without a word."""

BACKGROUND_OFF = 0.1
"""So may the part of a measured scan's prompts that is background, by this difference."""


def of_training(
    train: Sequence[Path], validation: Sequence[Path], seen: Collection[str]
) -> Physics | None:
    """Give the physics in which all shards of a training agree, with the training ones' counts.

    Parameters
    ----------
    train, validation : sequence of Path
        Shards.
    seen : collection of str
        Images that the network sees, of `pipeline.tomography.physics.SEEN`; how others were made is
        left out.

    Returns
    -------
    Physics or None
        None if all of them were made before shards said it.

    Raises
    ------
    InputError
        If two of them do not agree.
    """
    found: dict[Path, Physics | None] = {}
    for path in (*train, *validation):
        physics = of_shard(path)
        found[path] = physics and _only(seen, physics)
    first = found[train[0]]
    for path, other in found.items():
        if (first is None) != (other is None):
            silent, saying = (train[0], path) if first is None else (path, train[0])
            problem = f"does not say its physics, and {saying} does"
            raise InputError(silent, problem, "make it again: delete it, and call snakemake")
        if first and other and (changed := list(differences(first, other))):
            raise InputError(
                path,
                f"differs from {train[0]} ({'; '.join(changed)})",
                "make all shards of a training with one configuration",
            )
    if first is None:
        log.warning("the shards do not say their physics, and so the weights will not")
        return None
    known = [physics for path in train if (physics := found[path])]
    means = {
        name: sum(getattr(one, name) / one.doses[0] for one in known) / len(known)
        for name in COUNTS
    }
    return replace(first, **means, doses=sorted({one.doses[0] for one in known}))


def _only(seen: Collection[str], physics: Physics) -> Physics:
    """Leave out how images were made that a network does not see."""
    unseen: dict[str, Any] = dict.fromkeys(name for name in SEEN if name not in seen)
    return replace(physics, **unseen)


def check(
    trained: Physics | None,
    weights: Path,
    data: Physics | None,
    where: Path,
    seen: Collection[str] = (),
) -> list[str]:
    """Refuse data of other physics than a network was trained for.

    Parameters
    ----------
    trained, data : Physics or None
        Of the weights, and of what they are to reconstruct; None of files that do not say it.
    weights, where : Path
        The files.
    seen : collection of str
        Images that the network sees, of `pipeline.tomography.physics.SEEN`.

    Returns
    -------
    list of str
        What is doubtful, which is logged too.

    Raises
    ------
    InputError
        Naming all that differs.
    """
    if trained is None or data is None:
        silent = weights if trained is None else where
        log.warning("%s does not say its physics; not checked: %s", silent, ", ".join(DECIDING))
        return []
    known = set(seen)
    for name in sorted(seen):
        if None in (getattr(trained, name), getattr(data, name)):
            silent = weights if getattr(trained, name) is None else where
            log.warning("%s does not say how its %s images were made; not checked", silent, name)
            known.remove(name)
    trained, data = (_only(known, each) for each in (trained, data))
    if changed := list(differences(trained, data)):
        raise InputError(
            where,
            f"is not what {weights} was trained for ({'; '.join(changed)})",
            "give data of that kind, or train a network for these: slices, scanner, simulation, "
            "osem, osem_input and fbp of the configuration decide it",
        )
    doubtful = list(doubts(trained, data))
    for doubt in doubtful:
        log.warning("%s: %s", where, doubt)
    return doubtful


def differences(one: Physics, other: Physics) -> Iterator[str]:
    """List in what two physics differ, but for counts, as "key: value -> other value"."""
    measured = one.measured or other.measured
    for name in DECIDING:
        old, new = getattr(one, name), getattr(other, name)
        if measured and name in ("attenuation", "psf_fwhm_mm", "background_fraction"):
            continue  # settings of a simulation
        both = isinstance(old, Mapping) and isinstance(new, Mapping)
        if both and old.get("geometry") == new.get("geometry"):
            for key in sorted({*old, *new}):
                yield from _difference(f"{name}.{key}", old.get(key), new.get(key))
        else:
            yield from _difference(name, old, new)


def _difference(name: str, old: Any, new: Any) -> Iterator[str]:
    same = old == new
    if isinstance(old, int | float) and isinstance(new, int | float):
        rounded = isinstance(old, float) or isinstance(new, float)
        same = math.isclose(old, new, rel_tol=ROUNDING) if rounded else same
    if not same:
        yield f"{name}: {old} -> {new}"


def nearest_dose(trained: Physics, counts_per_slice: float) -> float:
    """Of the doses that a network was trained with, give that of the nearest counts, as a ratio."""
    wanted = max(counts_per_slice / trained.counts_per_slice, TINY)
    return min(trained.doses, key=lambda dose: abs(math.log(wanted / dose)))


def doubts(trained: Physics, data: Physics) -> Iterator[str]:
    """List what makes images of a network less sure, in words."""
    of_training = trained.counts_per_slice * nearest_dose(trained, data.counts_per_slice)
    ratio = data.counts_per_slice / of_training
    if not 1 / COUNTS_FACTOR <= ratio <= COUNTS_FACTOR:
        yield (
            f"{data.counts_per_slice:,.0f} counts per slice, {ratio:.2g} times the "
            f"{of_training:,.0f} of training"
        )
    if not data.measured:
        return
    if not trained.attenuation:
        yield "the network was trained without attenuation, which patients have"
    fractions = data.background_fraction, trained.background_fraction
    if abs(fractions[0] - fractions[1]) > BACKGROUND_OFF:
        yield "background is {:.0%} of the prompts, {:.0%} in training".format(*fractions)


def volumes_of(shards: Sequence[Path]) -> list[str]:
    """List the hashes of the volumes that shards were made of, those that are known."""
    found = set()
    for path in shards:
        with hdf5.opened(path, SHARD) as file:
            found.add(str(file.attrs.get("labels_sha256", "")))
    return sorted(found - {""})


def check_unseen(trained_on: Sequence[str], weights: Path, shard: Path) -> None:
    """Refuse a shard for test of a volume that a network was trained on, whatever its name.

    Raises
    ------
    InputError
    """
    with hdf5.opened(shard, SHARD) as file:
        volume, split = (str(file.attrs.get(name, "")) for name in ("labels_sha256", "split"))
    if split == "test" and volume in trained_on:
        raise InputError(
            shard,
            f"is for test, and {weights} was trained on the same volume ({volume[:16]}...)",
            "give each volume to one split alone, in the table of subjects, and train again",
        )
