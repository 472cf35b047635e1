"""Rule ``shard``: everything that training and evaluation need of one subject, in one file."""

from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import (
    DOSE,
    FBP,
    IMAGE_FACTS,
    OSEM,
    SHARD,
    SIMULATION_FACTS,
    SINOGRAM,
    SLICE_IDENTITY,
    SLICES,
    SUBJECT_FACTS,
    TWINS,
)
from pipeline.tomography.physics import counts_of

IDENTITY = (*SLICE_IDENTITY, *TWINS)
"""Datasets in which all files of a shard must agree, those that any of them has."""


def build(
    slices: Path,
    sinogram: Path,
    osem: Path,
    fbp: Path,
    output: Path,
    split: str,
    osem_input: Path | None = None,
) -> None:
    """Rule ``shard``: put one subject's files together, their compressed chunks copied as they are.

    Every value is read for the check that it is finite and undamaged.

    Parameters
    ----------
    slices, sinogram, osem, fbp : Path
        Files of the rules of these names; sinogram and FBP may be of a lower dose.
    split : str
        ``"train"``, ``"validation"`` or ``"test"``, stored with the shard.
    osem_input : Path or None
        OSEM images of the very sinogram, where a network sees them.

    Raises
    ------
    InputError
        If the files do not hold the same slices of the same subject.
    """
    with ExitStack() as stack:
        kinds = (slices, SLICES), (sinogram, SINOGRAM), (osem, OSEM), (fbp, FBP)
        files = [stack.enter_context(hdf5.opened(path, kind)) for path, kind in kinds]
        slices_file, sinogram_file, osem_file, fbp_file = files
        seen = {}
        if osem_input is not None:
            files.append(stack.enter_context(hdf5.opened(osem_input, OSEM)))
            seen = {"osem_input": files[-1]["osem"]}
        for file in files[1:]:
            _check_same_slices(slices_file, file)
        oversampling = int(slices_file.attrs["oversampling"])
        activity = slices_file["activity"]
        if oversampling > 1:
            activity = block_mean(hdf5.finite(activity), oversampling)
        arrays = {
            "sinogram": sinogram_file["prompts"],
            "osem": osem_file["osem"],
            **seen,
            "fbp": fbp_file["fbp"],
            "activity": activity,
            **{name: slices_file[name] for name in ("labels", "lesion") if name in slices_file},
            "scale": sinogram_file["scale"],
            **{name: slices_file[name] for name in IDENTITY if name in slices_file},
        }
        for array in arrays.values():
            for row in range(len(array)) if array.ndim > 1 else [()]:
                hdf5.finite(array, row) if isinstance(array, h5py.Dataset) else None
        facts = {name: slices_file.attrs[name] for name in SUBJECT_FACTS}
        facts |= {n: slices_file.attrs[n] for n in IMAGE_FACTS if n in slices_file.attrs}
        facts |= {name: sinogram_file.attrs[name] for name in SIMULATION_FACTS}
        facts |= counts_of(sinogram_file, fbp_file["fbp"])
        if DOSE in sinogram_file.attrs:
            facts[DOSE] = sinogram_file.attrs[DOSE]
        names = ("slices", "sinogram", "osem", "fbp", *seen)
        made_from = {
            f"{name}_config": file.attrs["config"] for name, file in zip(names, files, strict=True)
        }
        hdf5.write(
            output,
            SHARD,
            arrays,
            hdf5.provenance(
                made_from,
                split=split,
                projector=sinogram_file.attrs["projector"],
                osem_projector=osem_file.attrs["projector"],
                pixels=osem_file["osem"].shape[-1],
                **facts,
            ),
        )


def block_mean(images: np.ndarray, factor: int) -> np.ndarray:
    """Means over factor x factor pixels of images (slice, y, x): from the simulation grid."""
    count, height, width = images.shape
    blocks = images.reshape(count, height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _check_same_slices(slices_file: h5py.File, other: h5py.File) -> None:
    same_subject = all(slices_file.attrs[name] == other.attrs[name] for name in SUBJECT_FACTS)
    if not (hdf5.same_slices(slices_file, other, IDENTITY) and same_subject):
        raise InputError(
            other.filename,
            f"does not hold the slices of {slices_file.filename}",
            f"delete it and run rule '{other.attrs['rule']}' again",
        )
