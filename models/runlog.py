"""How a training run reports: a CSV table, and a bar on a terminal or lines in a log file."""

import csv
import logging
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)


class RunLog:
    """Averages losses between rows and writes the rows.

    Columns: ``step`` (steps done), ``epoch`` (epochs done), the loss terms (means over the steps
    since the last row), ``learning_rate``, ``slices_per_second``, ``seconds`` (training time over
    all restarts) and ``validation_psnr_db`` (empty where there was no validation).

    Parameters
    ----------
    path : Path
        CSV file; rows of steps after ``step`` (of a run that was cut off) are dropped.
    step, total : int
        Steps done and to be done.
    state : dict, optional
        From `state`, to continue exactly.
    """

    def __init__(self, path: Path, step: int, total: int, state: dict[str, Any] | None = None):
        self.path = path
        state = state or {"sums": {}, "steps": 0, "seconds": 0.0}
        self.sums: dict[str, float] = dict(state["sums"])
        self.steps: int = state["steps"]
        self.started = time.monotonic() - state["seconds"]
        self.slices, self.row_started = 0, time.monotonic()
        self._drop_rows_after(step)
        self.bar = tqdm(total=total, initial=step, unit="step", disable=not sys.stderr.isatty())

    @property
    def seconds(self) -> float:
        """Training time so far, over all restarts."""
        return time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        """Give what must survive a restart."""
        return {"sums": dict(self.sums), "steps": self.steps, "seconds": self.seconds}

    def add(self, losses: dict[str, float], slices: int) -> None:
        """Take the losses of one step of ``slices`` slices."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1
        self.slices += slices
        self.bar.update()

    def row(self, step: int, epoch: int, learning_rate: float, psnr_db: float | None) -> None:
        """Write a row and start the next average."""
        seconds = time.monotonic() - self.row_started
        means = {name: total / self.steps for name, total in self.sums.items()}
        row = {
            "step": step,
            "epoch": epoch,
            **{name: f"{mean:.8g}" for name, mean in means.items()},
            "learning_rate": learning_rate,
            "slices_per_second": f"{self.slices / max(seconds, 1e-9):.2f}",
            "seconds": f"{self.seconds:.1f}",
            "validation_psnr_db": "" if psnr_db is None else f"{psnr_db:.4f}",
        }
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self._report(row)
        self.sums, self.steps, self.slices, self.row_started = {}, 0, 0, time.monotonic()

    def close(self) -> None:
        """End the progress bar."""
        self.bar.close()

    def _report(self, row: dict[str, Any]) -> None:
        shown = {name: value for name, value in row.items() if value != ""}
        step = f"step {shown.pop('step')} of {self.bar.total}"
        with logging_redirect_tqdm():  # lines go above the bar
            log.info("%s: %s", step, ", ".join(f"{k} {v}" for k, v in shown.items()))

    def _drop_rows_after(self, step: int) -> None:
        if not self.path.exists():
            return
        header, *rows = self.path.read_text().splitlines(keepends=True) or [""]
        # A row cut off by a crash has no line end.
        kept = [r for r in rows if r.endswith("\n") and int(r.split(",")[0]) <= step]
        if step == 0 or not header.endswith("\n"):
            self.path.unlink()
        else:
            self.path.write_text(header + "".join(kept))
