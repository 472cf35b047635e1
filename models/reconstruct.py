"""Rule ``reconstruct``: all slices of one shard by one trained model."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from models import checkpoints
from models.channels import images_of
from models.conformal import deviation
from models.consistency import Measurements
from models.dataset import ShardSlices, SliceKey
from models.devices import Inference
from models.loader import batches, in_order
from models.methods.base import Correct, check_finite
from models.settings import FinalSampling, Settings
from pipeline.storage import hdf5
from pipeline.storage.kinds import DOSE, RECONSTRUCTION, SHARD, identity_of
from pipeline.tomography import agreement
from pipeline.tomography.physics import Physics, dose_of, of_shard

log = logging.getLogger(__name__)


class Reconstructor:
    """A trained model on the device where it computes.

    Parameters
    ----------
    weights : Path
        Of any model.
    frozen : Path or None
        Weights of the other model that this one was trained with.
    settings : Settings
        Of ``training`` its device and precision count, of ``sampling`` which weights.
    threads : int
        CPU cores that may be used.

    Attributes
    ----------
    doubts : list of str
        What is doubtful about the data that it was given, see
        `pipeline.tomography.agreement.check`.

    Raises
    ------
    InputError
        If a file is missing, damaged, or not of this configuration.
    """

    def __init__(self, weights: Path, frozen: Path | None, settings: Settings, threads: int):
        self.settings, self.seed, self.weights = settings, settings.model.seed, weights
        self.doubts: list[str] = []
        self.inference = Inference(settings.training, threads)
        self.method, self.metadata = checkpoints.load(
            weights, settings.network, settings.sampling.weights, settings.model
        )
        self.sha256 = checkpoints.sha256(weights)
        self.metadata = checkpoints.attach_frozen(self.method, self.metadata, frozen)
        self.parameters = self.method.parameter_count()
        self.method.network = self.inference.place(self.method.network)
        if self.method.frozen is not None:
            self.method.frozen.to(self.inference.device)

    def slices(self, shard_paths: Sequence[Path]) -> ShardSlices:
        """Open shards for `samples`.

        Raises
        ------
        InputError
            If they are damaged, do not fit, have other physics than those of the training, or are
            for test and yet of a volume that the model was trained on.
        """
        for path in shard_paths:
            self.check(of_shard(path), path)
            agreement.check_unseen(self.metadata.trained_on, self.weights, path)
        size = self.settings.network.size
        conditioning = self.metadata.settings["conditioning"]
        return ShardSlices(shard_paths, size, self.metadata.scales, conditioning)

    def check(self, data: Physics | None, where: Path) -> None:
        """Refuse data of other physics than the training's; what is doubtful goes to `doubts`."""
        trained, seen = self.metadata.physics, images_of(self.metadata.settings["conditioning"])
        self.doubts += agreement.check(trained, self.weights, data, where, seen)

    def doubt(self, problem: str, where: Path) -> None:
        """Say what else is doubtful."""
        log.warning("%s: %s", where, problem)
        self.doubts.append(problem)

    def samples(
        self,
        slices: ShardSlices,
        indices: Sequence[int],
        sampling: FinalSampling,
        measured: Measurements | None = None,
    ) -> np.ndarray:
        """Reconstruct some slices.

        Parameters
        ----------
        indices : sequence of int
            N positions in ``slices``.
        sampling : FinalSampling
            Of no effect on methods that do not sample.
        measured : Measurements or None
            Of the shards, in their order; of no effect without consistency.

        Returns
        -------
        ndarray
            (N, K, y, x) float32, activity units; K = 1 for methods that do not sample.

        Raises
        ------
        InputError
            If a pixel is not finite: names model, sampler and slice, and the step if it is known.
        """
        order = in_order(indices, sampling.batch_size)
        if measured and self.sees_counts(sampling):
            measured.check(slices.paths)
        found = []
        for chosen, batch in zip(order, batches(slices, order, 0, False), strict=True):
            correct = self.correct(measured, [slices.positions[n] for n in chosen], sampling)
            found.append(self.predict(batch.inputs, batch.keys, sampling, correct))
        return np.concatenate(found)

    def sees_counts(self, sampling: FinalSampling) -> bool:
        """Whether its samples are kept consistent with the measured counts."""
        return self.method.samples and sampling.consistency.on

    def correct(
        self,
        measured: Measurements | None,
        places: Sequence[tuple[int, int]],
        sampling: FinalSampling,
    ) -> Correct | None:
        """Give what keeps the slices at some places consistent with their counts, if anything does.

        Raises
        ------
        TypeError
            Without measurements, if it `sees_counts`.
        """
        if not self.sees_counts(sampling):
            return None
        if measured is None:
            raise TypeError(f"{self.settings.model.name} needs the measured counts for consistency")
        scale = self.metadata.scales.activity
        return measured.consistent(places, sampling.consistency, scale)

    @torch.no_grad()
    def predict(
        self,
        inputs: torch.Tensor,
        keys: Sequence[SliceKey],
        sampling: FinalSampling,
        correct: Correct | None = None,
    ) -> np.ndarray:
        """Reconstruct a batch (N, C, size, size), as in `models.dataset.Batch`; see `samples`.

        ``correct`` is from the method of that name.
        """
        with self.inference.autocast():
            placed = inputs.to(self.inference.device)
            images = self.method.reconstruct(placed, keys, sampling, self.seed, correct)
        check_finite(images, keys, self._name(sampling))
        return images.float().cpu().numpy() * np.float32(self.metadata.scales.activity)

    def _name(self, sampling: FinalSampling) -> str:
        name = self.settings.model.name
        if not self.method.samples:
            return name
        return f"{name}, {sampling.sampler} with {sampling.steps} steps"

    def used(self, measured: Measurements | None = None) -> dict[str, Any]:
        """Give the settings that decide its images, those of the measurement if it sees counts."""
        found = {"network": asdict(self.settings.network), "settings": self.metadata.settings}
        found |= {"sampling": asdict(self.settings.sampling)} if self.method.samples else {}
        return found | ({"measured": measured.used()} if measured else {})

    def facts(self, sampling: FinalSampling) -> dict[str, Any]:
        """Tell how an image came about; NaN, -1 or nothing where something does not apply."""
        sampled, settings = self.method.samples, self.metadata.settings
        return {
            "model": self.settings.model.name,
            "method": self.metadata.method,
            "conditioning": ", ".join(settings["conditioning"]),
            "condition_dropout": settings.get("condition_dropout", float("nan")),
            "weights_sha256": self.sha256,
            "frozen_sha256": self.metadata.frozen_sha256 or "",
            "epoch": self.metadata.epoch,
            "parameters": self.parameters,
            "activity_scale": self.metadata.scales.activity,
            "weights": sampling.weights,
            "samples": sampling.samples if sampled else 1,
            "sampler": sampling.sampler if sampled else "",
            "steps": sampling.steps if sampled else 1,
            "eta": sampling.eta if sampled else float("nan"),
            "guidance": sampling.guidance if sampled else float("nan"),
            "antithetic": int(sampled and sampling.antithetic and sampling.samples > 1),
            **(sampling.consistency.facts() if sampled else {}),
            "seed": self.seed if sampled else -1,
            "training_seed": self.metadata.seed,
            "device": str(self.inference.device),
        }


def reconstruct(
    weights: Path,
    shard: Path,
    output: Path,
    settings: Settings,
    frozen: Path | None,
    threads: int,
    measured: Measurements | None = None,
) -> None:
    """Reconstruct a shard's slices and write them in activity units, in the shard's order.

    Parameters
    ----------
    shard : Path
        One subject.
    output : Path
        A file of kind `pipeline.storage.kinds.RECONSTRUCTION`.
    weights, settings, frozen, threads
        See `Reconstructor`.
    measured : Measurements or None
        Of the shard; see `Reconstructor.samples`.
    """
    model, sampling = Reconstructor(weights, frozen, settings, threads), settings.sampling
    slices = model.slices([shard])
    stack = model.samples(slices, range(len(slices)), sampling, measured)
    arrays: dict[str, np.ndarray | h5py.Dataset] = {"image": stack.mean(axis=1)}
    if stack.shape[1] > 1:
        arrays |= {"std": deviation(stack, sampling.antithetic), "samples": stack}
    facts = {"subject": slices.keys[0].subject, **model.facts(sampling)}
    facts["doubts"] = "\n".join(model.doubts)
    with hdf5.opened(shard, SHARD) as file:
        facts[DOSE] = dose_of(file)
        arrays |= identity_of(file)
    del arrays["rotation_deg"]
    hdf5.write(output, RECONSTRUCTION, arrays, hdf5.provenance(model.used(measured), **facts))
