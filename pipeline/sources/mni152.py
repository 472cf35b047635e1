"""Rule ``fetch`` for demonstrations: heads made from the MNI152 template, without a network.

nilearn ships the grey and white matter maps of the ICBM 152 template in its package. A seeded
smooth deformation makes any number of different heads of them, and shells around the brain stand
for CSF, skull and scalp. They exercise every step that follows; they are no anatomical reference.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.jobs.seeds import keyed_rng
from pipeline.sources.base import Facts
from pipeline.sources.labels import CLASSES, write_labels
from pipeline.storage.errors import InputError

MAPS = "mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"
SHAPE = (189, 233, 197)  # z, y, x
VOXEL_MM = (1.0, 1.0, 1.0)

SCALING = 0.06  # largest relative change of size, drawn per axis
DISPLACEMENT_MM = 3.0  # standard deviation, per axis
SMOOTHNESS_MM = 20.0  # standard deviation of the Gaussians that the displacement is a sum of

CSF_MM, SKULL_MM, SCALP_MM = 2.0, 6.0, 5.0  # thickness of the shells around the brain
CLOSING_MM = 14.0  # bridges the fissures and the gap between cerebrum and cerebellum
COARSE = 2  # voxels per step of the grid on which distances are computed, for speed


def template() -> tuple[np.ndarray, np.ndarray]:
    """Read the grey and white matter maps of the ICBM 152 template from nilearn's package.

    Returns
    -------
    grey_matter, white_matter : (z, y, x) float32 arrays
        Fractions, 0 to 1; RAS+ orientation, voxels of 1 mm.

    Raises
    ------
    InputError
        If nilearn does not hold them, or not in this orientation.
    """
    grey_matter, white_matter = (_map(MAPS.format(tissue=tissue)) for tissue in ("gm", "wm"))
    return grey_matter, white_matter


def _map(name: str) -> np.ndarray:
    import nibabel

    remedy = "install another release of nilearn (0.13 is known to work)"
    entry = resources.files("nilearn") / "datasets" / "data" / name
    if not entry.is_file():
        raise InputError(name, "is not in the installed nilearn", remedy)
    with resources.as_file(entry) as path:
        image = nibabel.Nifti1Image.from_filename(path)
        values = np.asanyarray(image.dataobj)
    if not np.allclose(image.affine[:3, :3], np.eye(3)):
        found = image.affine[:3, :3].tolist()
        raise InputError(name, f"has the affine {found}, not 1 mm in RAS+", remedy)
    # 8-bit maps hold 255 for a fraction of 1.
    full = 255 if values.dtype == np.uint8 else 1
    return np.ascontiguousarray(values.T, np.float32) / np.float32(full)


def make_labels(subject: str, seed: int) -> np.ndarray:
    """Make the labels of one head.

    Parameters
    ----------
    subject : str
        As in ``subject04``; the name and the seed determine the head.
    seed : int

    Returns
    -------
    labels : (z, y, x) uint8 array
        Classes of `pipeline.sources.labels.CLASSES`: background, CSF, GM, WM, muscle/skin and
        skull; RAS+ orientation, voxels of 1 mm.
    """
    grey_matter, white_matter = _deform(template(), keyed_rng(seed, "mni152", subject))
    distance_mm = _distance_to_brain(grey_matter + white_matter > 0.5)

    other = 1 - grey_matter - white_matter
    classes = [CLASSES.index(name) for name in ("CSF", "GM", "WM")]
    labels = np.full(other.shape, classes[0], np.uint8)
    labels[(grey_matter > other) & (grey_matter >= white_matter)] = classes[1]
    labels[(white_matter > other) & (white_matter > grey_matter)] = classes[2]
    inner = CSF_MM
    for name, thickness in (("skull", SKULL_MM), ("muscle/skin", SCALP_MM)):
        labels[distance_mm > inner] = CLASSES.index(name)
        inner += thickness
    labels[distance_mm > inner] = CLASSES.index("background")
    return labels


def _deform(
    maps: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Resample both maps through one random scaling and smooth displacement."""
    from scipy.ndimage import map_coordinates

    shape = maps[0].shape
    factors = 1 + rng.uniform(-SCALING, SCALING, 3)
    bumps = [_gaussians(length) for length in shape]
    weights = rng.standard_normal((3, *(bump.shape[1] for bump in bumps)))
    # einsum, not matmul: the result of BLAS may depend on the number of threads.
    columns = np.einsum("cijk,yj->ciyk", DISPLACEMENT_MM * weights, bumps[1])
    columns = np.einsum("ciyk,xk->ciyx", columns, bumps[2])
    middle = (np.array(shape) - 1) / 2
    y, x = np.ogrid[: shape[1], : shape[2]]
    deformed = np.empty_like(maps[0]), np.empty_like(maps[1])
    for z in range(shape[0]):
        # One slice at a time: coordinates of the whole volume would take 200 MB.
        sources = np.einsum("i,ciyx->cyx", bumps[0][z], columns)
        for axis, index in enumerate((z, y, x)):
            sources[axis] += middle[axis] + (index - middle[axis]) / factors[axis]
        for tissue, target in zip(maps, deformed, strict=True):
            map_coordinates(tissue, sources, output=target[z], order=1)
    return deformed


def _gaussians(length: int) -> np.ndarray:
    """Return (length, n) values of n Gaussians spread evenly over an axis; rows have norm 1.

    Weighted by independent standard normal draws, they sum to a smooth process of variance 1.
    """
    centres = np.arange(-SMOOTHNESS_MM, length + 2 * SMOOTHNESS_MM, SMOOTHNESS_MM)
    values = np.exp(-(((np.arange(length)[:, None] - centres) / SMOOTHNESS_MM) ** 2) / 2)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _distance_to_brain(brain: np.ndarray) -> np.ndarray:
    """Return the distance (z, y, x) in mm to the closed mask of the brain, 0 within it."""
    from scipy.ndimage import distance_transform_edt, label, zoom

    steps = (slice(None, None, COARSE),) * 3
    components, _ = label(brain[steps])
    largest = np.bincount(components.ravel())[1:].argmax() + 1
    sampling = [COARSE * size for size in VOXEL_MM]

    def distance_mm(mask: np.ndarray) -> np.ndarray:
        return distance_transform_edt(~mask, sampling=sampling).astype(np.float32)

    dilated = distance_mm(components == largest) <= CLOSING_MM
    closed = distance_mm(~dilated) > CLOSING_MM
    factors = [fine / coarse for fine, coarse in zip(brain.shape, closed.shape, strict=True)]
    return zoom(distance_mm(closed), factors, order=1)


def fetch(output: Path, subject: str, config: Mapping[str, Any]) -> None:
    """Make and write the labels of one head.

    Parameters
    ----------
    output : path
        HDF5 file of kind `pipeline.storage.kinds.LABELS`; its folder must exist.
    subject : str
        As in ``subject04``.
    config : mapping
        Of which the seed decides: equal seeds give equal heads, bit for bit, with equal versions of
        NumPy and SciPy.

    Raises
    ------
    InputError
        As `template`.
    """
    write_labels(
        output,
        make_labels(subject, config["seed"]),
        VOXEL_MM,
        source="mni152",
        origin="nilearn, ICBM 152 nonlinear symmetric 2009a",
        subject=subject,
        seed=config["seed"],
    )


FACTS = Facts(
    shape=SHAPE,
    bytes_per_voxel=36,  # four maps and the distances, float32, and what their arithmetic makes
    decided_by=("seed",),
)
