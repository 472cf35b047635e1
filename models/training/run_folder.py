"""Where a training run keeps its state between calls: a folder of its own for each identity."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from models import checkpoints
from models.training import resume
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file, make_folder, writing

log = logging.getLogger(__name__)


class RunFolder:
    """Folder of one run: its working checkpoint, log, record and kept checkpoints.

    It lies below ``root`` under the first 16 digits of the identity's SHA-256, so that nothing of a
    run is ever touched by, or taken for, that of another one. What other runs left there stays
    until this one's results are published.

    Parameters
    ----------
    root : Path
        Of all runs of a model.
    identity : str
        From `models.training.resume.identity`.
    accepted_code : str
        Hash of code other than today's whose run may be gone on with; "" for none.

    Attributes
    ----------
    path, working, log, record : Path
        The folder, and in it the working checkpoint, the table of the log, and what was used.
    """

    def __init__(self, root: Path, identity: str, accepted_code: str = ""):
        self.root, self.identity, self.accepted_code = root, identity, accepted_code
        self.path = root / hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.working, self.log = self.path / "working.pt", self.path / "log.csv"
        self.record = self.path / "run.yaml"

    def epoch(self, number: int, folder: Path | None = None) -> Path:
        """Name the checkpoint that is kept after an epoch, here or in another run's folder."""
        return (folder or self.path) / "epochs" / f"epoch{number:04}.safetensors"

    def origin(self, total: int, kept: Callable[[int], Sequence[int]]) -> Path | None:
        """Find the run that this one goes on from, if it has no state of its own.

        That is one that differs in its length alone, in how often it keeps checkpoints, or in its
        code where that is accepted.

        Parameters
        ----------
        total : int
            Steps of this run.
        kept : callable
            Epochs whose checkpoints this run needs once it has done so many steps.

        Returns
        -------
        Path or None
            Its folder; None to go on from this run's own state, or to start.

        Raises
        ------
        InputError
            If a run that is not finished would be left behind, or one that is finished has done
            more steps or kept less than is asked for.
        """
        self._refuse_earlier_layout()
        if self.working.exists():
            return None
        refusal, longest, origin = None, -1, None
        for folder in self._others():
            state = resume.load_working(folder / "working.pt")
            with resume.restoring(folder / "working.pt"):
                old, new = json.loads(state["identity"]), json.loads(self.identity)
                step, finished = int(state["step"]), bool(state["finished"])
                if accepted := old["code"] == self.accepted_code:
                    old["code"] = new["code"]
                related = _without_length(old) == _without_length(new)
            missing = [n for n in kept(step) if not self.epoch(n, folder).exists()]
            if related and step <= total and not missing:
                if step > longest:
                    longest, origin = step, folder
                    if accepted:
                        log.warning("%s was begun with other code, which is accepted", folder)
            elif related and step <= total and finished:
                refusal = self._refused_epoch(missing[0], folder)
            elif related or not finished:
                changed = list(checkpoints.differences(old, new, "run"))
                if step > total:
                    changed = [f"it has done {step} steps, and {total} are asked for"]
                remedy = f"restore what differs to finish it, or delete {folder} to start anew"
                if {**old, "code": None} == {**new, "code": None} and step <= total:
                    remedy = (
                        f"delete {folder} to start over, or go on with today's code: "
                        f"--config \"training={{accept_code: '{old['code']}'}}\""
                    )
                refusal = InputError(
                    folder / "working.pt",
                    f"belongs to another run ({'; '.join(changed)})",
                    remedy,
                )
        if refusal and not origin:
            raise refusal
        return origin

    def prepare(
        self, origin: Path | None, total: int, kept: Callable[[int], Sequence[int]]
    ) -> None:
        """Make the folder unless it holds a state; start it as a copy of another run, if given."""
        if self.working.exists():
            return
        make_folder(self.root)
        with writing(self.path):
            for leftover in (self.path, *self.root.glob(".*.tmp")):
                shutil.rmtree(leftover, ignore_errors=True)
            new = self.root / f".{self.path.name}.tmp"
            new.mkdir()
            if origin is not None:
                log.info("going on from %s", origin)
                self._copy(origin, new, total, kept)
            new.rename(self.path)

    def _copy(
        self, origin: Path, new: Path, total: int, kept: Callable[[int], Sequence[int]]
    ) -> None:
        state = resume.load_working(origin / "working.pt")
        step, settings = state["step"], json.loads(self.identity)["settings"]
        for number in kept(step):
            target = self.epoch(number, new)
            make_folder(target.parent)
            checkpoints.copy(self.epoch(number, origin), target, settings)
        if (origin / "log.csv").exists():
            shutil.copyfile(origin / "log.csv", new / "log.csv")
        own = {"identity": self.identity, "finished": step == total}
        resume.save_working(new / "working.pt", state | own)

    def load(self) -> dict[str, Any] | None:
        """Read the working checkpoint, if there is one.

        Raises
        ------
        InputError
            If it is damaged or was put there from another run.
        """
        if not self.working.exists():
            return None
        state = resume.load_working(self.working)
        with resume.restoring(self.working):
            old, new = json.loads(state["identity"]), json.loads(self.identity)
            if changed := list(checkpoints.differences(old, new, "run")):
                raise InputError(
                    self.working,
                    f"belongs to another run ({'; '.join(changed)})",
                    f"put it back where it was, or delete {self.path} to start anew",
                )
        return state

    def publish(self, output: Path, log_csv: Path, kept: Path, epochs: Sequence[int]) -> None:
        """Copy the record, the log and the kept checkpoints to where results belong.

        Parameters
        ----------
        output : Path
            The weights, beside which the record goes as .yaml.
        log_csv, kept : Path
            File of the log; folder of the kept checkpoints, which holds no others afterwards.
        epochs : sequence of int
            After which checkpoints were kept.

        Raises
        ------
        InputError
            If one of them was deleted here, or a file cannot be written.
        """
        copies = {self.record: output.with_suffix(".yaml"), self.log: log_csv}
        for number in epochs:
            if not self.epoch(number).exists():
                raise self._refused_epoch(number, self.path)
            copies[self.epoch(number)] = kept / self.epoch(number).name
        make_folder(kept)
        for stale in {*kept.glob("epoch*.safetensors")} - {*copies.values()}:
            with writing(stale):
                stale.unlink()
        for source, target in copies.items():
            with atomic_file(target) as temporary:
                shutil.copyfile(source, temporary)

    def forget_others(self) -> None:
        """Delete what other runs left that were finished or never reached a checkpoint."""
        for folder in {*self.root.iterdir()} - {self.path}:
            if not folder.is_dir() or not _is_name(folder.name):
                continue
            working = folder / "working.pt"
            if working.exists():
                if not resume.load_working(working)["finished"]:
                    log.info("%s is not finished, and stays", folder)
                    continue
                log.info("deleting %s, whose results these replace", folder)
                working.unlink()  # first, as nothing else makes a run of a folder
            shutil.rmtree(folder, ignore_errors=True)

    def _others(self) -> Iterator[Path]:
        for working in sorted(self.root.glob("*/working.pt")):
            if _is_name(working.parent.name) and working.parent != self.path:
                yield working.parent

    def _refuse_earlier_layout(self) -> None:
        if (self.root / "working.pt").exists():
            raise InputError(
                self.root / "working.pt",
                "was written by an earlier version of this project",
                f"finish that run with that version, or delete {self.root} to start anew",
            )

    def _refused_epoch(self, number: int, folder: Path) -> InputError:
        return InputError(
            self.epoch(number, folder),
            "was not kept when this model was trained",
            f"delete {folder} to train again, or restore keep_every_epochs",
        )


def _is_name(name: str) -> bool:
    return re.fullmatch("[0-9a-f]{16}", name) is not None


def _without_length(identity: dict[str, Any]) -> dict[str, Any]:
    """Leave out of an identity what does not matter for the weights after k steps."""
    settings = dict(identity["settings"])
    settings.pop("keep_every_epochs", None)
    if settings.get("schedule") == "constant":
        settings.pop("epochs", None)
    return {**identity, "settings": settings}
