"""Slices of a plain head that have room for lesions."""

import numpy as np

from pipeline.lesions import LesionSettings, lesions
from pipeline.storage import hdf5
from pipeline.storage.kinds import LESION_SLICES, RECONSTRUCTION, SHARD, SLICES

SIZE, PIXEL_MM, SLICE_MM = 64, 3.0, 2.0
SETTINGS = LesionSettings(per_volume=2, per_slice=3, diameter_mm=(8.0, 14.0), hot=1.5, cold=0.25)
FACTS = {
    **{"seed": 3, "subject": "subject04", "source": "test", "labels_sha256": "0" * 64},
    **{"pixel_mm": PIXEL_MM, "slice_mm": SLICE_MM, "orientation": "LPS"},
}


def head(oversampling=1):
    """Labels (y, x), and activity on a finer grid: white matter in grey matter in skin."""

    def radius_mm(size):
        axis = (np.arange(size) - (size - 1) / 2) * PIXEL_MM * SIZE / size
        return np.hypot(axis[:, None], axis)

    def classes(size):
        edges = [radius_mm(size) < edge for edge in (40, 70, 80)]
        return np.select(edges, [3, 2, 6], 0).astype(np.uint8)

    values = np.array([0, 0, 128, 32, 0, 0, 16], np.float32)
    return classes(SIZE), values[classes(SIZE * oversampling)]


def write_slices(path, *, oversampling=1, rotations=2, slices=4, labels=True, attenuation=0.0):
    """Write a head as rule ``slices`` does: all slices the same, but the first without brain."""
    classes, activity = head(oversampling)
    count = rotations * slices
    stack = np.repeat(classes[None], count, axis=0)
    stack[::slices] = np.where(stack[::slices] > 0, 6, 0)
    arrays = {
        "activity": np.repeat(activity[None], count, axis=0),
        "attenuation": np.float32(attenuation) * np.repeat(activity[None] > 0, count, axis=0),
        **({"labels": stack} if labels else {}),
        "rotation": np.repeat(np.arange(rotations, dtype=np.uint8), slices),
        "rotation_deg": np.repeat(np.arange(rotations, dtype=np.float32), slices),
        "slice_index": np.tile(np.arange(10, 10 + slices, dtype=np.int16), rotations),
    }
    unlabelled = {} if labels else {"activity_unit": "BQML", "head_above": 8.0}
    facts = {**FACTS, "oversampling": oversampling, **unlabelled}
    hdf5.write(path, SLICES, arrays, hdf5.provenance({}, **facts))
    return path


def write_twins(folder, draws, settings=SETTINGS):
    """Write a subject's lesions, and their shard without data; give both paths."""
    slices, shard = folder / "lesions.h5", folder / "shard.h5"
    lesions(write_slices(folder / "slices.h5"), slices, settings, draws)
    found, attributes = hdf5.read(slices, LESION_SLICES)
    empty = np.zeros_like(found["activity"])
    arrays = {name: found[name] for name in SHARD.datasets if name in found}
    arrays |= dict.fromkeys(("osem", "fbp"), empty)
    arrays |= {"sinogram": np.zeros((len(empty), 4, 3), np.uint32)}
    arrays |= {"scale": np.ones(len(empty), np.float32)}
    facts = {name: attributes[name] for name in FACTS} | {"dose": 0.05}
    hdf5.write(shard, SHARD, arrays, hdf5.provenance({}, **facts))
    return slices, shard


def write_images(path, shard, model, samples, **facts):
    """Write samples (slice, sample, y, x) as the reconstruction of a shard by a model."""
    found, attributes = hdf5.read(shard, SHARD)
    samples = samples.astype(np.float32)
    arrays = {name: found[name] for name in RECONSTRUCTION.datasets if name in found}
    arrays |= {"image": samples.mean(axis=1)}
    if samples.shape[1] > 1:
        arrays |= {"samples": samples, "std": samples.std(axis=1)}
    told = {"model": model, "weights_sha256": "", "activity_scale": np.nan}
    told |= {"subject": attributes["subject"], "dose": attributes["dose"], **facts}
    hdf5.write(path, RECONSTRUCTION, arrays, hdf5.provenance({}, **told))
    return path
