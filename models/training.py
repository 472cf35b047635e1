"""One training loop for every method; a run that is killed anywhere resumes exactly.

The draws of step k are keyed by (seed, k), its batch by (seed, epoch), and the working checkpoint
is replaced atomically, so that the weights at the end do not depend on interruptions (bit for bit
on the CPU with the same number of threads).
"""

import hashlib
import json
import logging
import platform
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from models import checkpoints, metrics
from models.checkpoints import Metadata
from models.dataset import (
    Batch,
    BatchOrder,
    Scales,
    ShardSlices,
    batches,
    in_order,
    steps_per_epoch,
)
from models.devices import make_fabric
from models.runlog import RunLog
from models.seeds import generator, seed_of
from pipeline import hdf5, shards
from pipeline.code import imported
from pipeline.errors import InputError

log = logging.getLogger(__name__)

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def train(
    method: str,
    settings: Mapping[str, Any],
    train_shards: Sequence[Path],
    validation_shards: Sequence[Path],
    output: Path,
    run_dir: Path,
    log_csv: Path,
    features: Path | None,
    threads: int,
) -> None:
    """Train a method, or go on with an interrupted run of the same configuration.

    Parameters
    ----------
    method : str
        Name in ``models.METHODS``.
    settings : mapping
        The configuration: ``seed``, ``network``, ``training`` and ``methods`` are used.
    train_shards, validation_shards : sequence of path
        Shards; scales come from the training ones alone. Without validation shards the
        validation column stays empty.
    output : Path
        Final weights (.safetensors); all that the run used is written beside it as .yaml.
    run_dir : Path
        Folder of the working checkpoint and log, kept between runs.
    log_csv : Path
        Where the finished log goes; columns as in `models.runlog.RunLog`.
    features : Path or None
        Weights of the method that ``methods.<method>.features`` names.
    threads : int
        CPU cores that may be used.

    Raises
    ------
    InputError
        If any input is missing, damaged or of another configuration, or the loss is not finite.
    SystemExit
        After SIGTERM or SIGINT, once the working checkpoint is written.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    run = Run(method, settings, train_shards, validation_shards, run_dir, features, threads)
    with stop_requests() as signals:
        run.train(signals)
    epoch = settings["methods"][method]["epochs"]
    checkpoints.save(output, run.method, replace(run.metadata, step=run.step, epoch=epoch))
    for source, target in (("run.yaml", output.with_suffix(".yaml")), ("log.csv", log_csv)):
        with hdf5.atomic(target) as temporary:
            shutil.copyfile(run_dir / source, temporary)


class Run:
    """State of one training run; parameters as in `train`."""

    def __init__(
        self,
        method: str,
        settings: Mapping[str, Any],
        train_shards: Sequence[Path],
        validation_shards: Sequence[Path],
        run_dir: Path,
        features: Path | None,
        threads: int,
    ):
        self.training, self.own = settings["training"], settings["methods"][method]
        self.folder, self.working = run_dir, run_dir / "working.pt"
        self.fabric = make_fabric(self.training, threads)
        size, scales = settings["network"]["size"], Scales.from_shards(train_shards)
        self.slices = ShardSlices(train_shards, size, scales)
        self.validation = ShardSlices(validation_shards, size, scales)
        self.steps_per_epoch = steps_per_epoch(len(self.slices), self.own["batch_size"])
        self.total = self.own["epochs"] * self.steps_per_epoch
        self.step = 0

        self.seed = settings["seed"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, "weights"))
            self.method = checkpoints.build(method, settings["network"], self.own)
        self.metadata = Metadata(
            method, dict(settings["network"]), dict(self.own), self.seed, scales, 0, 0, None
        )
        digest = checkpoints.attach_features(self.method, self.metadata, features)
        self.metadata = replace(self.metadata, features_sha256=digest)
        self._set_up_on_device()
        self._write_record(train_shards, validation_shards, features, threads)
        self.log = RunLog(run_dir / "log.csv", *self._resume(train_shards))

    def train(self, signals: list[int]) -> None:
        """Do the remaining steps.

        Parameters
        ----------
        signals : list of int
            Filled by a signal handler; the run stops after the step in which that happens.
        """
        order = BatchOrder(
            len(self.slices),
            self.own["batch_size"],
            self.seed,
            self.step,
            self.total,
        )
        on_gpu = self.fabric.device.type == "cuda"
        for batch in batches(self.slices, order, self.training["workers"], on_gpu):
            self._do_step(self._to_device(batch))
            if self._due("checkpoint_every_steps") or signals:
                self._save()
            if signals:
                log.warning(
                    "signal %d: stopped after step %d; run again to resume", signals[0], self.step
                )
                raise SystemExit(128 + signals[0])
        self.log.close()

    def _do_step(self, batch: Batch) -> None:
        self.method.network.train()
        draw = generator(self.seed, "step", self.step)
        with self.fabric.autocast():
            losses = self.method.training_step(batch, draw)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not np.isfinite(values["loss"]):
            slices = "; ".join(map(str, batch.keys))
            raise self._not_finite(f"the loss of step {self.step + 1} is {values} on {slices}")
        self.optimiser.zero_grad()
        self.fabric.backward(losses["loss"])
        self.optimiser.step()
        self.step += 1
        self.log.add(values, len(batch.keys))
        validate = self._due("validate_every_steps")
        if validate or self._due("log_every_steps"):
            psnr_db = self._validation_psnr_db() if validate and len(self.validation) else None
            rate = self.optimiser.param_groups[0]["lr"]
            self.log.row(self.step, self.step // self.steps_per_epoch, rate, psnr_db)

    @torch.no_grad()
    def _validation_psnr_db(self) -> float:
        """Mean PSNR over a fixed, evenly spaced subset of the validation slices."""
        self.method.network.eval()
        count = min(self.training["validation_slices"], len(self.validation))
        chosen = np.linspace(0, len(self.validation) - 1, count).round().astype(int).tolist()
        order, psnr_db = in_order(chosen, self.own["batch_size"]), []
        for batch in map(self._to_device, batches(self.validation, order, 0, False)):
            with self.fabric.autocast():
                image = self.method.predict(
                    batch.sinogram, batch.keys, self.training["validation_sampling"], self.seed
                )
            psnr_db.append(metrics.psnr_db(image.float(), batch.image))
        return float(torch.cat(psnr_db).mean())

    def _due(self, setting: str) -> bool:
        return self.step % self.training[setting] == 0 or self.step == self.total

    def _to_device(self, batch: Batch) -> Batch:
        sinogram, image = self.fabric.to_device((batch.sinogram, batch.image))
        return Batch(sinogram, image, batch.keys)

    def _set_up_on_device(self) -> None:
        optimiser = OPTIMISERS[self.own["optimiser"]](
            self.method.network.parameters(),
            lr=self.own["learning_rate"],
            betas=tuple(self.own["betas"]),
            weight_decay=self.own["weight_decay"],
        )  # type: ignore[call-arg]
        self.method.network, self.optimiser = self.fabric.setup(self.method.network, optimiser)
        if self.method.frozen is not None:
            self.fabric.to_device(self.method.frozen)

    def _write_record(
        self,
        train_shards: Sequence[Path],
        validation_shards: Sequence[Path],
        features: Path | None,
        threads: int,
    ) -> None:
        packages = ("torch", "lightning-fabric", "diffusers", "ptwt", "numpy", "h5py")
        record = {
            **asdict(self.metadata),
            "training": dict(self.training),
            "total_steps": self.total,
            "trainable_parameters": self.method.parameter_count(),
            "train_shards": [str(path) for path in train_shards],
            "validation_shards": [str(path) for path in validation_shards],
            "features": None if features is None else str(features),
            "device": str(self.fabric.device),
            "threads": threads,
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in packages},
            },
        }
        for changing in ("step", "epoch"):
            del record[changing]
        record = json.loads(json.dumps(record))  # plain lists and dicts
        with hdf5.atomic(self.folder / "run.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(record, sort_keys=False))

    # --- working checkpoint ----------------------------------------------------------------------

    def _save(self) -> None:
        if not all(p.isfinite().all() for p in self.method.network.parameters()):
            raise self._not_finite(f"the weights after step {self.step} are not finite")
        state = {
            "identity": self.identity,
            "step": self.step,
            "finished": self.step == self.total,
            "network": self.method.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "log": self.log.state(),
        }
        checkpoints.save_working(self.working, state)

    def _resume(self, train_shards: Sequence[Path]) -> tuple[int, int, dict[str, Any] | None]:
        """Load the working checkpoint if there is one; say where the log goes on."""
        self.identity = _identity(self.metadata, self.training, train_shards)
        if not self.working.exists():
            return 0, self.total, None
        state = checkpoints.load_working(self.working)
        old, new = json.loads(state["identity"]), json.loads(self.identity)
        changed = list(checkpoints.differences(old, new, "run"))
        if changed and state["finished"]:
            return 0, self.total, None  # nothing of value would be lost
        if state["step"] > self.total:
            changed.append(f"it has done {state['step']} steps, and {self.total} are asked for")
        if changed:
            raise InputError(
                self.working,
                f"belongs to another run ({'; '.join(changed)})",
                f"restore what differs to finish that run, or delete {self.folder} to start anew",
            )
        self.method.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        log.info("resumed at step %d of %d", self.step, self.total)
        return self.step, self.total, state["log"]

    def _not_finite(self, problem: str) -> InputError:
        kept = f"{self.working} is kept" if self.working.exists() else "there is no checkpoint yet"
        return InputError(
            self.folder,
            f"{problem}; {kept}",
            f"lower methods.{self.metadata.method}.learning_rate (and delete {self.folder}), "
            "or look at those slices",
        )


def _identity(metadata: Metadata, training: Mapping[str, Any], train_shards: Sequence[Path]) -> str:
    """Describe all that decides the weights after k steps, as JSON.

    Epochs do not: a finished run can be trained on. Nor does how often it reports. The code does:
    without it, a finished run would stand in for one by corrected code.
    """
    data = []
    for path in train_shards:
        with shards.opened(path) as file:
            data.append([path.name, str(file.attrs.get("config_hash")), len(file["slice_index"])])
    identity = {
        **asdict(metadata),
        "precision": training["precision"],
        "shards": data,
        "code": code_hash(),
    }
    identity["settings"] = {k: v for k, v in metadata.settings.items() if k != "epochs"}
    return json.dumps(identity, sort_keys=True)


def code_hash() -> str:
    """Hash the modules of this package that training uses."""
    here = Path(__file__).resolve()
    files = sorted(path for path in imported(here) if path.parent == here.parent)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda n, _: received.append(n))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
