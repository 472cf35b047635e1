"""One training loop for every method; a run that is killed anywhere resumes exactly.

The draws of step k are keyed by (seed, k, slice), its batch by (seed, epoch), and the working
checkpoint is replaced atomically, so that the weights at the end do not depend on interruptions
(bit for bit on the CPU with the same number of threads). On several devices each takes its share of
every batch; gradients are those of the joint batch.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import checkpoints
from models.channels import images_of
from models.checkpoints import Metadata
from models.dataset import Batch, Scales, ShardSlices
from models.devices import combined, make_fabric, to_device
from models.draws import keyed_rng, seed_of
from models.loader import batches
from models.methods.base import MethodSettings, Objective, trainable_parameters
from models.registry import build, load
from models.settings import Settings
from models.training import record, resume
from models.training.logger import RunLog
from models.training.optim import gradient_norm, learning_rate
from models.training.order import BatchOrder, steps_per_epoch
from models.training.parts import Part, Parts
from models.training.resume import identity, leave, stop_requests
from models.training.run_folder import RunFolder
from models.training.validation import Validation
from pipeline.storage.errors import InputError
from pipeline.storage.files import make_folder
from pipeline.tomography.agreement import of_training, volumes_of

log = logging.getLogger(__name__)


def train(
    settings: Settings,
    train_shards: Sequence[Path],
    validation_shards: Sequence[Path],
    output: Path,
    kept: Path,
    run_dir: Path,
    log_csv: Path,
    frozen: Path | None,
    threads: int,
) -> None:
    """Train a model, or go on with an interrupted run of the same configuration.

    Parameters
    ----------
    settings : Settings
    train_shards, validation_shards : sequence of path
        Shards; scales come from the training ones alone. Without validation shards the
        validation columns stay empty.
    output : Path
        Final weights (.safetensors); all that the run used is written beside it as .yaml.
    kept : Path
        Folder of the weights after every ``keep_every_epochs`` epochs, ``epoch0020.safetensors``
        and so on; empty if that is 0.
    run_dir : Path
        Folder of what runs of this model keep between calls, see
        `models.training.run_folder.RunFolder`.
    log_csv : Path
        Where the finished log goes; columns as in `models.training.logger.RunLog`.
    frozen : Path or None
        Weights of the model whose trained network this one uses.
    threads : int
        CPU cores that may be used.

    Raises
    ------
    InputError
        If any input is missing, damaged or of another configuration, or a loss or gradient is not
        finite.
    SystemExit
        After SIGTERM or SIGINT, once the working checkpoint is written.
    """
    run = Run(settings, train_shards, validation_shards, run_dir, frozen, threads)
    with stop_requests() as signals:
        run.train(signals)
    if run.fabric.is_global_zero:
        run.folder.publish(output, log_csv, kept, run.kept_epochs(run.total))
        run.save_weights(output)
        run.folder.forget_others()


class Run:
    """State of one training run; parameters as in `train`."""

    def __init__(
        self,
        settings: Settings,
        train_shards: Sequence[Path],
        validation_shards: Sequence[Path],
        run_dir: Path,
        frozen: Path | None,
        threads: int,
    ):
        model, self.training = settings.model, settings.training
        self.seed = model.seed
        self.own: MethodSettings = load(model.method).Settings(**model.settings)
        self.fabric = make_fabric(self.training, self.training.devices, threads)
        scales = Scales.from_shards(train_shards)
        seen = settings.network.size, scales, self.own.conditioning, self.training.target
        self.slices = ShardSlices(train_shards, *seen)
        count = len(self.slices) // self.slices.doses
        self.steps_per_epoch = steps_per_epoch(count, self.own.batch_size)
        self.total = self.own.epochs * self.steps_per_epoch
        self.step = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, "weights"))
            self.method = build(model.method, settings.network, model.settings)
        self.metadata = Metadata(
            model=model.name,
            method=model.method,
            network=asdict(settings.network),
            settings=dict(model.settings),
            seed=self.seed,
            scales=scales,
            step=0,
            epoch=0,
            frozen_sha256=None,
            trained_on=volumes_of(train_shards),
            physics=of_training(train_shards, validation_shards, images_of(self.own.conditioning)),
        )
        self.metadata = checkpoints.attach_frozen(self.method, self.metadata, frozen)
        self.parts = Parts(self.method, self.own, self.training, self.fabric)
        self.validation = Validation(
            ShardSlices(validation_shards, *seen),
            self.method,
            self.parts,
            settings,
            self.own.batch_size,
            self.fabric,
        )
        known = identity(self.metadata, self.training, train_shards, validation_shards)
        self.folder = RunFolder(run_dir, known, self.training.accept_code)
        log_state = self._resume()
        self.log: RunLog | None = None
        if self.fabric.is_global_zero:
            facts = {
                "total_steps": self.total,
                "trainable_parameters": trainable_parameters(self.parts.predicting),
                "train_shards": train_shards,
                "validation_shards": validation_shards,
                "frozen": frozen,
                "device": self.fabric.device,
                "devices": self.fabric.world_size,
                "threads": threads,
            }
            record.write(self.folder.record, self.metadata, self.training, facts)
            self.log = RunLog(self.folder.log, self.step, self.total, log_state)

    def train(self, signals: list[int]) -> None:
        """Do the remaining steps.

        Parameters
        ----------
        signals : list of int
            Filled by a signal handler; the run stops after the step in which that happens.
        """
        share, doses = (self.fabric.global_rank, self.fabric.world_size), self.slices.doses
        self.order = BatchOrder(
            len(self.slices) // doses,
            self.own.batch_size,
            self.seed,
            self.step,
            self.total,
            share,
            doses,
        )
        on_gpu = self.fabric.device.type == "cuda"
        for batch in batches(self.slices, self.order, self.training.workers, on_gpu):
            self._do_step(to_device(batch, self.fabric))
            self._keep()
            received = {"signal": float(max(signals, default=0))}
            number = int(combined(received, self.fabric, "max")["signal"])
            if self._due(self.training.checkpoint_every_steps) or number:
                self._save()
            if number:
                leave(number, self.step, self.fabric)
        if self.log:
            self.log.close()

    def _do_step(self, batch: Batch) -> None:
        values: dict[str, float] = {}
        rate = learning_rate(self.own, self.step, self.total)
        weight = self.order.weight(self.step)
        for part in self.parts:
            part.wrapped.train()
        draws = [keyed_rng(self.seed, "step", self.step, *key.words) for key in batch.keys]
        with self.fabric.autocast():
            prepared = self.method.prepared(batch)
        objectives = self.method.training_step(prepared, draws)
        while (objective := self._next(objectives)) is not None:
            losses = objective.losses
            found = {name: float(loss.detach()) * weight for name, loss in losses.items()}
            found = combined(found, self.fabric)
            self._check_finite("loss", found)
            norm = self._update(self.parts[objective.part], losses["loss"], weight, rate)
            self._check_finite("gradient", {objective.part: norm})
            prefix = ""
            if objective.part != "network":  # whose losses have names of their own
                prefix = f"{objective.part}_"
                del found["loss"]
            values |= found | {f"{prefix}gradient_norm": norm}
        self.parts.average()
        self.step += 1
        validate = self._due(self.training.validate_every_steps)
        validated = self.validation.measure(self.folder.path, self.step) if validate else {}
        if self.log:
            self.log.add(values, len(self.order.batch(self.step - 1)))
            if validate or self._due(self.training.log_every_steps):
                self.log.row(self.step, self.step // self.steps_per_epoch, rate, validated)

    def _next(self, objectives: Iterator[Objective]) -> Objective | None:
        with self.fabric.autocast():
            return next(objectives, None)

    def _update(self, part: Part, loss: Tensor, weight: float, rate: float) -> float:
        """Back-propagate a loss and move the part's weights, unless the gradient is not finite."""
        part.weights.forget_gradients()
        # Gradients are averaged over the devices, each of which has the mean over its own slices.
        self.fabric.backward(loss * (weight * self.fabric.world_size))
        part.weights.take_gradients()
        norm = gradient_norm(part.weights, self.training.gradient_clip)
        if math.isfinite(norm):
            for group in part.optimiser.param_groups:
                group["lr"] = rate
            part.optimiser.step()
        return norm

    def _check_finite(self, what: str, values: Mapping[str, float]) -> None:
        if not all(map(math.isfinite, values.values())):
            slices = "; ".join(str(self.slices.keys[i]) for i in self.order.batch(self.step))
            raise self._not_finite(f"the {what} of step {self.step + 1} is {values} on {slices}")

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.total

    # --- checkpoints -----------------------------------------------------------------------------

    def save_weights(self, path: Path) -> None:
        """Write the weights as they are now."""
        epoch = self.step // self.steps_per_epoch
        self.parts.save_weights(path, replace(self.metadata, step=self.step, epoch=epoch))

    def kept_epochs(self, step: int) -> list[int]:
        """List the epochs whose checkpoints are kept once so many steps are done."""
        every, done = self.own.keep_every_epochs, step // self.steps_per_epoch
        return list(range(every, done + 1, every)) if every else []

    def _keep(self) -> None:
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        if self.log and rest == 0 and epoch in self.kept_epochs(self.step):
            path = self.folder.epoch(epoch)
            make_folder(path.parent)
            self.save_weights(path)

    def _save(self) -> None:
        if not self.log:
            return
        for name in self.parts.not_finite():
            raise self._not_finite(f"weights ({name}) after step {self.step} are not finite")
        state = {
            "identity": self.folder.identity,
            "step": self.step,
            "finished": self.step == self.total,
            **self.parts.state(),
            "log": self.log.state(),
        }
        resume.save_working(self.folder.working, state)

    def _resume(self) -> dict[str, Any] | None:
        """Make the run's folder, load its working checkpoint, if any; give the log's state."""
        origin = self.folder.origin(self.total, self.kept_epochs)
        if self.fabric.is_global_zero:
            self.folder.prepare(origin, self.total, self.kept_epochs)
        self.fabric.barrier()
        state = self.folder.load()
        if state is None:
            return None
        with resume.restoring(self.folder.working):
            self.parts.load(state)
            self.step = state["step"]
            log_state = state["log"]
        log.info("resumed at step %d of %d", self.step, self.total)
        return log_state

    def _not_finite(self, problem: str) -> InputError:
        working, folder = self.folder.working, self.folder.path
        kept = f"{working} is kept" if working.exists() else "there is no checkpoint yet"
        return InputError(
            folder,
            f"{problem}; {kept}",
            f"lower the model's learning_rate (and delete {folder}), or look at those slices",
        )
