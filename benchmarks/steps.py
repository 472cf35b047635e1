"""What benchmarks of networks share: slices of noise, and steps of a method."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.dataset import Batch, Scales, ShardSlices
from models.draws import keyed_rng
from models.loader import batches
from models.methods.base import Method, Objective
from models.registry import build
from models.sections import frozen_of
from models.settings import FinalSampling, Network
from models.training.optim import Weights, make_optimiser
from models.training.order import BatchOrder
from pipeline.shard import SHARD
from pipeline.storage import hdf5

CPU = torch.device("cpu")


def noise_shard(folder: Path, size: int, slices: int = 16) -> Path:
    """Write slices of noise, sinograms being nearly as large as images."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 128, (3, slices, size, size)).astype(np.float32)
    arrays: dict[str, Any] = dict(zip(("osem", "fbp", "activity"), images, strict=True))
    arrays["sinogram"] = rng.poisson(80, (slices, size - 4, size - 1)).astype(np.uint32)
    arrays["labels"] = np.zeros((slices, size, size), dtype=np.uint8)
    arrays["rotation"] = np.zeros(slices, dtype=np.uint8)
    arrays["slice_index"] = np.arange(slices, dtype=np.int16)
    arrays["rotation_deg"] = arrays["scale"] = np.ones(slices, dtype=np.float32)
    path = folder / "subject04.h5"
    hdf5.write(path, SHARD, arrays, hdf5.provenance({}, subject="subject04"))
    return path


def first_batch(paths: Sequence[Path], size: int, batch: int, conditioning: Sequence[str]) -> Batch:
    """Read a batch as the first training step does."""
    slices = ShardSlices(paths, size, Scales.from_shards(paths), conditioning)
    return next(batches(slices, BatchOrder(len(slices), batch, 0, 0, 1), 0, False))


def make_method(name: str, config: Mapping[str, Any]) -> Method:
    """Build a method, and the network that it uses frozen, with the same weights in every call."""
    torch.manual_seed(0)
    network, own = Network(**config["network"]), config["methods"][name]
    method = build(name, network, own)
    if frozen := frozen_of(name, own):
        method.use_frozen(build(frozen, network, config["methods"][frozen]))
    return method


PRECISIONS = ("bf16", "TF32", "fp32")
"""How networks may be computed, the fastest first.

TF32, of convolutions alone, is what PyTorch makes of float32 on a GPU, and so what "32-true" means
there. In fp32 convolutions have all digits, too.
"""


@contextmanager
def convolving(precise: str) -> Iterator[None]:
    """Let convolutions, and their backward passes, have TF32 or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precise != "fp32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class Steps:
    """A method on a device, and what its training and its sampling repeat.

    Parameters
    ----------
    name : str
        Of the method.
    config : mapping
        The configuration.
    batch : Batch
        Which all steps see.
    device : torch.device
    precise : str
        One of `PRECISIONS`.
    compiled : callable, optional
        What each trained network becomes, as torch.compile makes it.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        batch: Batch,
        device: torch.device = CPU,
        precise: str = "fp32",
        compiled: Callable[[nn.Module], Any] = lambda network: network,
    ):
        own = config["methods"][name]
        self.method = make_method(name, config)
        self._weights, self._optimisers = {}, {}
        for part, module in self.method.parts.items():
            setattr(self.method, part, compiled(module.to(device)))
            weights = self._weights[part] = Weights(module)  # of the type that they have now
            self._optimisers[part] = make_optimiser(weights, self.method.Settings(**own))
        if self.method.frozen is not None:
            self.method.frozen.to(device)
        inputs, image = (tensor.to(device) for tensor in (batch.inputs, batch.image))
        self.batch, self._device, self._precise = Batch(inputs, image, batch.keys), device, precise
        sampling = FinalSampling.of(config["sampling"])
        self._sampling = replace(sampling, samples=1, guidance=0.0)

    def objectives(self) -> Iterator[Objective]:
        """Do the forward passes of a training step; who takes an objective updates its part."""
        for part in self.method.parts.values():
            part.train()
        draws = [keyed_rng(0, *key) for key in self.batch.keys]
        with self._autocast():
            prepared = self.method.prepared(self.batch)
        objectives = self.method.training_step(prepared, draws)
        while True:
            with self._autocast():
                objective = next(objectives, None)
            if objective is None:
                return
            yield objective

    def train(self) -> None:
        """Do what `models.training.train` does with a batch."""
        with convolving(self._precise):
            for part, losses in self.objectives():
                self.backward(part, losses["loss"])
                self.step(part)

    def backward(self, part: str, loss: Tensor) -> None:
        """Compute the gradients of a part."""
        self._weights[part].forget_gradients()
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, part: str) -> None:
        """Update a part's weights by its gradients."""
        self._weights[part].take_gradients()
        self._optimisers[part].step()

    @torch.no_grad()
    def sample(self, steps: int = 1, chosen: slice = slice(None)) -> Tensor:
        """Reconstruct slices of the batch, in so many steps if the method samples."""
        self.method.network.eval()
        sampling = replace(self._sampling, steps=steps)
        inputs, keys = self.batch.inputs[chosen], self.batch.keys[chosen]
        with convolving(self._precise), self._autocast():
            return self.method.reconstruct(inputs, keys, sampling, 0)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._precise == "bf16")

    def operations(self) -> float:
        """Count the floating-point operations of a training step, of one slice."""
        with FlopCounterMode(display=False) as counter:
            self.train()
        return counter.get_total_flops() / len(self.batch.keys)


def reading_rate(paths: Sequence[Path], size: int, batch: int, workers: int) -> float:
    """Slices a second out of the shards, shuffled, without any computation."""
    slices = ShardSlices(paths, size, Scales(1.0, 1.0), ["sinogram"])
    steps = 400 // batch
    reading = batches(slices, BatchOrder(len(slices), batch, 0, 0, steps + 1), workers, False)
    next(reading)  # start of the workers
    start = time.perf_counter()
    read = sum(len(found.keys) for found in reading)
    return read / (time.perf_counter() - start)
