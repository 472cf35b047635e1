"""Rule ``scan_reconstruct``: images of a measured scan by a trained model."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from models.channels import CHANNELS
from models.conformal import deviation
from models.consistency import Measurements
from models.dataset import SliceKey, scaled
from models.loader import in_order
from models.reconstruct import Reconstructor
from models.settings import Settings
from pipeline.scan_images import placed, write_in_unit
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SCAN, SCAN_IMAGE
from pipeline.tomography.agreement import nearest_dose
from pipeline.tomography.backend import device_for
from pipeline.tomography.forward_model import ForwardModel
from pipeline.tomography.geometry import Grid
from pipeline.tomography.physics import Physics, counts_of, made_by
from pipeline.tomography.projectors import SparseProjector
from pipeline.tomography.scanners import Geometry
from pipeline.tomography.system_matrix import system_matrices

NO_FACTORS = (
    "data consistency has no factors of the scan (scans.<name>.factors) and takes attenuation and "
    "normalisation as 1, which the network has learnt to correct"
)


def scan_reconstruct(
    weights: Path,
    scan: Path,
    images: Mapping[str, Path],
    output: Path,
    niftis: Mapping[str, Path],
    settings: Settings,
    frozen: Path | None,
    threads: int,
    psf_fwhm_mm: float = 0.0,
) -> None:
    """Reconstruct a scan's planes, in the unit of its FBP image.

    Networks take the scan's prompts as the sinogram, and its images in units of their activity,
    see `pipeline.tomography.physics.counts_of`.

    Parameters
    ----------
    scan : Path
        Of kind `pipeline.storage.kinds.SCAN`.
    images : mapping
        Of kind `pipeline.storage.kinds.SCAN_IMAGE`, by their channels: ``fbp``, by which activity
        is known, and those that the model sees beside it.
    output : Path
        HDF5 of kind `pipeline.storage.kinds.SCAN_IMAGE`: the image, of several samples their mean,
        and their standard deviation.
    niftis : mapping
        Where "image", and of several samples "std", go as NIfTI.
    weights, settings, frozen, threads
        See `models.reconstruct.Reconstructor`.
    psf_fwhm_mm : float
        Resolution that data consistency models, as rule ``scan_osem`` does; 0 for none.

    Raises
    ------
    InputError
        If the model was trained for other measurements, the scan holds no prompts, or an image
        is of another scan.
    """
    model = Reconstructor(weights, frozen, settings, threads)
    trained = model.metadata.physics
    if trained is None:
        problem = "does not say what it was trained for, nor how its activity relates to counts"
        raise InputError(weights, problem, "train it again: delete it, and call snakemake")
    with ExitStack() as stack:
        file = stack.enter_context(hdf5.opened(scan, SCAN))
        seen = {n: stack.enter_context(hdf5.opened(p, SCAN_IMAGE)) for n, p in images.items()}
        _check_prompts(file)
        for image in seen.values():
            _check_same_scan(file, image)
        found = physics_of(file, seen)
        model.check(found, scan)
        if found.counts_per_activity <= 0:
            problem = "has no counts above its background, or no FBP image of them"
            raise InputError(scan, problem, "see whether its randoms and scatter are right")
        dose = nearest_dose(trained, found.counts_per_slice)
        activity = found.counts_per_activity / (trained.counts_per_activity * dose)
        grid, measured = Grid(found.pixels, found.pixel_mm), None
        if model.sees_counts(settings.sampling):
            calibration = float(file.attrs["calibration"])
            unit_counts = 1 / calibration if calibration > 0 else 1.0  # counts per mm, of one unit
            if trained.attenuation and not json.loads(file.attrs["config"])["scan"]["factors"]:
                model.doubt(NO_FACTORS, scan)
            measured = _measured(scan, placed(file), grid, psf_fwhm_mm, unit_counts / activity)
        slices = ScanSlices(file, seen, activity, model, measured)
        arrays = {name: array / np.float32(activity) for name, array in slices.images().items()}
        facts = model.facts(settings.sampling) | {
            "doubts": "\n".join(model.doubts),
            "activity_per_unit": activity,
        }
        unit = seen["fbp"].attrs["unit"]
        write_in_unit(file, arrays, unit, grid, output, niftis, model.used(measured), **facts)


def _measured(
    scan: Path, ring: Geometry, grid: Grid, psf_fwhm_mm: float, scale: float
) -> Measurements:
    """Give a scan's counts; ``scale`` is those per mm of an activity."""
    matrices = system_matrices(ring, grid, 1)
    projector = SparseProjector(ring, grid, *matrices, device_for("sparse"))
    return Measurements([scan], ForwardModel(projector, psf_fwhm_mm), SCAN, scale)


def physics_of(scan: h5py.File, images: Mapping[str, h5py.File]) -> Physics:
    """Tell what an open scan was measured with, and the grid and the settings of its images."""
    fbp = images["fbp"]
    counts = counts_of(scan, fbp["image"])
    rows = range(len(scan["background"]))
    background = sum(float(hdf5.finite(scan["background"], row).sum()) for row in rows)
    made: dict[str, Any] = {name: made_by(image, name) for name, image in images.items()}
    return Physics(
        geometry=json.loads(scan.attrs["geometry"]),
        patient_position=str(scan.attrs["patient_position"]),
        pixels=fbp["image"].shape[-1],
        pixel_mm=float(fbp.attrs["pixel_mm"]),
        slice_mm=float(scan.attrs["slice_mm"]),
        attenuation=None,
        psf_fwhm_mm=None,
        background_fraction=background / max(counts["counts_per_slice"] * len(rows), 1),
        counts_per_slice=counts["counts_per_slice"],
        counts_per_activity=counts["counts_per_activity"],
        **made,
    )


class ScanSlices:
    """The planes of an open scan, as a model sees and reconstructs them.

    Parameters
    ----------
    scan : h5py.File
    images : mapping
        By channels, as of `scan_reconstruct`.
    activity : float
        Of one unit of the images.
    model : Reconstructor
    measured : Measurements or None
        Of the scan; see `models.reconstruct.Reconstructor.samples`.

    Raises
    ------
    InputError
        If the model sees more than a scan has.
    """

    def __init__(
        self,
        scan: h5py.File,
        images: Mapping[str, h5py.File],
        activity: float,
        model: Reconstructor,
        measured: Measurements | None,
    ):
        self._model, self._measured = model, measured
        self._arrays = {"sinogram": (scan["prompts"], 1.0)}
        self._arrays |= {name: (file["image"], activity) for name, file in images.items()}
        self._name, self._channels = str(scan.attrs["scan"]), []
        for name in model.metadata.settings["conditioning"]:
            self._channels.append(CHANNELS[name])
            # Counts per activity and mm are not known of scans.
            if CHANNELS[name].dataset not in self._arrays or CHANNELS[name].per:
                problem = f"was trained with {name}, which is not made of scans"
                raise InputError(model.weights, problem, "take a model without it")

    def __len__(self) -> int:
        return len(self._arrays["sinogram"][0])

    def inputs(self, row: int) -> torch.Tensor:
        """Channels (C, size, size) of a plane, as `models.dataset.ShardSlices` has them."""
        size, scales = self._model.settings.network.size, self._model.metadata.scales
        found = []
        for channel in self._channels:
            dataset, factor = self._arrays[channel.dataset]
            array = hdf5.finite(dataset, row).astype(np.float32) * np.float32(factor)
            found.append(scaled(array, size, getattr(scales, channel.scale)))
        return torch.from_numpy(np.stack(found))

    def images(self) -> dict[str, np.ndarray]:
        """Reconstruct all planes, a batch at a time.

        Returns
        -------
        dict
            ``image`` and, of several samples, ``std``: (slice, y, x) float32, activity units.
        """
        sampling, parts = self._model.settings.sampling, []
        for rows in in_order(range(len(self)), sampling.batch_size):
            inputs = torch.stack([self.inputs(row) for row in rows])
            keys = [SliceKey(self._name, 0, row) for row in rows]
            correct = self._model.correct(self._measured, [(0, row) for row in rows], sampling)
            samples = self._model.predict(inputs, keys, sampling, correct)
            part = {"image": samples.mean(axis=1)}
            if samples.shape[1] > 1:
                part["std"] = deviation(samples, sampling.antithetic)
            parts.append(part)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_prompts(scan: h5py.File) -> None:
    """Refuse data that are no counts as they were measured: networks know nothing else."""
    if "prompts" not in scan or not scan.attrs["likelihood"]:
        raise InputError(
            scan.filename,
            "holds data that were corrected before, or are no counts; networks were trained on "
            "prompts",
            "give the prompts as measured, and corrections as factors, randoms and scatter; or FBP "
            "alone, with images: [fbp] in the scan's section",
        )


def _check_same_scan(scan: h5py.File, image: h5py.File) -> None:
    place, other = (hdf5.finite(file["position_mm"]) for file in (scan, image))
    if scan.attrs["scan"] != image.attrs["scan"] or not np.array_equal(place, other):
        problem = f"is not the image of {scan.filename}"
        remedy = f"delete it and make it again: snakemake --cores all -- {image.filename}"
        raise InputError(image.filename, problem, remedy)
