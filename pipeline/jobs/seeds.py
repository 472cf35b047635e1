"""Random number generators keyed by what they are for, never by the order in which jobs run."""

import zlib

import numpy as np


def keyed_rng(seed: int, purpose: str, subject: str, *numbers: int) -> np.random.Generator:
    """Return the random number generator of one draw.

    Parameters
    ----------
    seed : int
        The experiment's seed.
    purpose : str
        What is drawn, for example ``"poisson"``: different purposes are independent.
    subject : str
        For example ``"subject04"``.
    *numbers
        Rotation, slice, ... that the draw belongs to.
    """
    words = [zlib.crc32(word.encode()) for word in (purpose, subject)]
    return np.random.default_rng(np.random.SeedSequence([seed, *words, *numbers]))
