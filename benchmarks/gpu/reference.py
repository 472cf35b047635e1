"""The U-Net of denoising_diffusion_pytorch beside ours, on this device: see `benchmarks.unet`."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import unet
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.table import NotRun, Row
from benchmarks.steps import convolving

PRECISIONS = ("fp32", "bf16")


def rows(machine: Machine) -> Iterator[Row]:
    """Compare times of a training and a sampling step, each network in a process of its own.

    Raises
    ------
    NotRun
        If the reference is not installed.
    """
    if not (unet.REFERENCE / unet.PACKAGE).is_dir():
        raise NotRun(f"{unet.PACKAGE} is not installed: `make bench` does it")
    size, width = machine.config["network"]["size"], machine.config["network"]["width"]
    batch = machine.config["methods"]["cDPM"]["batch_size"]
    for precise in PRECISIONS:
        theirs, ours = (
            unet.apart(measure, kind, machine, precise, batch, size, width)
            for kind in ("reference", "own")
        )
        for step, seconds in ours.items():
            note = f"{seconds * 1e3:.3g} ms, theirs {theirs[step] * 1e3:.3g} ms, batch {batch}"
            ratio = theirs[step] / seconds
            yield Row(f"U-Net, {precise}: {step} step", ratio, "times as fast", note=note)


def measure(
    kind: str, machine: Machine, precise: str, batch: int, size: int, width: int
) -> dict[str, float]:
    """Time the steps of one of the networks, as it comes; the reference's process ends with it."""
    if kind == "reference":
        network = unet.reference_class()(dim=width, channels=2, out_dim=1)
    else:
        network = unet.own_network(width)
    network.to(machine.device)
    adam = torch.optim.Adam(network.parameters(), fused=kind == "own")
    torch.manual_seed(0)
    x, target = (
        torch.randn(batch, channels, size, size, device=machine.device) for channels in (2, 1)
    )
    t = torch.full((batch,), 321, device=machine.device)
    autocast = partial(
        torch.autocast, machine.device.type, torch.bfloat16, enabled=precise == "bf16"
    )

    def train() -> None:
        adam.zero_grad()
        with autocast():
            loss = F.mse_loss(network(x, t).float(), target)
        loss.backward()
        adam.step()

    turns = 5 if machine.cuda else 1
    with convolving(precise):
        training = machine.seconds(train, turns, warm_up=2)
        with torch.no_grad(), autocast():
            sampling = machine.seconds(partial(_forward, network, x, t), turns, warm_up=2)
    return {"training": training, "sampling": sampling}


def _forward(network: nn.Module, x: torch.Tensor, t: torch.Tensor) -> None:
    network(x, t)
