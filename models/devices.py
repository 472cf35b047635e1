"""Where and how precisely networks are computed."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from pipeline.errors import InputError


def make_fabric(training: Mapping[str, Any], devices: int, threads: int) -> Fabric:
    """Set up the devices that the configuration asks for.

    Parameters
    ----------
    training : mapping
        ``device`` ("auto" takes CUDA where there is one) and ``precision``.
    devices : int
        How many; more than one starts as many processes, each of which runs the calling script.
    threads : int
        CPU cores that may be used by all processes together.

    Raises
    ------
    InputError
        If there are fewer GPUs.
    """
    torch.set_num_threads(max(1, threads // devices))
    accelerator = training["device"]
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    found = torch.cuda.device_count()
    if accelerator == "cuda" and found < devices:
        raise InputError(
            "training.device",
            f"asks for {devices} GPU(s), and PyTorch sees {found}",
            "set training.device to cpu or auto, or training.devices to what there is",
        )
    # Buffers are not broadcast: batch norms share their statistics already, see `share_statistics`.
    strategy = DDPStrategy(broadcast_buffers=False) if devices > 1 else "auto"
    fabric = Fabric(
        accelerator=accelerator, devices=devices, strategy=strategy, precision=training["precision"]
    )
    fabric.launch()
    return fabric


def share_statistics(module: nn.Module, fabric: Fabric) -> nn.Module:
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
