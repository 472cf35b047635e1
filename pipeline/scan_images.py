"""Rules ``scan_osem`` and ``scan_fbp``: images of a measured scan, as HDF5 and as NIfTI."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline import fbp, osem
from pipeline.fbp import FbpSettings
from pipeline.osem import OsemSettings
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file
from pipeline.storage.kinds import SCAN, SCAN_IMAGE
from pipeline.tomography.backend import device_for
from pipeline.tomography.forward_model import ForwardModel
from pipeline.tomography.geometry import Grid
from pipeline.tomography.projectors import SparseProjector
from pipeline.tomography.scanners import TOWARDS_PATIENT, Geometry, Placed, scanner_from
from pipeline.tomography.system_matrix import system_matrices

log = logging.getLogger(__name__)


def scan_osem(
    scan: Path,
    output: Path,
    nifti: Path,
    settings: OsemSettings,
    psf_fwhm_mm: float,
    grid: Grid,
    filter_mm: float = 0.0,
) -> None:
    """Rules ``scan_osem`` and ``scan_osem_input``: OSEM with the scan's factors and background.

    Parameters
    ----------
    scan : Path
        Of kind `pipeline.storage.kinds.SCAN`.
    output, nifti : Path
        HDF5 of kind `pipeline.storage.kinds.SCAN_IMAGE`, and NIfTI.
    settings : OsemSettings
    psf_fwhm_mm : float
        Resolution that is modelled; 0 for none.
    grid : Grid
    filter_mm : float
        Full width at half maximum of a Gaussian filter afterwards; 0 for none.

    Raises
    ------
    InputError
        If the subsets do not divide the views, the image reaches beyond the ring, or the file holds
        no counts.
    """
    with hdf5.opened(scan, SCAN) as file:
        ring, device = placed(file), device_for("sparse")
        matrices = system_matrices(ring, grid, settings.subsets)
        model = ForwardModel(SparseProjector(ring, grid, *matrices, device), psf_fwhm_mm)
        images, doubts = osem.reconstruct_scan(file, settings, model, filter_mm)
        for doubt in doubts:
            log.warning("%s: %s", scan, doubt)
        said = {"osem": osem.said(settings, filter_mm), "psf_fwhm_mm": psf_fwhm_mm}
        write(file, images, grid, output, nifti, said, doubts="\n".join(doubts))


def scan_fbp(scan: Path, output: Path, nifti: Path, settings: FbpSettings, grid: Grid) -> None:
    """Rule ``scan_fbp``: FBP of prompts less background, or of precorrected data.

    Parameters
    ----------
    scan, output, nifti, grid
        As of `scan_osem`.
    settings : FbpSettings
    """
    with hdf5.opened(scan, SCAN) as file:
        images = fbp.reconstruct_scan(file, settings, placed(file), grid)
        write(file, images, grid, output, nifti, {"fbp": asdict(settings)})


def placed(scan: h5py.File) -> Geometry:
    """Give the geometry of an open scan, in the patient's coordinates.

    Raises
    ------
    InputError
        If the file's attributes are damaged.
    """
    try:
        geometry = scanner_from(json.loads(scan.attrs["geometry"]))
        position = scan.attrs["patient_position"]
        if position not in TOWARDS_PATIENT:
            raise ValueError(f"patient position {position!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = f"delete it and make it again: snakemake --cores all -- {scan.filename}"
        raise InputError(scan.filename, f"says no geometry ({error})", remedy) from error
    return Placed(geometry, position)


def write(
    scan: h5py.File,
    images: np.ndarray,
    grid: Grid,
    output: Path,
    nifti: Path,
    settings: Mapping[str, Any],
    **facts: Any,
) -> None:
    """Write images (slice, y, x), in counts per mm, in Bq/ml if the scan has a calibration."""
    calibration, unit = float(scan.attrs["calibration"]), "counts/mm"
    if calibration > 0:
        images, unit = images * np.float32(calibration), "Bq/ml"
    arrays, niftis = {"image": images}, {"image": nifti}
    write_in_unit(scan, arrays, unit, grid, output, niftis, settings, **facts)


def write_in_unit(
    scan: h5py.File,
    arrays: Mapping[str, np.ndarray],
    unit: str,
    grid: Grid,
    output: Path,
    niftis: Mapping[str, Path],
    settings: Mapping[str, Any],
    **facts: Any,
) -> None:
    """Write images of an open scan.

    Parameters
    ----------
    arrays, niftis : mapping
        By the names of the datasets of `pipeline.storage.kinds.SCAN_IMAGE`: images (slice, y, x),
        and where they go as NIfTI.
    unit : str
    settings : mapping
        That decide the images, beside the scan and the grid.
    **facts
        Further attributes.
    """
    slice_mm, position_mm = float(scan.attrs["slice_mm"]), hdf5.finite(scan["position_mm"])
    attributes = hdf5.provenance(
        {**settings, "scan": scan.attrs["config"], "grid": asdict(grid)},
        **{name: scan.attrs[name] for name in ("scan", "patient_position", "slice_mm")},
        unit=unit,
        pixel_mm=grid.pixel_mm,
        orientation="LPS",
        **facts,
    )
    held = {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
    hdf5.write(output, SCAN_IMAGE, {**held, "position_mm": position_mm}, attributes)
    for name, path in niftis.items():
        write_nifti(path, held[name], grid, slice_mm, float(position_mm[0]), unit)


def write_nifti(
    path: Path, images: np.ndarray, grid: Grid, slice_mm: float, first_mm: float, unit: str
) -> None:
    """Write images as NIfTI, float32, with the affine that shows the patient right.

    Parameters
    ----------
    images : array (slice, y, x)
        LPS: x to the patient's left, y to posterior, slices to superior.
    first_mm : float
        Where the first slice lies, towards superior.
    unit : str
        Goes into the header's description.
    """
    import nibabel

    corner_mm = grid.centres_mm[0]
    affine = np.diag([-grid.pixel_mm, -grid.pixel_mm, slice_mm, 1.0])
    affine[:3, 3] = -corner_mm, -corner_mm, first_mm
    image = nibabel.Nifti1Image(images.astype(np.float32).transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = unit.encode()
    with atomic_file(path) as temporary:
        # nibabel goes by the suffix, which a temporary file has not.
        temporary.write_bytes(image.to_bytes())
