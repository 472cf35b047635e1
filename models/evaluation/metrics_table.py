"""The table of all metrics: its columns, and how it is written and read a part at a time.

Its length grows with the number of test subjects: some 50,000 lines for each of the paper's.
"""

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from itertools import chain, count, islice
from pathlib import Path
from typing import IO, Any

import pandas as pd

from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file, check_readable
from pipeline.storage.system_errors import unreadable

COLUMNS = {
    "subject": "str",
    "rotation": "Int64",
    "rotation_deg": "float64",
    "slice_index": "Int64",
    "dose": "float64",  # part of all counts that the images were made from
    "model": "str",  # one trained network, or FBP or OSEM
    "method": "str",
    "conditioning": "str",
    "condition_dropout": "float64",
    "training_seed": "Int64",
    "checkpoint": "str",  # sha256 of the weights, its first 16 digits
    "epoch": "Int64",
    "estimate": "str",  # single: one pass, or one sample; mean: of several samples
    "sampler": "str",
    "steps": "Int64",
    "eta": "float64",
    "guidance": "float64",
    "antithetic": "Int64",  # 1 if every second sample starts from the negative of the noise before
    "consistency_steps": "Int64",  # EM steps with the measured counts; 0 for none
    "consistency_strength": "float64",
    "consistency_start": "float64",
    "samples": "Int64",  # of which the image is the mean
    "sampling_seed": "Int64",
    "metric": "str",
    "reference": "str",
    "region": "str",
    "value": "float64",  # in the metric's unit
}
"""Columns of the table and their types; empty where they do not apply.

Metrics, references and regions are those of `models.evaluation.catalogue`.
"""

CONSISTENCY = ("consistency_steps", "consistency_strength", "consistency_start")
"""Columns, and attributes of reconstructions by models that sample; zeros where it is off."""

PART = 500_000
"""Lines of the table that are read at a time: some 100 MB."""

MAX_LINE = 2000
"""Bytes; a line takes some 120."""


def write_table(tables: Iterable[pd.DataFrame], path: Path) -> None:
    """Write tables of `tidy` one after the other, as one, without holding more than one of them.

    Compressed if the name ends in .gz; the same tables, the same bytes.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    with _writing(path) as file:
        for number, table in enumerate(tables):
            text = table.to_csv(
                index=False, header=not number, float_format="%.6g", lineterminator="\n"
            )
            file.write(text.encode())


def join_tables(paths: Iterable[Path], output: Path) -> None:
    """Write the tables of several files as one, in their order: rule ``join_metrics``.

    Raises
    ------
    InputError
        If one of them is missing, damaged or has other columns, or the file cannot be written.
    """
    with _writing(output) as file:
        for number, path in enumerate(paths):
            with _reading(path) as (header, lines):
                file.writelines(lines if number else chain([header], lines))


@contextmanager
def _writing(path: Path) -> Iterator[IO[bytes]]:
    with atomic_file(path) as temporary, temporary.open("wb") as plain, ExitStack() as stack:
        file: Any = plain
        if path.suffix == ".gz":
            file = stack.enter_context(gzip.GzipFile("", "wb", fileobj=plain, mtime=0))
        yield file


def read_parts(path: Path) -> Iterator[pd.DataFrame]:
    """Read a table of `write_table` in parts of at most `PART` lines; there is at least one.

    Absent texts are "", absent numbers NA.

    Raises
    ------
    InputError
        If it is missing, damaged, has other columns, or a line without a value.
    """
    with _reading(path) as (header, lines):
        for number in count():
            text = b"".join([header, *islice(lines, PART)])
            if number and text == header:
                return
            part = pd.read_csv(
                io.BytesIO(text),
                dtype={n: COLUMNS[n] for n in COLUMNS},
                keep_default_na=False,  # a model may be called None, NA or nan
                na_values=[""],
            )
            if part["value"].isna().any():
                raise ValueError("it has a line without a value")
            yield part.fillna({name: "" for name, kind in COLUMNS.items() if kind == "str"})


@contextmanager
def _reading(path: Path) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Open a table: its header and its other lines."""
    remedy = f"delete it and make it again: snakemake --cores all -- {path}"
    check_readable(path, "table", remedy)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            lines = _lines(file)
            header = next(lines, b"")
            names = header.decode().rstrip().split(",")
            if names != list(COLUMNS):
                raise InputError(path, f"has the columns {', '.join(names)}", remedy)
            yield header, lines
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise unreadable(path, error, f"is damaged ({error})", remedy) from error


def _lines(file: gzip.GzipFile | BufferedReader) -> Iterator[bytes]:
    """Read lines within limits: a small compressed file may hold a line that fills the memory."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise ValueError(f"it has a line of more than {MAX_LINE} bytes")
        yield line


def read_table(path: Path) -> pd.DataFrame:
    """Read a whole table of `write_table`; see `read_parts`."""
    return pd.concat(read_parts(path), ignore_index=True)
