"""Which slices each training step sees."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from models.draws import keyed_rng


class BatchOrder(Sampler[list[int]]):
    """The batches of steps ``start`` to ``stop``: a pure function of (seed, epoch).

    Every epoch visits all slices once in an order drawn from (seed, epoch), each at one of the
    doses, drawn likewise: slice i at dose d has the index i + d count. Its last batch may be
    smaller. A run that starts at step k therefore sees what an uninterrupted one sees from there.

    With ``share = (rank, world)`` it gives every world-th slice of each batch; where there are not
    enough, the batch's first slice stands in (see `weight`).
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        share: tuple[int, int] = (0, 1),
        doses: int = 1,
    ):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.start, self.stop = start, stop
        self.rank, self.world = share
        self.doses = doses
        self.steps_per_epoch = steps_per_epoch(count, batch_size)
        self._epoch, self._order = -1, list[int]()

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            batch = self.batch(step)
            yield batch[self.rank :: self.world] or batch[:1]

    def batch(self, step: int) -> list[int]:
        """Give the joint batch of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            draw = keyed_rng(self.seed, "epoch", epoch)
            order = torch.randperm(self.count, generator=draw)
            if self.doses > 1:
                order += self.count * torch.randint(self.doses, (self.count,), generator=draw)
            self._epoch, self._order = epoch, order.tolist()
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

    def weight(self, step: int) -> float:
        """Give this share's part of the joint batch, a stand-in counting nothing."""
        batch = self.batch(step)
        return len(batch[self.rank :: self.world]) / len(batch)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches needed for ``count`` slices."""
    return -(-count // batch_size)
