"""Networks on this device against the same ones in float64 on the CPU."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.table import Row
from benchmarks.steps import CPU, Steps, convolving, first_batch
from models.networks.unet import Features

PIXELS = 64
"""Most pixels a side: in float64 the CPU is slow."""

CLOSE = 1e-4
"""Largest relative error in fp32."""

RATE = 1e-3
"""Learning rate of the step that is compared: one whose change float32 resolves."""

SLICES = 4
"""Slices that are sampled together, and one by one."""

SAMPLING_STEPS = 5


def size_of(machine: Machine) -> int:
    """Pixels a side of the images that networks are compared on."""
    return min(PIXELS, machine.config["network"]["size"])


def one_step(machine: Machine, paths: Sequence[Path], name: str) -> Iterator[Row]:
    """Compare a training step of a method: outputs, gradients, and what the optimiser does.

    Where a ReLU's input is nearly 0 rounding decides whether its gradient passes, and that of a
    small image is then percents away. Gradients of such networks are those with SiLU in its place.
    """
    own = machine.config["methods"][name] | {"learning_rate": RATE}
    config = machine.config | {"methods": machine.config["methods"] | {name: own}}
    batch = first_batch(paths, size_of(machine), 2, own["conditioning"])
    for precise in reversed(machine.precisions):
        steps = Steps(name, config, batch, machine.device, precise)
        found = _compared(steps, Steps(name, config, batch, CPU, "fp32", in_float64), precise)
        note = ""
        if any(map(_kinked, steps.method.parts.values())):
            steps = Steps(name, config, batch, machine.device, precise, smooth)
            exact = Steps(name, config, batch, CPU, "fp32", lambda net: in_float64(smooth(net)))
            found = _compared(steps, exact, precise) | {"output": found["output"]}
            note = "SiLU in place of ReLU"
        limit = CLOSE if precise == "fp32" else None
        yield Row(f"{name}, {precise}: outputs of a training step", found["output"], limit=limit)
        yield Row(f"{name}, {precise}: gradients", found["gradient"], limit=limit, note=note)
        if precise == "fp32":  # others have the same optimiser
            yield Row(f"{name}: what the optimiser changes", found["change"], limit=limit)


def _kinked(network: nn.Module) -> bool:
    return any(isinstance(module, nn.ReLU | nn.LeakyReLU) for module in network.modules())


def smooth(network: nn.Module) -> nn.Module:
    """Put SiLU in place of each ReLU."""
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU | nn.LeakyReLU):
                setattr(module, name, nn.SiLU())
    return network


def _compared(steps: Steps, exact: Steps, precise: str) -> dict[str, float]:
    """Give the largest relative errors of one training step, both doing it side by side.

    The reference's gradients are what both optimisers take, for Adam's first step is nearly the
    gradient's sign, which rounding decides where it is 0 but for that.
    """
    errors: dict[str, list[float]] = {"gradient": [], "change": []}
    outputs = [_outputs(each) for each in (steps, exact)]
    with convolving(precise):
        for both in zip(steps.objectives(), exact.objectives(), strict=True):
            part = both[0].part
            for each, objective in zip((steps, exact), both, strict=True):
                each.backward(part, objective.losses["loss"])
            own, other = (list(each.method.parts[part].parameters()) for each in (steps, exact))
            errors["gradient"].append(relative(_gradients(own), _gradients(other)))
            before = [parameter.detach().clone() for parameter in other]
            for one, two in zip(own, other, strict=True):
                one.grad = None if two.grad is None else two.grad.to(one)
            for each in (steps, exact):
                each.step(part)
            found, expected = (
                [_exact(now.detach()) - old for now, old in zip(each, before, strict=True)]
                for each in (own, other)
            )
            errors["change"].append(relative(found, expected))
    errors["output"] = [relative([one], [two]) for one, two in zip(*outputs, strict=True)]
    return {what: max(values) for what, values in errors.items()}


def in_float64(network: nn.Module) -> nn.Module:
    """Have a network compute in float64 what it is given in float32, and give float32."""
    network.register_forward_pre_hook(lambda _, given: tuple(map(_exact, given)))
    network.register_forward_hook(lambda module, given, output: output.float())
    return network.double()


def _exact(value: Any) -> Any:
    """Give tensors of numbers that are not whole in float64 on the CPU."""
    if isinstance(value, Features):
        return value.map(_exact)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(CPU, torch.float64)
    return value


def _outputs(steps: Steps) -> list[Tensor]:
    """Collect all that a method's networks are going to give."""
    found: list[Tensor] = []
    for network in steps.method.parts.values():
        network.register_forward_hook(lambda module, given, output: found.append(output.detach()))
    return found


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def relative(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Euclidean distance of many tensors over the length of those that were expected."""
    distance = length = 0.0
    for one, other in zip(found, expected, strict=True):
        exact = other.detach().to(CPU, torch.float64)
        distance += float((one.detach().to(CPU, torch.float64) - exact).square().sum())
        length += float(exact.square().sum())
    return (distance / length) ** 0.5


def independence(machine: Machine, paths: Sequence[Path], name: str) -> Iterator[Row]:
    """Compare images of slices that are reconstructed together with those of each alone."""
    conditioning = machine.config["methods"][name]["conditioning"]
    batch = first_batch(paths, size_of(machine), SLICES, conditioning)
    steps = Steps(name, machine.config, batch, machine.device)
    together = steps.sample(SAMPLING_STEPS)
    alone = [steps.sample(SAMPLING_STEPS, slice(n, n + 1)) for n in range(SLICES)]
    error = relative([torch.cat(alone)], [together])
    yield Row(f"{name}: images alone and in a batch of {SLICES}", error, limit=CLOSE)
