"""Intervals around the mean of posterior samples that hold what they say, by conformal scaling.

The interval mean +- q s, of the samples' mean and standard deviation s, is right at a level if q is
the quantile of |reference - mean| / s on data that the network was not trained on: split conformal
prediction with a local scale (Lei et al. 2018, "Distribution-free predictive inference for
regression", section 5.2). It then holds a further reference with at least the level's probability,
whatever the samples are worth, if that comes from the same distribution. Pixels of a head are not
independent, and another subject is another head: here it is an estimate, not a guarantee. Nothing
of this brings torch.
"""

import math

import numpy as np

FLOOR = 1e-3
"""Least standard deviation, over the largest training activity: where samples agree, a small number
and not none, or one pixel would need an infinite factor."""


def interval_levels(samples: int, antithetic: bool = False) -> list[float]:
    """Give the nominal levels of the intervals between order statistics of K samples.

    That from the j-th smallest to the j-th largest, ends included, holds a further draw from the
    same distribution with probability (K + 1 - 2 j) / (K + 1). Of antithetic samples, pairs on
    either side of the mean and as far from it, it holds one that is nearer than the j-th farthest
    of K / 2 pairs: with probability (K / 2 + 1 - j) / (K / 2 + 1).

    Returns
    -------
    list of float
        For j = 1, 2, ... K // 2.
    """
    pairs = samples // 2
    if antithetic:
        return [(pairs + 1 - j) / (pairs + 1) for j in range(1, pairs + 1)]
    return [(samples + 1 - 2 * j) / (samples + 1) for j in range(1, pairs + 1)]


def deviation(samples: np.ndarray, antithetic: bool) -> np.ndarray:
    """Estimate the standard deviation of what samples are drawn from.

    Independent samples lie around their mean nearer than around that of all that could be drawn,
    which K - 1 in place of K makes good; the mean of antithetic pairs is that mean, but for what
    is not opposite in them.

    Parameters
    ----------
    samples : ndarray
        (N, K, y, x).

    Returns
    -------
    ndarray
        (N, y, x).
    """
    found: np.ndarray = samples.std(axis=1, ddof=0 if antithetic else 1)
    return found


def scores(
    means: np.ndarray, deviations: np.ndarray, references: np.ndarray, floor: float
) -> np.ndarray:
    """Compute |reference - mean| / max(standard deviation, floor).

    Parameters
    ----------
    means, deviations, references : ndarray
        Of one shape; activity units.
    floor : float
        Activity units, above 0: `FLOOR` times the largest training activity.

    Returns
    -------
    ndarray
        Of the same shape: the least factor with which the interval holds the reference.
    """
    return np.abs(references - means) / np.maximum(deviations, floor)


def conformal_factor(found: np.ndarray, level: float) -> float:
    """Give the least factor that is conformal at a level.

    Parameters
    ----------
    found : ndarray
        (n,): `scores` of the data that calibrate; overwritten, in another order.
    level : float
        In (0, 1).

    Returns
    -------
    float
        The k-th smallest score, k = ceil((n + 1) level); infinite where there are fewer.
    """
    # What is a whole number but for rounding is one.
    rank = math.ceil((len(found) + 1) * level - 1e-9)
    if rank > len(found):
        return math.inf
    found.partition(rank - 1)
    return float(found[rank - 1])
