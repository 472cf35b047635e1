"""Which few of many: some slices that stand for all."""

import numpy as np


def evenly_spaced(first: int, last: int, count: int) -> np.ndarray:
    """Whole numbers (count,) from first to last, both among them; a single one is the middle."""
    if count == 1:
        return np.array([(first + last) // 2])
    return np.rint(np.linspace(first, last, count)).astype(int)
