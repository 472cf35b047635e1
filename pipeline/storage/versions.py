"""Versions of the packages that decide the numbers, as every record has them."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "torch",
    "lightning-fabric",
    "diffusers",
    "ptwt",
    "PyWavelets",
    "torchmetrics",
    "numpy",
    "scipy",
    "h5py",
    "nibabel",
    "brainweb",
    "nilearn",
    "snakemake",
    "parallelproj",
)
"""By their names in the package index."""


def versions() -> dict[str, str]:
    """Give the version of Python and of each package; "absent" of one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
