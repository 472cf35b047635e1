"""Memory that jobs ask for (``mem_mb``), from the configuration: rules that use no network.

A function a rule, of its name. Each counts the rule's libraries and the arrays that it holds at its
peak, as its code makes them: the comments say which, in bytes a number of them. A quarter more is
asked for, since allocators keep what was freed and libraries grow; and what Snakemake's own
processes take, which a cluster counts with the job that they start. ``python -m benchmarks.memory``
measures the peaks, and the tests compare.

All in MB of 1e6 bytes, as Snakemake has them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.sources.registry import facts
from pipeline.tomography.geometry import field_of_view, grid_from
from pipeline.tomography.scanners import scanner_from

Config = Mapping[str, Any]

SNAKEMAKE_MB = 280
"""Two processes of Snakemake that start a job on a cluster's node, measured, 140 each."""

MARGIN = 1.25

PLAIN_MB, IMAGES_MB, TORCH_MB = 70, 100, 280
"""Python with h5py; SciPy or Matplotlib besides; PyTorch. Measured on Linux, x86-64, in the
smallest jobs."""

OSEM_SLICES = 32
"""`pipeline.osem.SLICES_AT_A_TIME`, which cannot be had without importing PyTorch."""


def asked(libraries_mb: float, held_bytes: float) -> int:
    """Give ``mem_mb`` for a job that holds so much at its peak."""
    return math.ceil(SNAKEMAKE_MB + MARGIN * (libraries_mb + held_bytes / 1e6))


# --- data --------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Numbers of the arrays of one subject.

    Attributes
    ----------
    slices, volume_slices : int
        Of all rotations, and of one.
    bins : int
        Of a sinogram.
    pixels, fine_pixels : int
        Of a slice on the reconstruction's grid, and on the simulation's.
    seen : int
        Pixels of the reconstruction's grid in the field of view.
    subsets, views : int
    """

    slices: int
    volume_slices: int
    bins: int
    pixels: int
    fine_pixels: int
    seen: int
    subsets: int
    views: int


def data_of(config: Config) -> Data:
    """Count the arrays of one subject."""
    ring, grid, slices_ = scanner_from(config["scanner"]), grid_from(config), config["slices"]
    return Data(
        slices=slices_["rotations"] * slices_["per_volume"],
        volume_slices=slices_["per_volume"],
        bins=ring.views * ring.radial_bins,
        pixels=grid.size**2,
        fine_pixels=(grid.size * config["simulation"]["oversampling"]) ** 2,
        seen=int(field_of_view(ring, grid).sum()),
        subsets=config["osem"]["subsets"],
        views=ring.views,
    )


def largest_of(config: Config) -> Data:
    """Count those of a subject's slices or, if these are more, of its lesions."""
    data, lesions = data_of(config), config["lesions"]
    copies = max(data.volume_slices, 2 * lesions["draws"] * lesions["per_volume"])
    return data._replace(slices=config["slices"]["rotations"] * copies, volume_slices=copies)


def entries(config: Config, oversampling: int) -> int:
    """Bound the non-zeros of one direction of the system matrix.

    A LOR meets two pixels of each plane that it crosses inside the field of view: of a circle as
    wide as the image on average pi / 4 of its planes, and of these 0.9 (the mean of the larger of
    cosine and sine) for the angle to the axes.
    """
    ring, size = scanner_from(config["scanner"]), config["slices"]["size"] * oversampling
    return round(2 * size * ring.views * ring.radial_bins * math.pi / 4 * 0.9)


def _voxels(config: Config) -> int:
    """Of a label volume."""
    return math.prod(facts(config["source"]).shape)


def _plane_pixels(config: Config) -> int:
    """Of an axial plane of a label volume."""
    return math.prod(facts(config["source"]).shape[1:])


def fetch(config: Config) -> int:
    """Labels of a subject, as its source holds them."""
    return asked(PLAIN_MB, facts(config["source"]).bytes_per_voxel * _voxels(config))


def phantom(config: Config) -> int:
    """Activity, attenuation and labels of a whole head."""
    # Labels as stored and turned, 1 + 1; activity and attenuation, 4 + 4; the check of 1; or, of
    # activity alone, texture: noise, smoothed noise, and three products of 4.
    per_voxel = 26 if config["texture"]["fraction"] > 0 else 11
    return asked(IMAGES_MB, per_voxel * _voxels(config))


def slices(config: Config) -> int:
    """All rotations of a subject's slices."""
    data = data_of(config)
    # Labels, and three masks of them; planes of a volume, averaged along three axes (4 each);
    # activity, attenuation and the parts of the latter, 4 each, the check of 1.
    held = 4 * _voxels(config) + 12 * data.volume_slices * _plane_pixels(config)
    held += 13 * data.slices * data.fine_pixels + 2 * data.slices * data.pixels
    return asked(IMAGES_MB, held)


def system_matrix(config: Config, oversampling: int) -> int:
    """Both directions of the projector."""
    # Weight and column, 4 + 4, of both directions, once a subset and once joined; the check of 1.
    # Row starts: as counted by SciPy (4), as stored and joined (8 + 8).
    scanner, grid = scanner_from(config["scanner"]), grid_from(config).finer(oversampling)
    rows = config["osem"]["subsets"] * int(field_of_view(scanner, grid).sum())
    return asked(TORCH_MB, 33 * entries(config, oversampling) + 20 * rows)


def _loaded_matrix(config: Config, oversampling: int) -> int:
    """Bytes of the projector: weights and columns of both directions, and the check of one."""
    return 17 * entries(config, oversampling)


def sinogram(config: Config, projector: str) -> int:
    """Prompts of a subject's slices, by the projector "sparse" or "parallelproj"."""
    data = data_of(config)
    matrix = _loaded_matrix(config, config["simulation"]["oversampling"])
    # Prompts, factors and background, 4 each; the check of 1. Of one volume: these, trues, their
    # parts, what is expected, counts and their stack, 4 each; images as read, of the field of view,
    # and, blurred, twice more.
    held = 13 * data.slices * data.bins + 32 * data.volume_slices * data.bins
    held += 16 * data.volume_slices * data.fine_pixels
    return asked(TORCH_MB, held + (matrix if projector == "sparse" else 0))


def thin(config: Config) -> int:
    """Prompts of a subject's slices at a lower dose."""
    data = data_of(config)
    # Prompts, joined too, and background, as read and thinned: 4 each; the check of 1.
    return asked(PLAIN_MB, 17 * data.slices * data.bins)


def lesions(config: Config) -> int:
    """A subject's slices without and with lesions, in all copies."""
    data, all_copies = data_of(config), largest_of(config).slices
    # Activity and attenuation (4 + 4), labels and mask (1 + 1), by slices and joined; checks of 1.
    # The labels of all slices.
    held = all_copies * (17 * data.fine_pixels + 6 * data.pixels)
    return asked(IMAGES_MB, held + 2 * data.slices * data.pixels)


def lesion_sinogram(config: Config, projector: str) -> int:
    """Prompts of a subject's slices without and with lesions."""
    data, all_copies = data_of(config), largest_of(config).slices
    # Prompts, factors and background, 4 each, by slices and joined; the check of 1. Of one slice
    # means, ratios and counts of 8 each.
    held = (25 * all_copies + 80) * data.bins + 40 * data.fine_pixels
    matrix = _loaded_matrix(config, config["simulation"]["oversampling"])
    return asked(TORCH_MB, held + (matrix if projector == "sparse" else 0))


def osem(config: Config, projector: str) -> int:
    """OSEM images of a subject's slices."""
    data = largest_of(config)
    count = min(OSEM_SLICES, data.slices)
    counting = scanner_from(config["scanner"]).counting
    weighted = config["simulation"]["attenuation"] or not counting.all()
    # Images of all slices, by parts and joined, 4 + 4, the check of 1; of the slices at a time
    # prompts and background, as read and by subsets, of this and the last time (4 each), and so for
    # factors if they are not 1; sensitivities, and one over them (4 + 4), of each subset, of every
    # slice if they have factors; some images.
    held = 9 * data.slices * data.pixels + 16 * count * data.bins * (3 if weighted else 2)
    held += 8 * data.subsets * data.seen * (count if weighted else 1)
    held += 20 * count * data.pixels
    # The matrix, and what is left of it without LORs that have no count, 3/4 at most.
    matrix = 7 * _loaded_matrix(config, 1) // 4
    return asked(TORCH_MB, held + (matrix if projector == "sparse" else 0))


def classical(config: Config, projector: str) -> int:
    """Filtered OSEM or MAP images of a subject, or of the slices that settings are chosen by."""
    data = largest_of(config)
    count = min(OSEM_SLICES, data.slices)
    # As OSEM's, whose factors are always read, and again times the scale. Of each subset and slice
    # sensitivities, and gradients of three images: of the last, of one that was turned down, and of
    # that in its place; some more images.
    held = 9 * data.slices * data.pixels + 20 * count * data.bins * 3
    held += 16 * data.subsets * data.seen * count + 80 * count * data.pixels
    return asked(TORCH_MB, held + (_loaded_matrix(config, 1) if projector == "sparse" else 0))


def consistency(config: Config, slices: int) -> int:
    """Bytes of EM steps on images of some slices; of the projector as if it were the sparse one."""
    data = data_of(config)
    # Prompts, factors and background, as read and by subsets (4 each), expected ones and ratios;
    # sensitivities of each subset, and some images.
    held = slices * (32 * data.bins + 4 * data.subsets * data.seen + 32 * data.pixels)
    return held + _loaded_matrix(config, 1)


def classical_curves(_config: Config) -> int:
    """Draw what was compared: a figure with hundreds of points."""
    return asked(IMAGES_MB, 20e6)


def fbp(config: Config) -> int:
    """FBP images of a subject's slices."""
    data = largest_of(config)
    entries = data.seen * data.views
    # The back projection has two entries of 4 + 4 for each pixel and view; positions (8), their
    # whole and broken parts (4 + 4) and a product (4) exist while it is made.
    made = 36 * entries
    # Sinograms of a volume: prompts, background, factors, trues and their quotient, transposed, 4
    # each; their spectra, of twice the length, before and after the filter (8 + 8), and what comes
    # back.
    held = 16 * entries + 52 * data.volume_slices * data.bins + 9 * data.slices * data.pixels
    return asked(IMAGES_MB, max(made, held))


def shard(config: Config) -> int:
    """A subject's files as one: chunks are copied, unless the truth is averaged to the pixels."""
    data = largest_of(config)
    fine = 5 * data.slices * data.fine_pixels if data.fine_pixels > data.pixels else 0
    return asked(PLAIN_MB, fine + 5 * data.slices * data.pixels)


SCAN_PLANES = 300
"""Of a measured scan; those of total-body scanners have more, and need more than is asked for."""


def import_scan(config: Config, file_bytes: Sequence[int]) -> int:
    """Sinograms of a scan, rebinned in 64 bits, and what is made of them.

    ``file_bytes`` are the lengths of its files, which may hold many sinograms of each plane.
    """
    # Numbers of 2 bytes are mapped from the file and, if it has a scale factor or time of flight,
    # copied as 4 at most; of the prompts all the while, and of one other file at a time.
    held = 3 * sum(sorted(file_bytes)[-2:])
    return asked(IMAGES_MB, 60 * SCAN_PLANES * data_of(config).bins + held)


def scan_matrix(config: Config) -> int:
    """Bytes of the projector of a scan while it is made."""
    return 50 * entries(config, 1)


def scan_images(config: Config) -> int:
    """OSEM or FBP images of a scan, with its matrix."""
    data = data_of(config)
    matrix = scan_matrix(config) + 36 * data.seen * data.views
    held = 12 * SCAN_PLANES * data.pixels + 48 * OSEM_SLICES * data.bins
    return asked(TORCH_MB, matrix + held + 8 * data.subsets * data.seen * OSEM_SLICES)


def preview(config: Config) -> int:
    """Six images of each of the three or four datasets of a file, with their colours."""
    data = data_of(config)
    largest = max(_plane_pixels(config), data.bins, data.fine_pixels)
    return asked(IMAGES_MB, 6 * 4 * 20 * largest)


def provenance(config: Config) -> int:
    """Hashes of all files, a part at a time."""
    return asked(PLAIN_MB, 0)
