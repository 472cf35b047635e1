"""Condition channels: what networks may see of the measurement, by its name in ``conditioning``."""

from typing import NamedTuple


class Channel(NamedTuple):
    """One channel of a network's inputs.

    Attributes
    ----------
    dataset : str
        Of the shards: images, or (slice, view, radial), which are padded with zeros.
    scale : str
        Field of `models.dataset.Scales` that it is divided by.
    """

    dataset: str
    scale: str


CHANNELS = {
    "sinogram": Channel("sinogram", "sinogram"),
    "fbp": Channel("fbp", "activity"),
}
"""Every condition channel; a line here is all that one needs whose dataset the shards have."""
