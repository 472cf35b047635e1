"""What networks may see of the measurement, by its name in ``conditioning``, and what they give."""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.tomography.physics import SEEN


class Channel(NamedTuple):
    """One channel of a network's inputs, or what it is to give.

    Attributes
    ----------
    dataset : str
        Of the shards: images, or (slice, view, radial), which are padded with zeros.
    scale : str
        Field of `models.dataset.Scales` that it is divided by.
    per : str
        Dataset of the shards, a number a slice, that it is divided by before; "" for none.
    """

    dataset: str
    scale: str
    per: str = ""


IMAGES = "activity"
"""The scale of channels that are images of activity."""

CHANNELS = {
    "sinogram": Channel("sinogram", "sinogram"),
    "line_integrals": Channel("sinogram", "line_integral", per="scale"),
    "fbp": Channel("fbp", IMAGES),
    "osem_input": Channel("osem_input", IMAGES),
}
"""Every condition channel; a line here is all that one needs whose dataset the shards have.

The sinogram is in counts. Line integrals are its counts over ``scale``, which grows with the dose:
in activity mm, as a calibrated scanner gives them, whatever the counts.
"""

TARGETS = {"osem": Channel("osem", IMAGES), "activity": Channel("activity", IMAGES)}
"""What networks can be trained to give, by its name in ``training.target``."""


def images_of(conditioning: Iterable[str]) -> set[str]:
    """Name the datasets of channels that are images, see `pipeline.tomography.physics.SEEN`."""
    return {CHANNELS[name].dataset for name in conditioning} & {*SEEN}
