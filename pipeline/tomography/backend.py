"""Which projector runs, and where: asked by each call of Snakemake, so it is quick to import."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from pipeline.storage.errors import InputError

if TYPE_CHECKING:
    import torch


def parallelproj_installed() -> bool:
    """Whether the kernels of parallelproj can be imported."""
    return importlib.util.find_spec("parallelproj_core") is not None


def device_for(name: str) -> torch.device:
    """Device on which a projector runs here: a CUDA GPU that it can use, else the CPU.

    parallelproj uses a GPU only if it was compiled for that.
    """
    import torch

    usable = torch.cuda.is_available()
    if usable and name == "parallelproj":
        usable = (
            parallelproj_installed()
            and importlib.import_module("parallelproj_core").cuda_enabled == 1
        )
    return torch.device("cuda" if usable else "cpu")


def resolve(choice: str) -> str:
    """Turn the configured projector into the one that will run, and refuse what cannot.

    Parameters
    ----------
    choice : str
        ``"sparse"``, ``"parallelproj"``, or ``"auto"``: parallelproj where it is installed and a
        CUDA GPU is visible, else sparse.

    Raises
    ------
    InputError
        If parallelproj is asked for by name and not installed.
    """
    if choice == "auto":
        # Asked in this order: without parallelproj, PyTorch need not be imported to answer.
        usable = parallelproj_installed() and device_for("parallelproj").type == "cuda"
        return "parallelproj" if usable else "sparse"
    if choice == "parallelproj" and not parallelproj_installed():
        raise InputError(
            "projector",
            "'parallelproj' is not installed in this environment",
            "create the conda environment of environment.yml, or choose projector: sparse",
        )
    return choice
