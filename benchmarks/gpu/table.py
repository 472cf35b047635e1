"""Rows of what was checked and measured, as text, Markdown and JSON."""

import json
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import Machine
from pipeline.storage.versions import versions


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes
    ----------
    what : str
        What was checked or measured.
    value : float or None
        None if it did not come to one.
    unit : str
        "" for a relative error.
    limit : float or None
        Largest value that is right; None where the value is only stated.
    note : str
        What else there is to say.
    error : str
        What went wrong, if anything.
    missing : str
        Why it was not run, if it was not.
    """

    what: str
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    note: str = ""
    error: str = ""
    missing: str = ""

    @property
    def verdict(self) -> str:
        """Passed, failed, stated, or not run."""
        if self.missing:
            return "not run"
        if self.error or self.value is None or not math.isfinite(self.value):
            return "failed"
        if self.limit is None:
            return "stated"
        return "passed" if self.value <= self.limit else "failed"

    @property
    def cells(self) -> list[str]:
        """What, value, limit, verdict and note, as text."""
        value = "" if self.value is None else f"{self.value:.3g} {self.unit}".strip()
        limit = "" if self.limit is None else f"{self.limit:g}"
        verdict = f"not run: {self.missing}" if self.missing else self.verdict
        return [self.what, value, limit, verdict, self.error or self.note]


class NotRun(Exception):
    """Raised where something cannot run here, with the reason."""


class Table:
    """All rows of a run, printed as they come.

    Parameters
    ----------
    machine : Machine

    Attributes
    ----------
    rows : dict of lists of Row
        By the part that they belong to.
    """

    def __init__(self, machine: Machine):
        self.machine = machine
        self.rows: dict[str, list[Row]] = {}

    def add(self, part: str, what: str, rows: Callable[[], Iterable[Row]]) -> None:
        """Add the rows of a check; if it fails, a row that says so, and the others go on."""
        if part not in self.rows:
            print(f"\n{part.upper()}, {self.machine.where}", flush=True)
        for row in _guarded(what, rows):
            self.rows.setdefault(part, []).append(row)
            what_, value, limit, verdict, note = row.cells
            print(f"{what_:58} {value:>16} {limit:>8}  {verdict}  {note}".rstrip(), flush=True)

    @property
    def failed(self) -> list[Row]:
        """All rows that failed."""
        return [row for rows in self.rows.values() for row in rows if row.verdict == "failed"]

    def write(self, folder: Path, more: dict[str, Any]) -> list[Path]:
        """Write <device>.json, with ``more`` in it, and <device>.md."""
        name = re.sub(r"[^a-z0-9]+", "-", self.machine.name.lower()).strip("-")
        facts = {
            "device": self.machine.name,
            "where": self.machine.where,
            "seconds": round(self.machine.elapsed_s(), 1),
            "versions": versions(),
        }
        where = {"where": self.machine.where}
        rows = [
            {"part": part, **asdict(row), "verdict": row.verdict, **where}
            for part, each in self.rows.items()
            for row in each
        ]
        paths = [folder / f"{name}.json", folder / f"{name}.md"]
        text = json.dumps({**facts, **more, "rows": rows}, indent=1)
        paths[0].write_text(text + "\n", encoding="utf-8")
        paths[1].write_text("\n".join(self._markdown(facts)) + "\n", encoding="utf-8")
        return paths

    def _markdown(self, facts: dict[str, Any]) -> Iterator[str]:
        yield f"# {self.machine.name}"
        yield ""
        yield (
            f"`make gpu`, {self.machine.where}, {facts['seconds']:.0f} s, torch "
            f"{facts['versions']['torch']}. What the rows mean: docs/gpu/README.md."
        )
        for part, rows in self.rows.items():
            yield from ("", f"## {part.capitalize()}", "", "| what | value | limit | | |")
            yield "|---|---|---|---|---|"
            for row in rows:
                yield f"| {' | '.join(cell.replace('|', ',') for cell in row.cells)} |"


def _guarded(what: str, rows: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    try:
        yield from rows()
    except NotRun as reason:
        yield Row(what, missing=str(reason))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        first = (str(error).splitlines() or [""])[0]
        yield Row(what, error=f"{type(error).__name__}: {first}")
