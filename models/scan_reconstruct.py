"""Rule ``scan_reconstruct``: images of a measured scan by a trained model."""

import json
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import torch

from models.channels import CHANNELS
from models.dataset import SliceKey, scaled
from models.loader import in_order
from models.reconstruct import Reconstructor
from models.settings import Settings
from pipeline.scan_images import write_in_unit
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SCAN, SCAN_IMAGE
from pipeline.tomography.agreement import nearest_dose
from pipeline.tomography.geometry import Grid
from pipeline.tomography.physics import Physics, counts_of, fbp_of


def scan_reconstruct(
    weights: Path,
    scan: Path,
    fbp: Path,
    output: Path,
    niftis: Mapping[str, Path],
    settings: Settings,
    features: Path | None,
    threads: int,
) -> None:
    """Reconstruct a scan's planes, in the unit of its FBP image.

    Networks take the scan's prompts as the sinogram, and its FBP image in units of their activity,
    see `pipeline.tomography.physics.counts_of`.

    Parameters
    ----------
    scan, fbp : Path
        Of kinds `pipeline.storage.kinds.SCAN` and `pipeline.storage.kinds.SCAN_IMAGE`.
    output : Path
        HDF5 of kind `pipeline.storage.kinds.SCAN_IMAGE`: the image, of several samples their mean,
        and their standard deviation.
    niftis : mapping
        Where "image", and of several samples "std", go as NIfTI.
    weights, settings, features, threads
        See `models.reconstruct.Reconstructor`.

    Raises
    ------
    InputError
        If the model was trained for other measurements, the scan holds no prompts, or the FBP image
        is of another scan.
    """
    model = Reconstructor(weights, features, settings, threads)
    trained = model.metadata.physics
    if trained is None:
        problem = "does not say what it was trained for, nor how its activity relates to counts"
        raise InputError(weights, problem, "train it again: delete it, and call snakemake")
    with hdf5.opened(scan, SCAN) as file, hdf5.opened(fbp, SCAN_IMAGE) as images:
        _check_prompts(file)
        _check_same_scan(file, images)
        found = physics_of(file, images)
        model.check(found, scan)
        if found.counts_per_activity <= 0:
            problem = "has no counts above its background, or no FBP image of them"
            raise InputError(scan, problem, "see whether its randoms and scatter are right")
        dose = nearest_dose(trained, found.counts_per_slice)
        activity = found.counts_per_activity / (trained.counts_per_activity * dose)
        slices = ScanSlices(file, images, activity, model)
        arrays = {name: array / np.float32(activity) for name, array in slices.images().items()}
        facts = model.facts(settings.sampling) | {
            "doubts": "\n".join(model.doubts),
            "activity_per_unit": activity,
        }
        unit, grid = images.attrs["unit"], Grid(found.pixels, found.pixel_mm)
        write_in_unit(file, arrays, unit, grid, output, niftis, model.used(), **facts)


def physics_of(scan: h5py.File, fbp: h5py.File) -> Physics:
    """Tell what an open scan was measured with, and the grid of its FBP image."""
    counts = counts_of(scan, fbp["image"])
    rows = range(len(scan["background"]))
    background = sum(float(hdf5.finite(scan["background"], row).sum()) for row in rows)
    return Physics(
        geometry=json.loads(scan.attrs["geometry"]),
        patient_position=str(scan.attrs["patient_position"]),
        pixels=fbp["image"].shape[-1],
        pixel_mm=float(fbp.attrs["pixel_mm"]),
        slice_mm=float(scan.attrs["slice_mm"]),
        attenuation=None,
        psf_fwhm_mm=None,
        background_fraction=background / max(counts["counts_per_slice"] * len(rows), 1),
        fbp=fbp_of(fbp),
        counts_per_slice=counts["counts_per_slice"],
        counts_per_activity=counts["counts_per_activity"],
    )


class ScanSlices:
    """The planes of an open scan, as a model sees and reconstructs them.

    Parameters
    ----------
    scan, fbp : h5py.File
        As of `scan_reconstruct`.
    activity : float
        Of one unit of the FBP image.
    model : Reconstructor

    Raises
    ------
    InputError
        If the model sees more than a scan has.
    """

    def __init__(self, scan: h5py.File, fbp: h5py.File, activity: float, model: Reconstructor):
        self._model = model
        self._arrays = {"sinogram": (scan["prompts"], 1.0), "fbp": (fbp["image"], activity)}
        self._name, self._channels = str(scan.attrs["scan"]), []
        for name in model.metadata.settings["conditioning"]:
            self._channels.append(CHANNELS[name])
            if CHANNELS[name].dataset not in self._arrays:
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
            samples = self._model.predict(inputs, keys, sampling)
            part = {"image": samples.mean(axis=1)}
            if samples.shape[1] > 1:
                part["std"] = samples.std(axis=1, ddof=1)
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


def _check_same_scan(scan: h5py.File, fbp: h5py.File) -> None:
    place, other = (hdf5.finite(file["position_mm"]) for file in (scan, fbp))
    if scan.attrs["scan"] != fbp.attrs["scan"] or not np.array_equal(place, other):
        problem = f"is not the image of {scan.filename}"
        raise InputError(fbp.filename, problem, "delete it and run rule 'scan_fbp' again")
