"""Batches of slices, read ahead of the network by processes of their own."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Sampler

from models.dataset import Batch, ShardSlices
from pipeline.storage.errors import InputError


def in_order(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut indices into batches without changing their order."""
    firsts = range(0, len(indices), batch_size)
    return [list(indices[first : first + batch_size]) for first in firsts]


def batches(
    dataset: ShardSlices, order: Sampler[list[int]] | Sequence[list[int]], workers: int, pin: bool
) -> Iterator[Batch]:
    """Read batches in the given order.

    Parameters
    ----------
    order : iterable of lists of int
        `BatchOrder`, or the batches' indices themselves.
    workers : int
        Reading processes; 0 reads in this one.
    pin : bool
        Page-locked memory, for copies to a GPU.

    Raises
    ------
    InputError
        From `ShardSlices`, whichever process met it.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        worker_init_fn=_ignore_stop_requests,
    )
    for batch in loader:
        if isinstance(batch, _Failure):
            raise InputError(*batch)
        yield batch


def _ignore_stop_requests(_: int) -> None:
    # Ctrl-C and schedulers signal all processes of a job. The one that is served decides when to
    # stop, and until then it needs its readers.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class _Failure(NamedTuple):
    """An `InputError` that can be pickled."""

    where: str
    problem: str
    remedy: str


def _collate(items: list[Mapping[str, Any]] | InputError) -> Batch | _Failure:
    if isinstance(items, InputError):
        return _Failure(items.where, items.problem, items.remedy)
    return Batch(
        torch.stack([item["inputs"] for item in items]),
        torch.stack([item["image"] for item in items]),
        [item["key"] for item in items],
    )
