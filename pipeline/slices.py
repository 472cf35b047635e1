"""Rule ``slices``: rotated axial slices on the scanner's grid, in one anti-aliased interpolation.

A pixel is the mean of the phantom over the pixel's extent (a box as wide as the pixel and as thick
as the slice), read at the pixel's rotated centre by linear interpolation between phantom voxels. So
the phantom is interpolated once, whatever the rotation, and not once for the resampling and again
for the rotation. Since the rotation is in-plane, slice thickness, box and interpolation separate.
"""

from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import affine_transform, convolve1d

from pipeline.jobs.seeds import keyed_rng
from pipeline.lesions import LesionSettings, labels_for, lesions_of, with_lesions
from pipeline.sources.labels import GREY_MATTER, WHITE_MATTER
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import IMAGE_FACTS, PHANTOM, SLICES
from pipeline.tomography.geometry import Grid, SliceSettings
from pipeline.tomography.spacing import evenly_spaced

HEAD_AREA = 0.05
"""Part of its largest section that a section of a head without labels must have.

In the outermost planes of a scanner noise alone can be as high as the head.
"""


def rotation_angles_deg(rotations: int, max_deg: float, seed: int, subject: str) -> np.ndarray:
    """Angles (rotations,) of a subject: the first 0, the others uniform in +-max_deg."""
    drawn = keyed_rng(seed, "rotation", subject).uniform(-max_deg, max_deg, rotations)
    drawn[0] = 0
    return drawn.astype(np.float32)


def brain_slices(
    labels: np.ndarray, voxel_mm: float, slice_mm: float, volume_slices: int, count: int
) -> np.ndarray:
    """Spread ``count`` axial slices evenly over the brain.

    Parameters
    ----------
    labels : array (z, y, x)
        Centred on the volume of ``volume_slices`` slices of ``slice_mm``.
    voxel_mm : float
        Thickness of the labels' slices.

    Returns
    -------
    array (count,) of int
        Increasing, no slice twice; the first and last hold grey or white matter. A single one is
        the middle of the brain.

    Raises
    ------
    InputError
        If the brain has fewer slices.
    """
    in_brain = ((labels == GREY_MATTER) | (labels == WHITE_MATTER)).any(axis=(1, 2))
    nothing = "check the labels: none of these slices holds grey or white matter"
    grid = voxel_mm, slice_mm, volume_slices
    return _spread(in_brain, *grid, count, covered="the brain covers", nothing=nothing)


def head_slices(
    activity: h5py.Dataset,
    head_above: float,
    voxel_mm: float,
    slice_mm: float,
    volume_slices: int,
    count: int,
) -> np.ndarray:
    """Spread axial slices evenly over the head of an image (z, y, x) without labels.

    A plane is of the head if at least `HEAD_AREA` of the largest number of voxels above
    ``head_above`` (see `pipeline.phantom.HEAD_FRACTION`) is in it; otherwise as `brain_slices`.
    """
    planes = range(activity.shape[0])
    area = np.array([np.count_nonzero(hdf5.finite(activity, z) > head_above) for z in planes])
    in_head = (area > 0) & (area >= HEAD_AREA * area.max())
    nothing = f"check the image: none of these slices is above {head_above:.4g}"
    grid = voxel_mm, slice_mm, volume_slices
    return _spread(in_head, *grid, count, covered="the head covers", nothing=nothing)


def _spread(
    wanted: np.ndarray,
    voxel_mm: float,
    slice_mm: float,
    volume_slices: int,
    count: int,
    *,
    covered: str,
    nothing: str,
) -> np.ndarray:
    """Spread slices evenly over the planes (z,) that are wanted; the texts say why it cannot be."""
    centres_mm = (np.arange(volume_slices) - (volume_slices - 1) / 2) * slice_mm
    nearest = np.rint(centres_mm / voxel_mm + (len(wanted) - 1) / 2).astype(int)
    inside = (nearest >= 0) & (nearest < len(wanted))
    held = np.flatnonzero(inside & wanted[np.clip(nearest, 0, len(wanted) - 1)])
    if len(held) == 0 or held[-1] - held[0] + 1 < count:
        raise InputError(
            "slices.per_volume",
            f"{count} slices asked for, {covered} {len(held)} slices of {slice_mm} mm",
            f"ask for at most {len(held)}, or make the slices thinner" if len(held) else nothing,
        )
    return evenly_spaced(held[0], held[-1], count)


def box_weights(width: float) -> np.ndarray:
    """Weights of a box ``width`` voxels wide over the voxels it covers, centred on one of them.

    Their sum is 1. A box narrower than a voxel is that voxel: nothing can alias.
    """
    reach = int(np.ceil(max(width - 1, 0) / 2))
    offsets = np.abs(np.arange(-reach, reach + 1))
    weights = np.clip((width + 1) / 2 - offsets, 0, 1) if reach else np.ones(1)
    return weights / weights.sum()


def axial_means(volume: h5py.Dataset, centres: np.ndarray, thickness: float) -> np.ndarray:
    """Means over the thickness of a slice, at some positions.

    Parameters
    ----------
    volume : dataset (z, y, x)
    centres : array (slice,)
        Positions along z, in voxels.
    thickness : float
        In voxels.

    Returns
    -------
    array (slice, y, x), float32
    """
    edges = np.arange(volume.shape[0] + 1) - 0.5
    result = np.zeros((len(centres), *volume.shape[1:]), dtype=np.float32)
    for mean, centre in zip(result, centres, strict=True):
        lower, upper = centre - thickness / 2, centre + thickness / 2
        overlap = np.minimum(edges[1:], upper) - np.maximum(edges[:-1], lower)
        covered = np.flatnonzero(overlap > 0)
        slab = hdf5.finite(volume, np.s_[covered[0] : covered[-1] + 1])
        for weight, plane in zip(overlap[covered] / thickness, slab, strict=True):
            mean += np.float32(weight) * plane
    return result


def resample(planes: np.ndarray, voxel_mm: np.ndarray, grid: Grid, angle_deg: float) -> np.ndarray:
    """Pixels of a rotated grid: box means of the planes at the rotated pixel centres.

    Parameters
    ----------
    planes : array (slice, y, x)
        Already averaged over the box by `box_mean`; centred on the axis.
    voxel_mm : array (2,)
        Their pixel size along y and x.
    grid : Grid
        Where values are wanted.
    angle_deg : float
        Turns the object from the x towards the y axis (clockwise on the screen).

    Returns
    -------
    array (slice, grid.size, grid.size), of the planes' dtype
    """
    return _at_pixel_centres(planes, voxel_mm, grid, angle_deg, order=1)


def nearest(labels: np.ndarray, voxel_mm: np.ndarray, grid: Grid, angle_deg: float) -> np.ndarray:
    """Class of the voxel in which each rotated pixel centre lies; parameters as `resample`."""
    return _at_pixel_centres(labels, voxel_mm, grid, angle_deg, order=0)


def _at_pixel_centres(
    planes: np.ndarray, voxel_mm: np.ndarray, grid: Grid, angle_deg: float, order: int
) -> np.ndarray:
    angle = np.deg2rad(float(angle_deg))
    # Object turned by +angle: the value at p is the unturned object's at R(-angle) p; in (y, x).
    turn_back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn_back * grid.pixel_mm / np.asarray(voxel_mm)[:, None]
    centre = (np.array(planes.shape[1:]) - 1) / 2
    offset = centre - matrix @ np.full(2, (grid.size - 1) / 2)
    result = np.empty((len(planes), grid.size, grid.size), dtype=planes.dtype)
    for pixels, plane in zip(result, planes, strict=True):
        affine_transform(plane, matrix, offset, output=pixels, order=order, mode="constant")
    return result


def box_mean(planes: np.ndarray, voxel_mm: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Mean of planes (slice, y, x) over a box of one pixel around every voxel."""
    for axis, size_mm in enumerate(voxel_mm, start=1):
        weights = box_weights(pixel_mm / size_mm)
        planes = convolve1d(planes, weights, axis=axis, mode="constant")
    return planes


def check_field_of_view(
    planes: np.ndarray, voxel_mm: np.ndarray, radius_mm: float, above: float = 0.0
) -> None:
    """Refuse a head that reaches beyond the scanner's field of view.

    Forward projection sees nothing there, while a scanner would count it: images would be wrong
    without a word, and inside, too.

    Parameters
    ----------
    planes : array (slice, y, x)
        The head and what is around it; centred on the axis, around which it may be turned.
    voxel_mm : array (2,)
        Their pixel size along y and x.
    radius_mm : float
        From `pipeline.tomography.geometry.field_of_view_mm`.
    above : float
        Value above which a voxel is of the head.

    Raises
    ------
    InputError
        Naming how much of the head lies outside, and how far it reaches.
    """
    y_mm, x_mm = (
        (np.arange(n) - (n - 1) / 2) * size
        for n, size in zip(planes.shape[1:], voxel_mm, strict=True)
    )
    distance_mm = np.hypot(y_mm[:, None], x_mm[None, :])
    voxels = (planes > above).sum(axis=0)
    outside = voxels[distance_mm > radius_mm].sum()
    if outside:
        share = 100 * outside / voxels.sum()
        raise InputError(
            "slices.size, slices.pixel_mm, scanner.radial_trim",
            f"give a field of view of radius {radius_mm:.1f} mm, and the head reaches "
            f"{distance_mm[voxels > 0].max():.1f} mm from the axis: {share:.3g} % of it lies "
            "outside, where the simulation would see nothing",
            "choose more or larger pixels if size x pixel_mm is less than twice that, or else a "
            "smaller radial_trim",
        )


def slices(
    phantom: Path,
    output: Path,
    subject: str,
    seed: int,
    settings: SliceSettings,
    oversampling: int,
    field_of_view_mm: float,
    lesions: LesionSettings | None = None,
) -> None:
    """Rule ``slices``: write all rotations of a subject's slices, rotation by rotation.

    Parameters
    ----------
    settings : SliceSettings
    oversampling : int
        Activity and attenuation are wanted on a grid this many times finer than the
        reconstruction's; labels on the latter.
    field_of_view_mm : float
        Radius; see `pipeline.tomography.geometry.field_of_view_mm`.
    lesions : LesionSettings, optional
        Of the lesions that some slices are to have.

    Raises
    ------
    InputError
        If the brain has fewer slices, the head does not lie in the field of view, or there are
        neither labels nor room for lesions.
    """
    grid = settings.grid
    fine = grid.finer(oversampling)
    angles = rotation_angles_deg(settings.rotations, settings.max_rotation_deg, seed, subject)
    with hdf5.opened(phantom, PHANTOM) as file:
        voxel_mm = np.asarray(file.attrs["voxel_mm"])
        image_facts = {name: file.attrs[name] for name in IMAGE_FACTS if name in file.attrs}
        head_above = float(image_facts.get("head_above", 0))
        labels = hdf5.finite(file["labels"]) if "labels" in file else None
        wanted = settings.slice_mm, settings.volume_slices, settings.per_volume
        try:
            if labels is None:
                chosen = head_slices(file["activity"], head_above, voxel_mm[0], *wanted)
            else:
                chosen = brain_slices(labels, voxel_mm[0], *wanted)
        except InputError as error:
            raise InputError(error.where, f"{error.problem}, in {subject}", error.remedy) from None
        from_centre_mm = (chosen - (settings.volume_slices - 1) / 2) * settings.slice_mm
        centres = from_centre_mm / voxel_mm[0] + (len(file["activity"]) - 1) / 2
        arrays: dict[str, np.ndarray] = {}
        for name, above in (("activity", head_above), ("attenuation", 0.0)):
            planes = axial_means(file[name], centres, settings.slice_mm / voxel_mm[0])
            check_field_of_view(planes, voxel_mm[1:], field_of_view_mm, above)
            planes = box_mean(planes, voxel_mm[1:], fine.pixel_mm)
            arrays[name] = np.concatenate(
                [resample(planes, voxel_mm[1:], fine, angle) for angle in angles]
            )
        if labels is not None:
            planes = labels[np.rint(centres).astype(int)]
            arrays["labels"] = np.concatenate(
                [nearest(planes, voxel_mm[1:], grid, angle) for angle in angles]
            )
        attributes = hdf5.provenance(
            {
                "slices": asdict(settings),
                "oversampling": oversampling,
                **({"lesions": asdict(lesions)} if lesions else {}),
            },
            seed=seed,
            oversampling=oversampling,
            pixel_mm=grid.pixel_mm,
            slice_mm=settings.slice_mm,
            orientation=file.attrs["orientation"],
            subject=subject,
            source=file.attrs["source"],
            labels_sha256=file.attrs["labels_sha256"],
            **image_facts,
        )
    count = len(chosen)
    arrays["rotation"] = np.repeat(np.arange(len(angles), dtype=np.uint8), count)
    arrays["rotation_deg"] = np.repeat(angles, count)
    arrays["slice_index"] = np.tile(chosen.astype(np.int16), len(angles))
    if lesions:
        shown = labels_for(lesions, arrays.get("labels"), subject)
        for row, found in lesions_of(arrays, shown, grid, lesions, seed, subject):
            changed = with_lesions(arrays["activity"][row], found, fine, settings.slice_mm)
            arrays["activity"][row] = changed
    hdf5.write(output, SLICES, arrays, attributes)
