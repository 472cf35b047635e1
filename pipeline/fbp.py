"""Rule ``fbp``: arc-corrected filtered back-projection, one linear operation on the prompts."""

from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.fft
import scipy.sparse

from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import FBP, SINOGRAM, SUBJECT_FACTS, identity_of
from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.scanners import Geometry


@dataclass(frozen=True)
class FbpSettings:
    """The configuration's ``fbp``.

    Attributes
    ----------
    window : str
        Apodisation of the ramp: "ramp" (none) or "hann".
    cutoff : float
        Frequency, relative to Nyquist's, from which on the filter is zero.
    """

    window: str
    cutoff: float


class FilteredBackProjection:
    """FBP for the sinograms of a scanner.

    The LORs of a ring lie neither at equal distances from the axis nor, within a view, at one
    angle. Arc correction interpolates them linearly, first in angle, then in distance, to parallel
    lines: the angles are those of the central bins, the distances multiples of `step_mm`. Bins that
    count nothing are left out, which interpolates them from the views beside.

    Parameters
    ----------
    ring, grid
        The geometry.
    counting : array (view, radial) of bool, optional
        Bins that count; those of the geometry without it.
    window : str
        Apodisation of the ramp: ``"ramp"`` (none) or ``"hann"``.
    cutoff : float
        Frequency, relative to Nyquist's, from which on the filter is zero.

    Raises
    ------
    InputError
        If `unseen`.
    """

    def __init__(
        self,
        ring: Geometry,
        grid: Grid,
        window: str,
        cutoff: float,
        counting: np.ndarray | None = None,
    ):
        self._pixels = np.flatnonzero(field_of_view(ring, grid))
        self._grid = grid
        radial_mm, angle = ring.radial_and_angle()
        self.angles = np.sort(angle[:, ring.central_bin])
        self.step_mm = np.abs(radial_mm).max() / ring.central_bin
        reach = int(np.abs(radial_mm[:, [0, -1]]).min() / self.step_mm)
        self.distances_mm = np.arange(-reach, reach + 1) * self.step_mm
        self._response = ramp_response(len(self.distances_mm), self.step_mm, window, cutoff)
        if counting is None:
            counting = ring.counting
        if problem := unseen(counting):
            raise InputError("scanner", problem, "give fewer gaps, or a larger radial_trim")
        self._arc_correction = arc_correction(
            radial_mm, angle, counting, self.angles, self.distances_mm
        )
        self._back = self._back_projection(grid.centres_mm)

    def _back_projection(self, centres_mm: np.ndarray) -> scipy.sparse.csr_array:
        """Matrix (pixel, view * distance): linear interpolation, times the views' spacing."""
        row, column = np.divmod(self._pixels, self._grid.size)
        x, y = centres_mm[column, None], centres_mm[row, None]
        position = (x * np.cos(self.angles) + y * np.sin(self.angles)) / self.step_mm
        position += len(self.distances_mm) // 2
        last = len(self.distances_mm) - 1
        position = np.clip(position, 0, last)
        first = np.minimum(position.astype(np.int32), last - 1)
        fraction = (position - first).astype(np.float32)
        first += np.arange(len(self.angles), dtype=np.int32) * len(self.distances_mm)
        # Angles are evenly spaced only on a circle; on a polygon each stands for its own share.
        around = np.concatenate([self.angles[-1:] - np.pi, self.angles, self.angles[:1] + np.pi])
        share = ((around[2:] - around[:-2]) / 2).astype(np.float32)
        weights = np.stack([(1 - fraction) * share, fraction * share], axis=-1)
        entries = 2 * len(self.angles)
        starts = np.arange(len(self._pixels) + 1, dtype=np.int32) * entries
        columns = np.stack([first, first + 1], axis=-1)
        shape = (len(self._pixels), len(self.angles) * len(self.distances_mm))
        return scipy.sparse.csr_array((weights.ravel(), columns.ravel(), starts), shape=shape)

    def __call__(self, line_integrals: np.ndarray) -> np.ndarray:
        """Reconstruct images (slice, y, x) from line integrals (slice, view, radial).

        Parameters
        ----------
        line_integrals : float32
            In mm times the image's unit: prompts less background, over factors and scale. Bins that
            count nothing may hold any finite number.
        """
        slices, angles = len(line_integrals), len(self.angles)
        parallel = self._arc_correction @ _columns(line_integrals)
        parallel = np.ascontiguousarray(parallel.T).reshape(slices, angles, -1)
        length = 2 * (len(self._response) - 1)
        spectrum = scipy.fft.rfft(parallel, length, axis=-1) * self._response
        filtered = scipy.fft.irfft(spectrum, length, axis=-1)[..., : len(self.distances_mm)]
        images = np.zeros((slices, self._grid.size**2), dtype=np.float32)
        images[:, self._pixels] = (self._back @ _columns(filtered)).T
        return images.reshape(slices, self._grid.size, self._grid.size)


def _columns(sinograms: np.ndarray) -> np.ndarray:
    """Matrix (view * distance, slice) of sinograms (slice, view, distance)."""
    return np.ascontiguousarray(sinograms.reshape(len(sinograms), -1).T)


def ramp_response(count: int, step_mm: float, window: str, cutoff: float) -> np.ndarray:
    """Frequency response (1/mm) of the band-limited ramp filter, for real FFTs.

    Kak and Slaney, "Principles of Computerized Tomographic Imaging", eq. 61: sampled in space, so
    that the zero frequency is right; padded to at least twice ``count``, so that nothing wraps.
    """
    length = scipy.fft.next_fast_len(2 * count, real=True)
    length += length % 2
    lag = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.zeros(length)
    kernel[0] = 1 / 4
    odd = lag % 2 == 1
    kernel[odd] = -1 / (np.pi * lag[odd]) ** 2
    response = scipy.fft.rfft(kernel).real / step_mm
    relative = np.linspace(0, 1, len(response)) / cutoff
    shape = {"ramp": np.ones_like(relative), "hann": 0.5 * (1 + np.cos(np.pi * relative))}[window]
    return (response * np.where(relative <= 1, shape, 0)).astype(np.float32)


def arc_correction(
    radial_mm: np.ndarray,
    angle: np.ndarray,
    counting: np.ndarray,
    angles: np.ndarray,
    distances_mm: np.ndarray,
) -> scipy.sparse.csr_array:
    """Linear interpolation from a scanner's LORs to parallel lines.

    Parameters
    ----------
    radial_mm, angle : arrays (view, radial)
        From `pipeline.tomography.scanners.Geometry.radial_and_angle`.
    counting : array (view, radial) of bool
        LORs that are used; of every radial bin two views at least.
    angles, distances_mm : arrays (view,), (distance,)
        The parallel lines.

    Returns
    -------
    csr_array (view * distance, view * radial), float32
    """
    views, bins = radial_mm.shape
    number = np.arange(views * bins).reshape(views, bins)
    used, opposite = _with_opposite(counting)
    distance = np.concatenate([-radial_mm[:, opposite], radial_mm, -radial_mm[:, opposite]])
    direction = np.concatenate([angle[:, opposite] - np.pi, angle, angle[:, opposite] + np.pi])
    lor = np.concatenate([number[:, opposite], number, number[:, opposite]])
    # In angle, bin by bin: lines at the wanted angle, their distances still the scanner's.
    lower, upper = (np.empty((views, bins), np.int64) for _ in range(2))
    part = np.empty((views, bins))
    for radial in range(bins):
        known = np.flatnonzero(used[:, radial])
        known = known[np.argsort(direction[known, radial], kind="stable")]
        first, part[:, radial] = bracket(direction[known, radial], angles)
        lower[:, radial], upper[:, radial] = known[first], known[first + 1]
    column = np.arange(bins)
    turned_mm = (1 - part) * distance[lower, column] + part * distance[upper, column]
    in_angle = _interpolation(
        [
            (lor[lower, column].ravel(), (1 - part).ravel()),
            (lor[upper, column].ravel(), part.ravel()),
        ],
        views * bins,
    )
    # In distance, view by view; a ring's distances may fall with the bin's number.
    entries = []
    for view in range(views):
        order = np.argsort(turned_mm[view])
        first, fraction = bracket(turned_mm[view][order], distances_mm)
        entries.append([view * bins + order[first], view * bins + order[first + 1], fraction])
    low, high, fraction = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    in_distance = _interpolation([(low, 1 - fraction), (high, fraction)], views * bins)
    product = (in_distance @ in_angle).astype(np.float32)
    return scipy.sparse.csr_array(
        (product.data, product.indices.astype(np.int32), product.indptr.astype(np.int32)),
        shape=product.shape,
    )


def unseen(counting: np.ndarray) -> str | None:
    """Say of which radial bins nothing is known, of bins (view, radial) that count, if of any.

    Of a bin between others in angle, two must be known.
    """
    used, _ = _with_opposite(counting)
    lost = np.flatnonzero(used.sum(axis=0) < 2)
    if not len(lost):
        return None
    bins = counting.shape[1]
    return f"has no views that count in {len(lost)} of {bins} radial bins, number {lost[0]} first"


def _with_opposite(counting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which bins count in one and a half turns, and the number of each bin's opposite.

    Half a turn on, the same lines come again, seen from the other side.
    """
    views, bins = counting.shape
    opposite = (2 * (bins // 2) - np.arange(bins)) % bins
    used = np.concatenate([counting[:, opposite], counting, counting[:, opposite]])
    used[:, 0] &= np.repeat([bins % 2 == 1, True, bins % 2 == 1], views)  # the odd one out has none
    return used, opposite


def bracket(increasing: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the value below each wanted one, and where between it and the next it lies."""
    first = np.clip(np.searchsorted(increasing, wanted) - 1, 0, len(increasing) - 2)
    gap = increasing[first + 1] - increasing[first]
    return first, np.clip((wanted - increasing[first]) / gap, 0, 1)


def _interpolation(
    entries: list[tuple[np.ndarray, np.ndarray]], columns: int
) -> scipy.sparse.csr_array:
    """Matrix whose row r holds ``weight[r]`` in ``column[r]`` for every (column, weight)."""
    rows = np.tile(np.arange(len(entries[0][0])), len(entries))
    column, weight = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    shape = (len(entries[0][0]), columns)
    return scipy.sparse.coo_array((weight, (rows, column)), shape=shape).tocsr()


def line_integrals(file: h5py.File, rows: slice) -> np.ndarray:
    """Line integrals (slice, view, radial) float32, in counts, of rows of an open file.

    Parameters
    ----------
    file : h5py.File
        Of kind `SINOGRAM` or `SCAN`: prompts less background, or trues, over factors; of a bin
        whose factor is 0 as it is.
    """
    trues = hdf5.finite(file["prompts" if "prompts" in file else "trues"], rows).astype(np.float32)
    trues -= hdf5.finite(file["background"], rows)
    factors = hdf5.finite(file["factors"], rows)
    return np.divide(trues, factors, out=trues, where=factors > 0)


def reconstruct_scan(
    scan: h5py.File, settings: FbpSettings, ring: Geometry, grid: Grid
) -> np.ndarray:
    """Reconstruct the images (slice, y, x) of an open file of `SCAN`, in counts per mm.

    Bins that count nothing in some slice are interpolated in all, those of gaps among them.

    Raises
    ------
    InputError
        If `unseen`.
    """
    parts = [np.s_[start : start + 25] for start in range(0, len(scan["factors"]), 25)]
    counting = np.ones((ring.views, ring.radial_bins), bool)
    for part in parts:
        counting &= (hdf5.finite(scan["factors"], part) > 0).all(axis=0)
    if problem := unseen(counting):
        raise InputError(
            scan.filename,
            f"{problem}, if in all slices the same ones are to count",
            "see whether its factors are right; a larger radial_trim leaves outer bins out; OSEM "
            "needs none of them: images: [osem]",
        )
    method = FilteredBackProjection(ring, grid, settings.window, settings.cutoff, counting)
    return np.concatenate([method(line_integrals(scan, part)) for part in parts])


def reconstruct(
    sinogram: Path, output: Path, settings: FbpSettings, ring: Geometry, grid: Grid
) -> None:
    """Rule ``fbp``: reconstruct a subject's slices, a rotation at a time.

    Parameters
    ----------
    settings : FbpSettings
    ring, grid
        The geometry.
    """
    method = FilteredBackProjection(ring, grid, settings.window, settings.cutoff)
    images = []
    with hdf5.opened(sinogram, SINOGRAM) as file:
        for name in ("prompts", "factors", "background"):
            hdf5.check_shape(file[name], (ring.views, ring.radial_bins))
        identity = identity_of(file)
        for rotation in np.unique(identity["rotation"]):
            rows = np.flatnonzero(identity["rotation"] == rotation)
            volume = np.s_[rows[0] : rows[-1] + 1]
            trues = line_integrals(file, volume)
            images.append(method(trues / hdf5.finite(file["scale"], volume)[:, None, None]))
        facts = {name: file.attrs[name] for name in SUBJECT_FACTS}
    hdf5.write(
        output,
        FBP,
        {"fbp": np.concatenate(images), **identity},
        hdf5.provenance(
            {"fbp": asdict(settings), "scanner": asdict(ring), "grid": asdict(grid)},
            device="cpu",
            **facts,
        ),
    )
