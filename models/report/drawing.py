"""What figures have in common: how tables are read, how lines look, how a figure is written.

Lines differ in colour (Okabe and Ito's, safe for colour-blind readers), and in line style and
marker for readers without colours.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from models.evaluation.metrics_table import COLUMNS, PART
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file
from pipeline.storage.system_errors import unreadable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v")


def save(figure: Figure, output: Path, dpi: float = 150) -> None:
    """Write a figure as PNG, with so many dots per inch: all of it or nothing.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    with atomic_file(output) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def style(n: int) -> dict[str, Any]:
    """Give the n-th line its style: twenty differ in line style or marker, 140 with colours."""
    return {
        "color": COLOURS[n % len(COLOURS)],
        "linestyle": LINES[n % len(LINES)],
        "marker": MARKERS[n % len(MARKERS)],
        "markersize": 4,
    }


def remedy(path: Path) -> str:
    """Say what to do about a table that is there, and wrong."""
    return f"delete it and make it again: snakemake --cores all -- {path}"


def read(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    keep: Callable[[pd.DataFrame], pd.Series] | None = None,
) -> pd.DataFrame:
    """Read some columns of a CSV file (gzip or not), and of its rows those to keep, if not all.

    Optional columns may be absent, then they are all NaN.

    Raises
    ------
    InputError
        If the file is missing, unreadable, or lacks a column or a value.
    """
    wanted, kept = [*columns, *optional], []
    try:
        with pd.read_csv(
            path,
            usecols=wanted.__contains__,
            dtype={name: kind for name, kind in COLUMNS.items() if kind == "str"},
            keep_default_na=False,  # a model may be called None or inf
            na_values=[""],
            low_memory=False,
            chunksize=PART,
        ) as parts:
            for part in parts:
                if missing := [name for name in columns if name not in part]:
                    problem = f"lacks the columns {', '.join(missing)}"
                    raise InputError(path, problem, remedy(path))
                if "value" in part and part["value"].isna().any():
                    raise InputError(path, "has a row without a value", remedy(path))
                kept.append(part if keep is None else part[keep(part)])
    except FileNotFoundError:
        make = remedy(path).removeprefix("delete it and ")
        raise InputError(path, "does not exist", make) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:  # gzip's and pandas'
        problem = f"is not a readable CSV table ({error})"
        raise unreadable(path, error, problem, remedy(path)) from error
    return pd.concat(kept).reindex(columns=wanted)
