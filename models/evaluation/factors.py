"""Factors that calibrate a model's intervals: the file of rule ``calibrate``, and its reader."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluation.catalogue import REFERENCES
from models.evaluation.metrics_table import CONSISTENCY
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file, check_readable
from pipeline.storage.system_errors import unreadable

SAMPLING = (
    *("model", "weights_sha256", "weights", "activity_scale"),
    *("sampler", "steps", "eta", "guidance", "antithetic", *CONSISTENCY, "samples", "dose"),
)
"""Attributes in which the reconstructions agree that calibrate and that are measured."""


@dataclass(frozen=True)
class Factors:
    """What makes intervals of a model's samples hold what they say; see `models.conformal`.

    Attributes
    ----------
    floor : float
        Least standard deviation, activity units.
    of : mapping
        By reference, as in `models.evaluation.catalogue`, and nominal level: the factor.
    """

    floor: float
    of: Mapping[str, Mapping[float, float]]


def sampling_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Give how the images of a reconstruction were sampled: its attributes, in plain types."""
    found = {"dose": 1.0, **dict.fromkeys(("antithetic", *CONSISTENCY), 0), **attributes}
    found = {name: found[name] for name in SAMPLING}
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in found.items()
    }


def write_factors(path: Path, factors: Factors, sampling: Mapping[str, Any], **facts: Any) -> None:
    """Write factors as JSON, with how the images were sampled and other facts.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    of = {
        reference: [{"level": level, "factor": factor} for level, factor in found.items()]
        for reference, found in factors.of.items()
    }
    text = json.dumps({**sampling, **facts, "floor": factors.floor, "factors": of}, indent=1)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_factors(path: Path, attributes: Mapping[str, Any]) -> Factors:
    """Read the factors of a reconstruction's intervals.

    Parameters
    ----------
    attributes : mapping
        Of the reconstruction, a file of kind `pipeline.storage.kinds.RECONSTRUCTION`.

    Raises
    ------
    InputError
        If the file is missing or damaged, or of images that were sampled in another way.
    """
    remedy = f"delete it and make it again: snakemake --cores all -- {path}"
    check_readable(path, "file of factors", remedy)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sampling = {name: found[name] for name in SAMPLING}
        floor = _positive(found["floor"])
        of = {
            reference: {
                _positive(each["level"]): _positive(each["factor"])
                for each in found["factors"][reference]
            }
            for reference in REFERENCES
        }
    except (OSError, ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
        problem = f"is no file of factors ({type(error).__name__}: {error})"
        raise unreadable(path, error, problem, remedy) from error
    for name, value in sampling_of(attributes).items():
        if sampling[name] != value:
            problem = f"is of images with {name} {sampling[name]}, not {value}"
            raise InputError(path, problem, remedy)
    return Factors(floor, of)


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < np.inf:
        raise ValueError(f"{value} is no number above 0")
    return number
