"""Means with 95 % intervals by a percentile bootstrap that follows how the numbers came about.

It resamples replicates (networks that differ in the seed alone), subjects, and anatomical slices
within subjects; all rotations of a slice stay together, as they are almost the same image. Few
subjects make the second level coarse: of two, half of all draws hold one alone, and no draw knows
what a third would be like. The same goes for few replicates. Such intervals are rather too narrow.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

DRAWS, SEED = 5000, 20241125


class Bootstrap:
    """Means with intervals; the same draws for everything that is averaged.

    Parameters
    ----------
    images : DataFrame
        N rows, one a test image, with the columns ``subject`` and ``slice_index``.
    draws : int
        Bootstrap samples.
    """

    def __init__(self, images: pd.DataFrame, draws: int = DRAWS):
        rng = np.random.default_rng(SEED)
        subjects = images.groupby("subject", sort=False).indices
        chosen = _counts(rng, np.full(draws, len(subjects)), len(subjects))
        self.draws = draws
        # Of each subject its n rows, (n,); the number of each one's slice, (n,); and how often each
        # draw holds each slice, (1 + draws, slices), first the sample itself. Small numbers: of a
        # thousand subjects they would not fit into memory otherwise.
        self._drawn: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for n, rows in enumerate(subjects.values()):
            found, slices = np.unique(images["slice_index"].iloc[rows], return_inverse=True)
            # A subject drawn twice has twice as many slices drawn.
            counts = _counts(rng, chosen[:, n] * len(found), len(found))
            once = np.ones((1, len(found)), counts.dtype)
            self._drawn.append((rows, slices, np.concatenate([once, counts]).astype(np.uint16)))

    def interval(
        self, *values: np.ndarray, derive: Callable[..., np.ndarray] | None = None
    ) -> tuple[float, float, float]:
        """Average replicates and images.

        Parameters
        ----------
        *values : ndarray
            (R, N): of R replicates on the N images; NaN where a value does not exist. Of several,
            the same images count for all: those with a value of each.
        derive : callable, optional
            Makes one number of the means, those of the sample and of each draw alike; it is given
            an array a mean. Without it there is one, and it is the mean itself.

        Returns
        -------
        mean, low, high : float
            The ends are the 2.5th and 97.5th percentile over draws. They are NaN where there is
            one replicate of one slice, as nothing can then be drawn; all are without any value.
        """
        exists = np.logical_and.reduce([np.isfinite(each) for each in values])
        if not exists.any():
            return np.nan, np.nan, np.nan
        alone = exists.any(axis=1).sum() == 1 and self._slices_of(exists.any(axis=0)) == 1
        *sums, counts = self._sums(*(np.where(exists, each, 0) for each in values), exists)
        drawn = counts > 0  # a draw may hold no slice with a value
        means = [each[drawn] / counts[drawn] for each in sums]
        found = derive(*means) if derive else means[0]
        low, high = (np.nan, np.nan) if alone else np.percentile(found[1:], [2.5, 97.5])
        return float(found[0]), float(low), float(high)

    def _sums(self, *values: np.ndarray) -> list[np.ndarray]:
        """Add (R, N) over replicates and images: in the sample and each draw, (1 + draws,)."""
        replicates = np.ones((1 + self.draws, len(values[0])))
        rng = np.random.default_rng(SEED)
        replicates[1:] = _counts(rng, np.full(self.draws, len(values[0])), len(values[0]))
        together = np.concatenate(values)
        totals = np.zeros((1 + self.draws, len(together)))
        for rows, slices, drawn in self._drawn:
            of_slices = np.zeros((drawn.shape[1], len(together)))
            np.add.at(of_slices, slices, together[:, rows].T)
            totals += drawn @ of_slices
        return [(replicates * part).sum(axis=1) for part in np.split(totals, len(values), axis=1)]

    def _slices_of(self, images: np.ndarray) -> int:
        """Anatomical slices of which some image is chosen by a boolean (N,)."""
        return sum(len(np.unique(slices[images[rows]])) for rows, slices, _ in self._drawn)


def _counts(rng: np.random.Generator, numbers: np.ndarray, size: int) -> np.ndarray:
    """Draw ``numbers[n]`` times one of ``size`` with replacement: how often each, (len, size)."""
    return rng.multinomial(numbers, np.full(size, 1 / size))
