"""How a training run reports: a CSV table, and a bar on a terminal or lines in a log file."""

import csv
import logging
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline.storage.files import atomic_file, writing

log = logging.getLogger(__name__)

VALIDATED = (
    "validation_psnr_db",
    "validation_ssim",
    "validation_ema_psnr_db",
    "validation_ema_ssim",
)


class RunLog:
    """Averages losses between rows and writes the rows.

    Columns: ``step`` (steps done), ``epoch`` (epochs done), the loss terms and the gradient's norm
    (means over the steps since the last row), ``learning_rate``, ``slices_per_second``, ``seconds``
    (training time over all restarts) and the `VALIDATED` on the validation slices, of the weights
    and of their moving average (empty where there was none). Beside the CSV file, TensorBoard gets
    the same numbers if it is installed.

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
        self.board: Any = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(path.parent / "tensorboard", purge_step=step + 1)

    @property
    def seconds(self) -> float:
        """Training time so far, over all restarts."""
        return time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        """Give what must survive a restart."""
        return {"sums": dict(self.sums), "steps": self.steps, "seconds": self.seconds}

    def add(self, values: Mapping[str, float], slices: int) -> None:
        """Take the losses of one step of ``slices`` slices."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1
        self.slices += slices
        if not self.bar.disable:
            rate = f"{self._rate():.1f} slices/s"
            self.bar.set_postfix_str(f"loss {values['loss']:.4g}, {rate}", refresh=False)
        self.bar.update()

    def row(
        self, step: int, epoch: int, learning_rate: float, validated: Mapping[str, float]
    ) -> None:
        """Write a row and start the next average; ``validated`` holds some of `VALIDATED`."""
        means = {name: total / self.steps for name, total in self.sums.items()}
        row = {
            "step": step,
            "epoch": epoch,
            **{name: f"{mean:.8g}" for name, mean in means.items()},
            "learning_rate": f"{learning_rate:.8g}",
            "slices_per_second": f"{self._rate():.2f}",
            "seconds": f"{self.seconds:.1f}",
            **{name: f"{validated[name]:.6g}" if name in validated else "" for name in VALIDATED},
        }
        new = not self.path.exists()
        with writing(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self._report(row)
        self.sums, self.steps, self.slices, self.row_started = {}, 0, 0, time.monotonic()

    def close(self) -> None:
        """End the progress bar."""
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def _rate(self) -> float:
        return self.slices / max(time.monotonic() - self.row_started, 1e-9)

    def _report(self, row: dict[str, Any]) -> None:
        shown = {name: value for name, value in row.items() if value != ""}
        number = shown.pop("step")
        step = f"step {number} of {self.bar.total}"
        with logging_redirect_tqdm():  # lines go above the bar
            log.info("%s: %s", step, ", ".join(f"{k} {v}" for k, v in shown.items()))
        if self.board is not None:
            for name, value in shown.items():
                self.board.add_scalar(name, float(value), number)

    def _drop_rows_after(self, step: int) -> None:
        if not self.path.exists():
            return
        header, *rows = self.path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        # A row cut off by a crash has no line end.
        kept = [r for r in rows if r.endswith("\n") and int(r.split(",")[0]) <= step]
        if step == 0 or not header.endswith("\n"):
            self.path.unlink()
        else:
            with atomic_file(self.path) as temporary:
                temporary.write_text(header + "".join(kept), encoding="utf-8")
