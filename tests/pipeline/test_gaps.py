"""A scanner with gaps, from simulated prompts to both images."""

import numpy as np
import pytest

from pipeline import fbp, osem
from pipeline.fbp import FbpSettings
from pipeline.osem import OsemSettings
from pipeline.sinogram import sinogram
from pipeline.storage import hdf5
from pipeline.storage.kinds import FBP, OSEM, SINOGRAM
from pipeline.tomography.forward_model import Simulation
from pipeline.tomography.scanners import Ring

pytestmark = pytest.mark.usefixtures("one_thread")

RING = Ring(16, 8, 200.0, 9.95, 32, gaps=[0, 5], first_end_point_deg=7.0)
ALL_PHYSICS = Simulation(
    prompts_per_slice=1e7,
    attenuation=True,
    psf_fwhm_mm=6.0,
    background_fraction=0.3,
    oversampling=1,
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, write_slices, sparse, grid, disc):
    """Sinograms of a disc of 100 in water, and that disc's middle."""
    folder = tmp_path_factory.mktemp("gaps")
    slices = write_slices(
        folder / "slices.h5", 100 * disc(grid, 70, (15, -20))[None], 0.096 * disc(grid, 95)[None]
    )
    sinogram(slices, folder / "sinogram.h5", ALL_PHYSICS, sparse(RING, grid, 8))
    x, y = np.meshgrid(grid.centres_mm, grid.centres_mm)
    return folder / "sinogram.h5", np.hypot(x - 15, y + 20) < 55


def test_gaps_count_nothing(measured):
    arrays, _ = hdf5.read(measured[0], SINOGRAM)
    for name in ("prompts", "factors", "background"):
        assert not arrays[name][0][~RING.counting].any()
        assert (arrays[name][0][RING.counting] > 0).mean() > 0.9
    total = arrays["prompts"].sum(dtype=np.int64)
    assert total == pytest.approx(ALL_PHYSICS.prompts_per_slice, rel=1e-3)
    assert arrays["background"].sum() == pytest.approx(0.3 * total, rel=1e-3)


def test_osem_is_right(measured, tmp_path, sparse, grid):
    path, middle = measured
    projector = sparse(RING, grid, 8)
    osem.reconstruct(path, tmp_path / "osem.h5", OsemSettings(8, 8), ALL_PHYSICS, projector)
    image = hdf5.read(tmp_path / "osem.h5", OSEM)[0]["osem"][0]
    assert image[middle].mean() == pytest.approx(100, rel=0.01)


def test_fbp_is_right(measured, tmp_path, grid):
    path, middle = measured
    fbp.reconstruct(path, tmp_path / "fbp.h5", FbpSettings("hann", 1.0), RING, grid)
    image = hdf5.read(tmp_path / "fbp.h5", FBP)[0]["fbp"][0]
    assert image[middle].mean() == pytest.approx(100, rel=0.01)


def test_osem_is_the_same_where_nothing_is_missing(tmp_path, sparse, grid, disc, write_slices):
    """Without gaps and attenuation there are no factors to read: as if they were all 1."""
    ring = Ring(16, 8, 200.0, 9.95, 32)
    slices = write_slices(tmp_path / "slices.h5", 100 * disc(grid, 70)[None])
    plain = Simulation(1e6, False, 0.0, 0.1, 1)
    sinogram(slices, tmp_path / "sinogram.h5", plain, sparse(ring, grid, 8))
    images = []
    for attenuation in (False, True):
        simulation = Simulation(1e6, attenuation, 0.0, 0.1, 1)
        path, projector = tmp_path / "sinogram.h5", sparse(ring, grid, 8)
        osem.reconstruct(path, tmp_path / "osem.h5", OsemSettings(2, 8), simulation, projector)
        images.append(hdf5.read(tmp_path / "osem.h5", OSEM)[0]["osem"])
    np.testing.assert_allclose(*images, rtol=1e-4, atol=1e-4)
