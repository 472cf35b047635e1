"""U-Net against denoising_diffusion_pytorch's: one training step and one sampling step.

A training step is forward, mean squared error against a random target, backward and Adam; a
sampling step is forward without gradients. Both networks are time-conditioned, 64 channels wide and
have the same 35.7 million weights, which is checked first: the output and every gradient of the two
are compared. The reference runs as it comes; this project's network as its training runs it, with
channels last and Adam in one kernel. Every contestant has a process of its own, whose peak memory
is thus its own, and they take turns; a ratio is the median over the turns of their times' ratio.

    python -m benchmarks.unet [--size 256] [--turns 5] [--threads 2]
"""

import argparse
import importlib.machinery
import importlib.util
import multiprocessing
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.devices import keep_memory
from models.methods.base import trainable_parameters
from models.networks.unet import UNet
from models.training.optim import Weights

REFERENCE = Path(__file__).parents[1] / ".reference"
PACKAGE = "denoising_diffusion_pytorch"
WIDTH = 64
CHECKPOINTING = "fp32, checkpointing"
CONTESTANTS = ("reference", "fp32", CHECKPOINTING, "bf16")
TOLERANCE = 1e-4
"""Largest relative error of the output at which both networks count as the same."""
SPAWN = multiprocessing.get_context("spawn")

Table = dict[str, "str | tuple[str, Table]"]
"""Pattern of a name's first parts -> what they become, and the table of the parts that follow."""

UNIT: Table = {"proj": "conv", "norm.g": "norm.gain"}
BLOCK: Table = {
    "mlp": "time",
    "block1": ("unit1", UNIT),
    "block2": ("unit2", UNIT),
    "res_conv": "shortcut",
}
ATTENTION: Table = {
    "norm.g": "norm.gain",
    "mem_kv": "memory",
    "to_qkv": "qkv",
    "to_out.1.g": "out_norm.gain",
    "(to_out.0|to_out)": "out",
}
STAGE: Table = {
    "0": ("blocks.0", BLOCK),
    "1": ("blocks.1", BLOCK),
    "2": ("attention", ATTENTION),
    "(3.1|3)": "resample",
}
NETWORK: Table = {
    "time_mlp.1": "time.mlp.0",
    "time_mlp.3": "time.mlp.2",
    "init_conv": "stem",
    r"downs.(\d+)": (r"down.\1", STAGE),
    "mid_block1": ("middle.block1", BLOCK),
    "mid_attn": ("middle.attention", ATTENTION),
    "mid_block2": ("middle.block2", BLOCK),
    r"ups.(\d+)": (r"up.\1", STAGE),
    "final_res_block": ("head_block", BLOCK),
    "final_conv": "head",
}


def renamed(name: str, table: Table = NETWORK) -> str:
    """Name of a weight of the reference in this project's network."""
    for pattern, entry in table.items():
        if found := re.match(rf"{pattern}(\.|$)", name):
            new, inside = (entry, None) if isinstance(entry, str) else entry
            rest = name[found.end() :]
            return ".".join(filter(None, [found.expand(new), renamed(rest, inside or {})]))
    if table:
        raise KeyError(f"no counterpart of {name}")
    return name


def weights_from(reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape weights of the reference, or their gradients, to those of `UNet`."""
    weights: dict[str, Tensor] = {}
    for name, tensor in reference.items():
        new = renamed(name)
        if re.search(r"attention\.(qkv|out)\.weight$", new):  # a 1x1 convolution is a linear map
            tensor = tensor.flatten(1)
        elif name.endswith("mem_kv") and name.replace("mem_kv", "to_out.0.weight") in reference:
            tensor = tensor.mT  # linear attention has positions last
        elif re.fullmatch(
            r"downs\.\d+\.3\.1\.weight", name
        ):  # (O, 4 C, 1, 1): channel, row, column
            tensor = tensor.reshape(len(tensor), -1, 2, 2)
        if new in weights:
            raise KeyError(f"{name} is not the only counterpart of {new}")
        weights[new] = tensor
    return weights


def reference_class() -> type[nn.Module]:
    """Import the reference's network; meant for a process that needs nothing else afterwards.

    Of its package only that one module is wanted: the package's own `__init__` imports all of its
    networks and their metrics. And torchvision, which the module imports for reading images, is
    not installed, because it has to be built against the very torch that is here. Empty modules
    stand in for both.
    """
    sys.path.insert(0, str(REFERENCE))
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        spec = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package = ModuleType(PACKAGE)
    package.__path__ = [str(REFERENCE / PACKAGE)]
    return importlib.import_module(f"{PACKAGE}.{PACKAGE}").Unet


class Sample(NamedTuple):
    """Input, diffusion step and target of one slice."""

    x: Tensor
    t: Tensor
    target: Tensor

    @classmethod
    def random(cls, size: int) -> "Sample":
        """Draw noise of size x size pixels."""
        torch.manual_seed(1)
        return cls(
            torch.randn(1, 2, size, size), torch.tensor([321]), torch.randn(1, 1, size, size)
        )


def own_network(width: int = WIDTH) -> UNet:
    network = UNet(width, in_channels=2, time_conditioned=True)
    return network.to(memory_format=torch.channels_last)


def compare(size: int, threads: int, width: int = WIDTH) -> dict[str, float]:
    """Relative errors of the output and of each weight's gradient at the reference's weights."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    reference, own = reference_class()(dim=width, channels=2, out_dim=1), own_network(width)
    own.load_state_dict(weights_from(reference.state_dict()))  # complains of any missing or left
    sample = Sample.random(size)
    results = []
    for network in (reference, own):
        output = network(sample.x, sample.t)
        F.mse_loss(output, sample.target).backward()
        results.append((output.detach(), {name: p.grad for name, p in network.named_parameters()}))
    (expected, theirs), (found, ours) = results
    pairs = {"output": (found, expected)}
    pairs |= {name: (ours[name], gradient) for name, gradient in weights_from(theirs).items()}
    return {name: float((a - b).norm() / b.norm()) for name, (a, b) in pairs.items()}


def apart(function: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """Call the function in a process of its own."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        return pool.submit(function, *arguments).result()


def peak_mb() -> float:
    """Largest memory that this process has had so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class Contestant(NamedTuple):
    """A network, and what is timed of it."""

    network: nn.Module
    train: Callable[[], object]
    predict: Callable[[], object]
    precise: str


def own(network: nn.Module, sample: Sample, precise: str) -> Contestant:
    """Let this project's network be trained as its training does, in "fp32" or "bf16"."""
    keep_memory()
    weights = Weights(network)
    adam = torch.optim.Adam(weights.rows, fused=True)

    def update() -> None:
        weights.take_gradients()
        adam.step()

    return _contestant(network, update, sample, precise)


def as_it_comes(network: nn.Module, sample: Sample, precise: str, fused: bool) -> Contestant:
    """Let any network be trained as PyTorch's users do, with Adam in one kernel or not."""
    adam = torch.optim.Adam(network.parameters(), fused=fused)
    return _contestant(network, adam.step, sample, precise)


def _contestant(
    network: nn.Module, update: Callable[[], object], sample: Sample, precise: str
) -> Contestant:
    def predict() -> Tensor:
        output: Tensor = network(sample.x, sample.t)
        return output

    def train() -> None:
        network.zero_grad()
        with precision(precise):
            loss = F.mse_loss(predict(), sample.target)
        loss.backward()
        update()

    return Contestant(network, train, predict, precise)


def precision(name: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16")


def paper(name: str, size: int) -> Contestant:
    """Be a contestant at the paper's width."""
    sample = Sample.random(size)
    if name == "reference":
        reference = reference_class()(dim=WIDTH, channels=2, out_dim=1)
        return as_it_comes(reference, sample, "fp32", fused=False)
    network = own_network()
    network.checkpointing = name == CHECKPOINTING
    return own(network, sample, "bf16" if name == "bf16" else "fp32")


def compete(
    pipe: Connection, make: Callable[..., Contestant], arguments: Sequence[object], threads: int
) -> None:
    """Train when asked to, tell the peak memory, sample when asked to."""
    torch.set_num_threads(threads)
    contestant = make(*arguments)
    pipe.send(trainable_parameters(contestant.network))
    answer(pipe, contestant.train)
    pipe.send(peak_mb())
    # As in a sampler, which takes many steps: the weights are cast to bfloat16 in the first alone.
    with torch.no_grad(), precision(contestant.precise):
        answer(pipe, contestant.predict)


def answer(pipe: Connection, step: Callable[[], object]) -> None:
    """Time the step whenever asked to, until told to go on."""
    while pipe.recv() == "step":
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)


def start(
    name: str, threads: int, make: Callable[..., Contestant], *arguments: object
) -> Connection:
    pipe, other = SPAWN.Pipe()
    SPAWN.Process(target=compete, args=(other, make, arguments, threads), daemon=True).start()
    other.close()  # so that the end of the process ends the pipe
    print(f"{name}: {pipe.recv():,} weights", flush=True)
    return pipe


def take_turns(pipes: dict[str, Connection], turns: int) -> dict[str, list[float]]:
    """Seconds of each contestant's steps; one computes at a time."""
    times: dict[str, list[float]] = {name: [] for name in pipes}
    for turn in range(turns + 1):
        for name, pipe in pipes.items():
            pipe.send("step")
            taken = pipe.recv()
            if turn:  # the first is a warm-up
                times[name].append(taken)
    return times


def ratios(times: Mapping[str, list[float]], base: str = "reference") -> dict[str, float]:
    """Median over the turns of one contestant's value divided by each one's."""
    return {
        name: statistics.median(
            theirs / own for theirs, own in zip(times[base], values, strict=True)
        )
        for name, values in times.items()
        if base in times
    }


def report(what: str, unit: str, values: dict[str, list[float]], base: str = "reference") -> None:
    ratio = ratios(values, base)
    for name, each in values.items():
        line = f"{what:14} {name:20} {statistics.median(each):8.0f} {unit}"
        if len(each) > 1:
            line += f"  ({min(each):.0f}-{max(each):.0f})"
        print(line + (f"  ratio {ratio[name]:.2f}" if ratio else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    size, threads = options.size, options.threads
    print(f"{size} x {size} pixels, {threads} threads, torch {torch.__version__}")
    names = list(CONTESTANTS)
    if (REFERENCE / PACKAGE).is_dir():
        errors = apart(compare, size, threads)
        output = errors.pop("output")
        worst, error = max(errors.items(), key=lambda item: item[1])
        middle = statistics.median(errors.values())
        print(f"relative error of the output: {output:.1e}")
        print(f"of {len(errors)} gradients: {middle:.1e} (median), {error:.1e} ({worst})")
        if not output <= TOLERANCE:
            sys.exit("the two networks differ: nothing to compare")
    else:
        print(f"{PACKAGE} is not here, so nothing to compare with; `make bench` installs it")
        names.remove("reference")
    pipes = {name: start(name, threads, paper, name, size) for name in names}
    training = take_turns(pipes, options.turns)
    memory = {}
    for name, pipe in pipes.items():
        pipe.send("next")
        memory[name] = [pipe.recv()]
    sampling = take_turns({n: p for n, p in pipes.items() if n != CHECKPOINTING}, options.turns)
    for pipe in pipes.values():
        pipe.send("quit")
    for what, seconds in (("training step", training), ("sampling step", sampling)):
        report(what, "ms", {name: [s * 1e3 for s in each] for name, each in seconds.items()})
    report("peak memory", "MB", memory)


if __name__ == "__main__":
    main()
