"""The U-Net of the small studies: its steps now, in another checkout, and of the reference.

    python -m benchmarks.small_unet [--before CHECKOUT]

config/mini.yaml's network on one core, a batch of 8 slices of 64 x 64: a training step as in
`benchmarks.unet` in bf16, and a sampling step. Two networks compete with each other: that of the
studies, here and in the other checkout, which first have the same weights and are compared (output
and every gradient, fp32); and one of two residual blocks a stage, which the reference has.
"""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from benchmarks.unet import (
    PACKAGE,
    REFERENCE,
    Contestant,
    Sample,
    apart,
    as_it_comes,
    own,
    reference_class,
    report,
    start,
    take_turns,
)

SIZE, BATCH, PATCH, WIDTH, HEADS, HEAD_DIM = 64, 8, 2, 32, 2, 16

NOW, BEFORE = "now, bf16", "before, bf16"
WIDE_NOW, WIDE_REFERENCE = "2 blocks: now, bf16", "2 blocks: reference, bf16"
WIDE_FP32, WIDE_REFERENCE_FP32 = "2 blocks: now, fp32", "2 blocks: reference, fp32"


def sample() -> Sample:
    """Draw a batch of noise."""
    torch.manual_seed(1)
    shape = BATCH, 1, SIZE, SIZE
    return Sample(torch.randn(BATCH, 2, SIZE, SIZE), torch.full((BATCH,), 321), torch.randn(shape))


def network_of(checkout: str | None, blocks: int) -> nn.Module:
    """Build the U-Net with this project's code, or with that of another checkout.

    Meant for a process that needs nothing else afterwards: what was imported is forgotten.
    """
    if checkout is not None:
        sys.path.insert(0, checkout)
        for name in [n for n in sys.modules if n.partition(".")[0] in ("models", "pipeline")]:
            del sys.modules[name]
    made = importlib.import_module("models.networks.unet").UNet(
        WIDTH,
        in_channels=2,
        time_conditioned=True,
        heads=HEADS,
        head_dim=HEAD_DIM,
        blocks=blocks,
        patch=PATCH,
    )
    network: nn.Module = made.to(memory_format=torch.channels_last)
    return network


class Patched(nn.Module):
    """The reference on patches, as the small network sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.network: Any = reference_class()(
            dim=WIDTH,
            channels=2 * PATCH**2,
            out_dim=PATCH**2,
            attn_heads=HEADS,
            attn_dim_head=HEAD_DIM,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map (N, 2, H, W) to (N, 1, H, W)."""
        return F.pixel_shuffle(self.network(F.pixel_unshuffle(x, PATCH), t), PATCH)


def competitor(name: str, before: str | None) -> Contestant:
    """Be one of the contestants."""
    precise = name[-4:]
    if "reference" in name:
        return as_it_comes(Patched(), sample(), precise, fused=False)
    if name == BEFORE:
        return as_it_comes(network_of(before, 1), sample(), precise, fused=True)
    return own(network_of(None, 2 if "blocks" in name else 1), sample(), precise)


def outcome(checkout: str | None) -> dict[str, Tensor]:
    """Compute the output and every gradient at weights that every checkout draws alike, in fp32."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, given = network_of(checkout, 1), sample()
    output = network(given.x, given.t)
    F.mse_loss(output, given.target).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"output": output.detach()} | gradients


def main(
    before: Annotated[Path | None, typer.Option(help="Checkout to compare with.")] = None,
    turns: Annotated[int, typer.Option(help="Of each contestant.", min=1)] = 15,
) -> None:
    """Print how far the two are apart, and the tables."""
    names, other = [NOW], None if before is None else str(before.resolve())
    if other is not None:
        found, expected = apart(outcome, None), apart(outcome, other)
        errors = {n: float((found[n] - e).norm() / e.norm()) for n, e in expected.items()}
        print(f"relative error of the output: {errors.pop('output'):.1e}")
        print(f"of {len(errors)} gradients: {max(errors.values()):.1e} at most")
        names = [BEFORE, NOW]
    pairs = [names]
    if (REFERENCE / PACKAGE).is_dir():
        pairs += [[WIDE_REFERENCE, WIDE_NOW], [WIDE_REFERENCE_FP32, WIDE_FP32]]
    else:
        print(f"{PACKAGE} is not here, so nothing to compare with; `make bench` installs it")
    for pair in pairs:
        pipes = {name: start(name, 1, competitor, name, other) for name in pair}
        for what in ("training step", "sampling step"):
            seconds = take_turns(pipes, turns)
            values = {name: [s * 1e3 for s in each] for name, each in seconds.items()}
            report(what, "ms", values, pair[0])
            for pipe in pipes.values():
                pipe.send("next")
                if what == "training step":
                    pipe.recv()  # the peak memory


if __name__ == "__main__":
    typer.run(main)
