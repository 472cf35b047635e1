"""Every kind of HDF5 file that the pipeline writes: datasets, axes, units."""

from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from pipeline.storage import hdf5
from pipeline.storage.hdf5 import Dataset, Kind

LABELS = Kind(
    name="labels",
    rule="fetch",
    datasets={"labels": Dataset("uint8", ("z", "y", "x"), "class", "tissue class, RAS+")},
    attributes=("source", "labels_sha256", "voxel_mm"),
)

IMAGE = Kind(
    name="image",
    rule="fetch",
    datasets={
        "activity": Dataset("float32", ("z", "y", "x"), "activity", "own image, in its own unit"),
        "attenuation": Dataset(
            "float32", ("z", "y", "x"), "1/cm", "at 511 keV; absent if not given", optional=True
        ),
        "labels": Dataset(
            "uint8", ("z", "y", "x"), "class", "BrainWeb class; absent if not given", optional=True
        ),
    },
    attributes=("source", "labels_sha256", "affine_mm", "activity_unit"),
)

PHANTOM = Kind(
    name="phantom",
    rule="phantom",
    datasets={
        "activity": Dataset("float32", ("z", "y", "x"), "activity", "FDG, grey matter 128"),
        "attenuation": Dataset("float32", ("z", "y", "x"), "1/cm", "at 511 keV"),
        "labels": Dataset(
            "uint8", ("z", "y", "x"), "class", "BrainWeb tissue class", optional=True
        ),
    },
    attributes=("source", "labels_sha256", "voxel_mm", "orientation"),
)

PHANTOM_OF_IMAGE = replace(
    PHANTOM, datasets={**PHANTOM.datasets, "activity": IMAGE.datasets["activity"]}
)
"""The same kind as written of an own image, whose activity is not of the package ``brainweb``."""

SLICE_IDENTITY = {
    "rotation": Dataset("uint8", ("slice",), "1", "number of the rotation, from 0"),
    "rotation_deg": Dataset("float32", ("slice",), "deg", "in-plane rotation, from x to y"),
    "slice_index": Dataset("int16", ("slice",), "1", "axial slice of the full volume"),
}
"""Datasets that tell which slice is which; every later file of a subject carries them."""

TWINS = {
    "draw": Dataset("uint16", ("slice",), "1", "number of the noise draw, from 0", optional=True),
    "present": Dataset(
        "uint8", ("slice",), "1", "whether the lesions are there: 0 or 1", optional=True
    ),
}
"""Datasets that files of a subject's lesions have besides: each slice is there in many copies."""


def identity_of(file: h5py.File, rows: Any = ()) -> dict[str, np.ndarray]:
    """Read what tells which slice is which, of some rows of an open file of a subject.

    Returns
    -------
    dict of arrays (slice,)
        `SLICE_IDENTITY`, and `TWINS` of a file that has them.

    Raises
    ------
    InputError
        If a dataset is damaged or not finite.
    """
    names = [*SLICE_IDENTITY, *(name for name in TWINS if name in file)]
    return {name: hdf5.finite(file[name], rows) for name in names}


LESION_MASK = Dataset(
    "uint8", ("slice", "y", "x"), "1", "number of the lesion, 0 beside it", optional=True
)

SUBJECT_FACTS = (
    "seed",
    "subject",
    "source",
    "labels_sha256",
    "pixel_mm",
    "slice_mm",
    "orientation",
)
"""Attributes that every later file of a subject carries."""

SIMULATION_FACTS = ("geometry", "attenuation", "psf_fwhm_mm", "background_fraction")
"""Attributes that sinograms and shards have besides; see `pipeline.tomography.physics.Physics`.

Those of fewer than all counts have the attribute `DOSE` too.
"""

DOSE = "dose"
"""Part of the counts, in (0, 1); absent where it is 1."""

IMAGE_FACTS = ("activity_unit", "head_above")
"""Attributes that phantoms, slices and shards have besides where the activity is an own image.

The unit of its values, and the value from which on a voxel or pixel counts as head. Labels are
optional in these files, and absent where none were given.
"""

SLICES = Kind(
    name="slices",
    rule="slices",
    datasets={
        "activity": Dataset(
            "float32", ("slice", "y", "x"), "activity", "noise-free truth on the simulation grid"
        ),
        "attenuation": Dataset(
            "float32", ("slice", "y", "x"), "1/cm", "at 511 keV, on the simulation grid"
        ),
        "labels": Dataset(
            "uint8",
            ("slice", "y", "x"),
            "class",
            "BrainWeb class at the pixel centre",
            optional=True,
        ),
        "lesion": LESION_MASK,
        **SLICE_IDENTITY,
        **TWINS,
    },
    attributes=(*SUBJECT_FACTS, "oversampling"),
)

LESION_SLICES = replace(
    SLICES,
    datasets={
        **SLICES.datasets,
        **{
            f"lesion_{name}": Dataset(dtype, ("lesion",), units, text)
            for name, dtype, units, text in (
                ("rotation", "uint8", "1", "rotation that has it"),
                ("slice_index", "int16", "1", "axial slice that has it in its middle"),
                ("number", "uint8", "1", "its pixels in the mask, from 1 in each slice"),
                ("tissue", "uint8", "class", "BrainWeb class at its centre"),
                ("contrast", "float32", "1", "its activity over that of the same tissue"),
                ("diameter_mm", "float32", "mm", "of the sphere"),
                ("x_mm", "float32", "mm", "centre, to the patient's left of the axis"),
                ("y_mm", "float32", "mm", "centre, posterior of the axis"),
            )
        },
    },
)
"""The same kind as rule ``lesions`` writes it, with a table of the lesions."""

SYSTEM_MATRIX = Kind(
    name="system_matrix",
    rule="system_matrix",
    datasets={
        f"{operator}_{part}": Dataset(dtype, ("entry",), units, f"{text}: CSR {part}")
        for operator, text in (
            ("forward", "LORs x pixels of the field of view, one matrix a subset of views"),
            ("back", "the transposes, one matrix a subset of views"),
        )
        for part, dtype, units in (
            ("weights", "float32", "mm"),
            ("columns", "int32", "1"),
            ("row_starts", "int64", "1"),
        )
    },
    attributes=("config",),
)

SINOGRAM = Kind(
    name="sinogram",
    rule="sinogram",
    datasets={
        "prompts": Dataset(
            "uint32", ("slice", "view", "radial"), "counts", "Poisson counts of trues + background"
        ),
        "factors": Dataset(
            "float32",
            ("slice", "view", "radial"),
            "1",
            "part of the trues that is counted",
        ),
        "background": Dataset(
            "float32", ("slice", "view", "radial"), "counts", "expected background"
        ),
        "scale": Dataset(
            "float32",
            ("slice",),
            "counts / (activity mm)",
            "expected trues per unit of (attenuated) line integral of the activity",
        ),
        **SLICE_IDENTITY,
        **TWINS,
    },
    attributes=(*SUBJECT_FACTS, *SIMULATION_FACTS),
)

SCAN = Kind(
    name="scan",
    rule="import_scan",
    datasets={
        "prompts": Dataset(
            "uint32", ("slice", "view", "radial"), "counts", "measured prompts", optional=True
        ),
        "trues": Dataset(
            "float32",
            ("slice", "view", "radial"),
            "as in the file",
            "data that are no counts, in place of prompts",
            optional=True,
        ),
        "factors": Dataset(
            "float32",
            ("slice", "view", "radial"),
            "1",
            "normalisation and attenuation, summed over the sinograms of a slice; 0 in a gap",
        ),
        "background": Dataset(
            "float32", ("slice", "view", "radial"), "counts", "expected randoms and scatter"
        ),
        "position_mm": Dataset(
            "float32", ("slice",), "mm", "towards superior, 0 in the middle of the scanner"
        ),
    },
    attributes=("scan", "geometry", "patient_position", "slice_mm", "sources", "likelihood"),
)

SCAN_IMAGE = Kind(
    name="scan_image",
    rule="scan_osem",
    datasets={
        "image": Dataset(
            "float32",
            ("slice", "y", "x"),
            "see attribute unit",
            "reconstruction; mean of a network's samples",
        ),
        "std": Dataset(
            "float32",
            ("slice", "y", "x"),
            "see attribute unit",
            "standard deviation of the samples, with K - 1, of antithetic ones K; not of one",
            optional=True,
        ),
        "position_mm": SCAN.datasets["position_mm"],
    },
    attributes=("scan", "unit", "pixel_mm", "slice_mm", "orientation"),
)

OSEM = Kind(
    name="osem",
    rule="osem",
    datasets={
        "osem": Dataset("float32", ("slice", "y", "x"), "activity", "OSEM reconstruction"),
        **SLICE_IDENTITY,
        **TWINS,
    },
    attributes=SUBJECT_FACTS,
)

FBP = Kind(
    name="fbp",
    rule="fbp",
    datasets={
        "fbp": Dataset("float32", ("slice", "y", "x"), "activity", "FBP reconstruction"),
        **SLICE_IDENTITY,
        **TWINS,
    },
    attributes=SUBJECT_FACTS,
)

SHARD = Kind(
    name="shard",
    rule="shard",
    datasets={
        "sinogram": Dataset("uint32", ("slice", "view", "radial"), "counts", "measured prompts"),
        "osem": Dataset(
            "float32", ("slice", "y", "x"), "activity", "OSEM reconstruction of all counts"
        ),
        "osem_input": Dataset(
            "float32",
            ("slice", "y", "x"),
            "activity",
            "OSEM reconstruction of these prompts; absent where no network sees it",
            optional=True,
        ),
        "fbp": Dataset(
            "float32", ("slice", "y", "x"), "activity", "arc-corrected FBP of the prompts"
        ),
        "activity": Dataset("float32", ("slice", "y", "x"), "activity", "noise-free truth"),
        "labels": Dataset(
            "uint8",
            ("slice", "y", "x"),
            "class",
            "BrainWeb class at the pixel centre",
            optional=True,
        ),
        "lesion": LESION_MASK,
        **SLICE_IDENTITY,
        **TWINS,
        "scale": Dataset(
            "float32",
            ("slice",),
            "counts / (activity mm)",
            "expected trues per unit of activity line integral",
        ),
    },
)

RECONSTRUCTION = Kind(
    name="reconstruction",
    rule="reconstruct",
    datasets={
        "image": Dataset(
            "float32", ("slice", "y", "x"), "activity", "reconstruction; mean of the samples"
        ),
        "std": Dataset(
            "float32",
            ("slice", "y", "x"),
            "activity",
            "standard deviation of the samples, with K - 1, of antithetic ones K; not of one",
            optional=True,
        ),
        "samples": Dataset(
            "float32",
            ("slice", "sample", "y", "x"),
            "activity",
            "samples of the posterior; absent if there is one",
            optional=True,
        ),
        "rotation": SLICE_IDENTITY["rotation"],
        "slice_index": SLICE_IDENTITY["slice_index"],
        **TWINS,
    },
)
