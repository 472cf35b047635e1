"""Random numbers keyed by what they are for, never by the order in which things run."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def seed_of(*key: str | int) -> int:
    """Hash a key, e.g. ``(seed, "step", 12)``, to a 63-bit seed."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def keyed_rng(*key: str | int) -> torch.Generator:
    """Give random numbers made on the CPU, so that a key means the same on every device."""
    return torch.Generator().manual_seed(seed_of(*key))


def normal_like(x: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Draw standard normal noise of the shape, dtype and device of x, row n from ``draws[n]``."""
    rows = [torch.randn(x.shape[1:], generator=draw, dtype=x.dtype) for draw in draws]
    return torch.stack(rows).to(x.device)
