"""Where and how precisely networks are computed."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric


def make_fabric(training: Mapping[str, Any], threads: int) -> Fabric:
    """Set up the device that the configuration asks for.

    Parameters
    ----------
    training : mapping
        ``device`` ("auto" takes CUDA where there is one), ``devices`` and ``precision``.
    threads : int
        CPU cores that may be used.
    """
    torch.set_num_threads(threads)
    accelerator = training["device"]
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(
        accelerator=accelerator, devices=training["devices"], precision=training["precision"]
    )
    fabric.launch()
    return fabric
