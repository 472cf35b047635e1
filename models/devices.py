"""Where and how precisely networks are computed."""

import ctypes
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.dataset import Batch
from models.settings import Training
from pipeline.jobs.launch import OWN, adopt_launcher
from pipeline.storage.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Names of glibc's settings, see mallopt(3)."""


def keep_memory() -> None:
    """Have the C library keep the memory that tensors give back, for the next ones to take.

    Without it glibc hands most of it to the system and fetches it again, page by page, at every
    step: a small network trains a tenth slower. Other C libraries have no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 2**25)  # the most that it takes, and tensors of 32 MB are no matter
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def make_fabric(training: Training, devices: int, threads: int) -> "Fabric":
    """Set up the devices that the configuration asks for.

    Parameters
    ----------
    training : Training
        Its ``device`` and ``precision`` count.
    devices : int
        How many. torchrun or srun may have started as many processes, on one node or several; if
        not, and there is more than one, this starts the others, each of which runs the calling
        script.
    threads : int
        CPU cores that may be used: by each process that a launcher started, else by all together.

    Raises
    ------
    InputError
        If there are fewer GPUs, or a launcher started another number of processes or says too
        little.
    """
    # Here, for they take seconds to import, and reconstructions do without.
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import (
        LightningEnvironment,
        TorchElasticEnvironment,
    )
    from lightning_fabric.strategies import DDPStrategy

    launched = _launched(devices)
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if launched else devices
    accelerator = _accelerator(training, here)
    keep_memory()
    # Buffers are not broadcast: batch norms share their statistics already, see `share_statistics`.
    strategy = DDPStrategy(broadcast_buffers=False) if devices > 1 else "auto"
    # Named, for Fabric would take any SLURM job for one whose processes srun has started.
    environment = TorchElasticEnvironment() if launched else LightningEnvironment()
    fabric = Fabric(
        accelerator=accelerator,
        devices=here,
        num_nodes=devices // here,
        strategy=strategy,
        precision=training.precision,
        plugins=[environment],
    )
    if devices > 1 and not launched:
        os.environ[OWN] = "yes"
    fabric.launch()
    torch.set_num_threads(max(1, threads if launched else threads // devices))  # Fabric sets it too
    return fabric


def _launched(devices: int) -> bool:
    """Say whether a launcher started this process, if it was among as many as are asked for."""
    launched = adopt_launcher()
    if launched and (started := int(os.environ["WORLD_SIZE"])) != devices:
        raise InputError(
            "training.devices",
            f"is {devices}, and {started} processes were started",
            "make the launcher's number of processes and training.devices the same",
        )
    return launched


def _accelerator(training: Training, count: int) -> str:
    """Give "cpu" or "cuda", of which there are so many devices."""
    accelerator = training.device
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    found = torch.cuda.device_count()
    if accelerator == "cuda" and found < count:
        raise InputError(
            "training.device",
            f"asks for {count} GPU(s), and PyTorch sees {found}",
            "set training.device to cpu or auto, or training.devices to what there is",
        )
    return accelerator


class Inference:
    """One device to compute trained networks on, as precisely as they were trained.

    Parameters
    ----------
    training : Training
        As for `make_fabric`.
    threads : int
        CPU cores that may be used.

    Attributes
    ----------
    device : torch.device

    Raises
    ------
    InputError
        If there is no GPU where one is asked for, or a launcher started several processes.
    """

    def __init__(self, training: Training, threads: int):
        _launched(1)
        name = _accelerator(training, 1)
        keep_memory()
        self.device = torch.device("cuda", 0) if name == "cuda" else torch.device(name)
        self.mixed = training.precision == "bf16-mixed"
        torch.set_num_threads(max(1, threads))

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device; it gives 32 bits in either precision."""
        if self.mixed:
            network.register_forward_hook(_in_32_bits)
        return network.to(self.device)

    def autocast(self) -> torch.autocast:
        """Have what is computed within use the precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)


def _in_32_bits(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.float()


def to_device(batch: Batch, fabric: "Fabric") -> Batch:
    """Move a batch to where networks are trained."""
    inputs, image = fabric.to_device((batch.inputs, batch.image))
    return Batch(inputs, image, batch.keys)


def combined(values: Mapping[str, float], fabric: "Fabric", how: str = "sum") -> dict[str, float]:
    """Combine numbers of all devices, by "sum" or "max"."""
    if fabric.world_size == 1:
        return dict(values)
    tensor = torch.tensor(list(values.values()), device=fabric.device, dtype=torch.double)
    total = fabric.all_reduce(tensor, reduce_op=how)
    assert isinstance(total, Tensor)  # as was given
    return dict(zip(values, total.tolist(), strict=True))


def share_statistics(module: nn.Module, fabric: "Fabric") -> nn.Module:
    """Let batch norms use the statistics of the joint batch of all devices.

    Raises
    ------
    InputError
        If there are batch norms and several CPU processes, for which PyTorch cannot do it.
    """
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
    if fabric.world_size == 1 or not norms:
        return module
    if fabric.device.type == "cpu":
        raise InputError(
            "training.devices",
            f"is {fabric.world_size} on the CPU, where batch norms cannot share their statistics",
            "train this method on one device, or on GPUs",
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(module)
