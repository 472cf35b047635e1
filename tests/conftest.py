"""What several tests share: a small scanner, its projector, objects, files, one run of the DAG."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from helpers.workflow import SUBJECTS, cannot_be_offline, once, snakemake, workplace
from pipeline.storage import hdf5
from pipeline.storage.kinds import SINOGRAM, SLICES
from pipeline.tomography.geometry import Grid
from pipeline.tomography.projectors import SparseProjector
from pipeline.tomography.scanners import Ring
from pipeline.tomography.system_matrix import system_matrices

# How long an example takes is up to the machine, and to what else it does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=5, help="kills of the workflow by test_faults.py")


@pytest.fixture(scope="module")
def one_thread():
    """Keep torch to one thread: many small products are slow where other processes want cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ring():
    """128 end points, 64 views, 63 radial bins."""
    return Ring(blocks=16, crystals_per_block=8, radius_mm=200, pitch_mm=9.95, radial_trim=32)


@pytest.fixture(scope="session")
def grid():
    return Grid(64, 4.1726)


@pytest.fixture(scope="session")
def fine_ring():
    """252 end points, 126 views, 131 radial bins: for closed forms."""
    return Ring(blocks=28, crystals_per_block=9, radius_mm=164, pitch_mm=4.09, radial_trim=60)


@pytest.fixture(scope="session")
def fine_grid():
    return Grid(128, 1.5)


@pytest.fixture(scope="session")
def sparse():
    """Build the sparse projector of (ring, grid, subsets) on the CPU; each is built once."""

    @functools.cache
    def build(ring, grid, subsets=1):
        matrices = system_matrices(ring, grid, subsets)
        return SparseProjector(ring, grid, *matrices, torch.device("cpu"))

    return build


@pytest.fixture(scope="session")
def disc():
    """Draw a disc of value 1 as float32 (y, x): the part of each pixel's area that it covers.

    The areas are exact along x, and sums of 16 lines along y.
    """

    def draw(grid, radius_mm, centre_mm=(0.0, 0.0)):
        lines = 16
        edges = (np.arange(grid.size + 1) - grid.size / 2) * grid.pixel_mm
        y = (np.arange(grid.size * lines) + 0.5) * grid.pixel_mm / lines + edges[0]
        half = np.sqrt(np.clip(radius_mm**2 - (y - centre_mm[1]) ** 2, 0, None))[:, None]
        inside = np.clip(edges, centre_mm[0] - half, centre_mm[0] + half)
        covered = np.diff(inside, axis=1) / grid.pixel_mm
        return covered.reshape(grid.size, lines, grid.size).mean(axis=1).astype(np.float32)

    return draw


FACTS = {
    "seed": 1,
    "subject": "subject04",
    "source": "test",
    "labels_sha256": "-",
    "pixel_mm": 1.0,
    "slice_mm": 1.0,
    "orientation": "LPS",
}


SIMULATED = {
    "geometry": "{}",
    "attenuation": False,
    "psf_fwhm_mm": 0.0,
    "background_fraction": 0.0,
}


def identity(rotation):
    rotation = np.asarray(rotation)
    index = [np.count_nonzero(rotation[:n] == rotation[n]) for n in range(len(rotation))]
    return {
        "rotation": rotation.astype(np.uint8),
        "rotation_deg": rotation.astype(np.float32),
        "slice_index": np.array(index, np.int16),
    }


@pytest.fixture(scope="session")
def write_slices():
    """Write activity and attenuation (slice, y, x) as a file of rule ``slices``."""

    def write(path, activity, attenuation=None, rotation=None, oversampling=1, **facts):
        arrays = {
            "activity": activity.astype(np.float32),
            "attenuation": np.zeros_like(activity) if attenuation is None else attenuation,
            "labels": np.zeros_like(activity[:, ::oversampling, ::oversampling], np.uint8),
            **identity(np.zeros(len(activity)) if rotation is None else rotation),
        }
        facts = FACTS | {"oversampling": oversampling} | facts
        hdf5.write(path, SLICES, arrays, hdf5.provenance({}, **facts))
        return path

    return write


@pytest.fixture(scope="session")
def write_sinogram():
    """Write prompts without noise, ``scale * factors * line_integrals + background``."""

    def write(path, line_integrals, scale, factors=1.0, background=0.0, rotation=None):
        count = len(line_integrals)
        factors = np.broadcast_to(np.float32(factors), line_integrals.shape)
        trues = scale * factors.astype(np.float64) * line_integrals
        arrays = {
            "prompts": np.rint(trues + background).astype(np.uint32),
            "factors": factors,
            "background": np.full(factors.shape, background, np.float32),
            "scale": np.full(count, scale, np.float32),
            **identity(np.zeros(count) if rotation is None else rotation),
        }
        hdf5.write(path, SINOGRAM, arrays, hdf5.provenance({}, **FACTS, **SIMULATED))
        return path

    return write


@pytest.fixture(scope="session")
def quarter_turn():
    """Turn sinograms (slice, view, radial) by 90 degrees from x to y, by moving LORs.

    Exact on a ring whose number of blocks is a multiple of 4.
    """

    def turn(sinograms):
        half = sinograms.shape[1] // 2
        # Beyond the last view the same lines come again, seen from the other side.
        return np.concatenate([sinograms[:, half:, ::-1], sinograms[:, :half]], axis=1)

    return turn


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole DAG has run on two cores, all but `fetch` without network.

    Where there is no doing without, its test is skipped and says why.
    """

    def make(folder: Path) -> None:
        workplace(folder)
        labels = [f"data/labels/mni152/{subject}.h5" for subject in SUBJECTS]
        fetched = snakemake(folder, "--cores", "2", "--", *labels)
        assert fetched.returncode == 0, fetched.stdout[-4000:]
        result = snakemake(folder, "--cores", "2", offline=not cannot_be_offline())
        assert result.returncode == 0, result.stdout[-4000:]
        (folder / "after_fetch.log").write_text(result.stdout)

    return once(tmp_path_factory, "dag", make)


@pytest.fixture(scope="session")
def report(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run, alone in a folder: what it needs from elsewhere is missing."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    result = snakemake(finished, "--cores", "1", "--report", str(path))
    assert result.returncode == 0, result.stdout[-3000:]
    return path
