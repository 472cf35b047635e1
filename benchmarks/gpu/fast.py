"""How fast every method trains and samples, in which precision, compiled or not, at which batch."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._triton import has_triton

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.table import NotRun, Row, Table
from benchmarks.steps import PRECISIONS, Steps, first_batch, reading_rate
from models.networks import fused, plain
from models.registry import METHODS

EAGER, COMPILED, GRAPHS = "eager", "compiled", "CUDA graphs"

MODES: dict[str, dict[str, Any]] = {EAGER: {}, COMPILED: {}, GRAPHS: {"mode": "reduce-overhead"}}
"""Whether networks are compiled, and arguments of torch.compile."""

TRACED = {"backend": "aot_eager"}
"""Arguments of torch.compile on the CPU, where networks are traced and no code is made of them."""

TRACED_METHOD = "DeepPET"
"""Which has the network that is traced fastest."""

EXPECTED_S = {EAGER: 20.0, COMPILED: 90.0, GRAPHS: 90.0}
"""Most seconds that a measurement should take."""


@dataclass(frozen=True)
class Combination:
    """How networks are computed: a precision, a mode and a number of slices."""

    precise: str
    mode: str
    batch: int

    def __str__(self) -> str:
        return f"{self.precise}, {self.mode}, batch {self.batch}"


@dataclass(frozen=True)
class Measurement:
    """Of one method in one combination.

    Attributes
    ----------
    method : str
    precise, mode, batch
        See `Combination`.
    training_s, sampling_s : float
        Seconds of a step of the batch; of methods that do not sample the second is of all.
    tflop : float
        Floating-point operations of a training step, of one slice, in 1e12.
    memory_gb : float or None
        Largest memory of a training step; None on the CPU.
    """

    method: str
    precise: str
    mode: str
    batch: int
    training_s: float
    sampling_s: float
    tflop: float
    memory_gb: float | None

    @property
    def training_rate(self) -> float:
        """Slices a second."""
        return self.batch / self.training_s

    @property
    def sampling_rate(self) -> float:
        """Slices a second, each a step further."""
        return self.batch / self.sampling_s


def combinations(machine: Machine) -> list[Combination]:
    """Give all combinations, those first that differ least from what should be fastest.

    Compiling takes minutes, and comes after two other differences.
    """
    batches = [4, 32, 16, 8] if machine.cuda else [2]
    ordered = product(enumerate(PRECISIONS), enumerate(MODES), enumerate(batches))
    ranked = [
        (number + 2 * kind + size, Combination(precise, mode, batch))
        for (number, precise), (kind, mode), (size, batch) in ordered
    ]
    return [combination for _, combination in sorted(ranked, key=lambda entry: entry[0])]


class Speeds:
    """Measurements of all methods.

    Parameters
    ----------
    machine : Machine
    paths : sequence of path
        Shards of the configuration's size.

    Attributes
    ----------
    found : list of Measurement
    """

    def __init__(self, machine: Machine, paths: Sequence[Path]):
        self.machine, self.paths = machine, paths
        self.found: list[Measurement] = []
        self._tflop: dict[str, float] = {}

    def measure(self, table: Table) -> None:
        """Measure all methods in all combinations for which there is time."""
        left: dict[tuple[str, str], list[str]] = {}
        for combination, name in product(combinations(self.machine), METHODS):
            if reason := self._obstacle(name, combination):
                left.setdefault((name, reason), []).append(str(combination))
                continue
            what = f"{name}, {combination}"
            table.add("fast", what, partial(self._rows, what, name, combination))
        for (name, reason), each in sorted(left.items()):
            what = f"{name}, {len(each)} other combinations"
            row = Row(what, note="; ".join(each), missing=reason)
            table.add("fast", what, partial(iter, [row]))

    def _obstacle(self, name: str, combination: Combination) -> str:
        """Say why a method is not measured in a combination; "" if it is."""
        if not self.machine.has_time(EXPECTED_S[combination.mode]):
            return "time"
        if self.machine.cuda:
            compiling = combination.mode != EAGER
            return "Triton is not installed" if compiling and not has_triton() else ""
        if combination.precise == "TF32" or combination.mode == GRAPHS:
            return "of GPUs alone"
        if combination.mode == COMPILED and name != TRACED_METHOD:
            return f"on the CPU {TRACED_METHOD} alone is traced"
        return ""

    def _rows(self, what: str, name: str, combination: Combination) -> Iterator[Row]:
        try:
            found = self._measured(name, combination)
        except torch.cuda.OutOfMemoryError as error:
            raise NotRun("out of memory") from error
        except Exception as error:
            if combination.mode != GRAPHS:
                raise
            # No setting asks for them: where a method's steps do not bear them, nothing is wrong.
            raise NotRun(f"{type(error).__name__}: {str(error).splitlines()[:1]}") from error
        self.found.append(found)
        yield Row(f"{what}: training", found.training_rate, "slices/s", note=self._note(found))
        yield Row(f"{what}: sampling steps", found.sampling_rate, "slices/s")

    def _measured(self, name: str, combination: Combination) -> Measurement:
        machine, config = self.machine, self.machine.config
        size, conditioning = config["network"]["size"], config["methods"][name]["conditioning"]
        batch = first_batch(self.paths, size, combination.batch, conditioning)
        _forget(machine)
        compiled = compiler(combination.mode, machine)
        steps = Steps(name, config, batch, machine.device, combination.precise, compiled)
        turns, warm_up, several = (5, 3, 10) if machine.cuda else (1, 1, 2)
        training_s = machine.seconds(steps.train, turns, warm_up)
        memory_gb = torch.cuda.max_memory_allocated() / 1e9 if machine.cuda else None
        if name not in self._tflop:  # its first combination is not compiled
            self._tflop[name] = steps.operations() / 1e12
        passes = several if steps.method.samples else 1
        sampling_s = machine.seconds(partial(steps.sample, passes), turns, warm_up) / passes
        return Measurement(
            name,
            combination.precise,
            combination.mode,
            combination.batch,
            training_s,
            sampling_s,
            self._tflop[name],
            memory_gb,
        )

    def _note(self, found: Measurement) -> str:
        rate = found.training_rate * found.tflop
        parts = [f"{rate:.3g} TFLOP/s"]
        if peak := self.machine.peak_tflops(found.precise):
            parts.append(f"{rate / peak:.0%} of the peak")
        if found.memory_gb is not None:
            parts.append(f"{found.memory_gb:.1f} GB")
        return ", ".join(parts)

    @property
    def fastest(self) -> Measurement:
        """That which trains most slices a second.

        Raises
        ------
        NotRun
            If nothing was measured.
        """
        if not self.found:
            raise NotRun("no training was measured")
        return max(self.found, key=lambda each: each.training_rate)

    def reading(self) -> Iterator[Row]:
        """Say how fast shards are read, against the fastest training."""
        config, fastest = self.machine.config, self.fastest
        for workers in dict.fromkeys((0, config["training"]["workers"])):
            rate = reading_rate(self.paths, config["network"]["size"], 4, workers)
            note = f"{rate / fastest.training_rate:.2g} times the fastest training"
            note += f" ({fastest.method}, {fastest.precise}, {fastest.mode}, batch {fastest.batch})"
            yield Row(f"reading shards, {workers} workers", rate, "slices/s", note=note)


def compiler(mode: str, machine: Machine) -> Any:
    """Give what makes of a network what is run in a mode."""
    if mode == EAGER:
        return lambda network: network
    return partial(torch.compile, **MODES[mode] if machine.cuda else TRACED)


def _forget(machine: Machine) -> None:
    """Free what earlier measurements hold: compiled code, and memory."""
    torch.compiler.reset()
    gc.collect()
    if machine.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def operations(machine: Machine) -> Iterator[Row]:
    """Time the fused operations against the plain ones, forward and backward, in bf16."""
    network, batch = machine.config["network"], machine.config["methods"]["cDPM"]["batch_size"]
    width, size = network["width"], network["size"]
    inner, heads = network["heads"] * network["head_dim"], network["heads"]
    torch.manual_seed(0)

    def random(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape, device=machine.device))

    pixels = random(batch, width, size, size).data.to(memory_format=torch.channels_last)
    x = nn.Parameter(pixels.bfloat16())
    given: Mapping[str, Sequence[nn.Parameter]] = {
        "conv3x3": (random(width, width, 3, 3), random(width)),
        "norm_silu": (random(batch, width), random(batch, width)),
        "linear_attention": (
            random(3 * inner, width),
            random(2, heads, 4, network["head_dim"]),
            random(width, inner),
            random(width),
        ),
    }
    for name, others in given.items():
        times = {}
        for module in (plain, fused):
            step = partial(_forward_and_backward, getattr(module, name), [x, *others])
            times[module] = machine.seconds(step, 10 if machine.cuda else 1, warm_up=2)
        note = f"plain {times[plain] * 1e3:.3g} ms, fused {times[fused] * 1e3:.3g} ms"
        ratio = times[fused] / times[plain]
        yield Row(f"{name}: time of the fused operation", ratio, "of the plain", note=note)


def _forward_and_backward(function: Callable[..., Tensor], given: Sequence[nn.Parameter]) -> None:
    with torch.autocast(given[0].device.type, torch.bfloat16):
        y = function(*given)
    torch.autograd.grad(y, given, torch.ones_like(y))
