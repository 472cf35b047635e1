"""The sparse projector against the library parallelproj, where that is installed."""

import numpy as np
import pytest
import torch

from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.projectors import ParallelprojProjector, load
from pipeline.tomography.scanners import Ring

pytest.importorskip(
    "parallelproj_core", reason="parallelproj_core is not installed: see environment.yml"
)

MMR = Ring(blocks=56, crystals_per_block=9, radius_mm=328.0, pitch_mm=4.09, radial_trim=124)
MMR_GRID = Grid(256, 2.0863)
CPU = torch.device("cpu")
SLICES = 3


def norm_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module", params=["mmr", "mmr, coarse", "small"])
def pair(request, sparse, ring, grid):
    ring, grid, subsets = {
        "mmr": (MMR, MMR_GRID, 21),
        "mmr, coarse": (MMR, Grid(64, 8.3452), 12),
        "small": (ring, grid, 4),
    }[request.param]
    return sparse(ring, grid, subsets), ParallelprojProjector(ring, grid, subsets, CPU)


def inner(projector):
    """Pixels (y, x) with a border of zeros: there the two treat the image's end differently."""
    mask = np.zeros((projector.grid.size,) * 2, dtype=bool)
    mask[1:-1, 1:-1] = True
    return mask & field_of_view(projector.ring, projector.grid)


def test_forward_projections_agree(pair):
    sparse, library = pair
    size = sparse.grid.size
    images = np.random.default_rng(1).random((SLICES, size, size), dtype=np.float32)
    images *= inner(sparse)
    assert norm_error(sparse.project(images), library.project(images)) < 1e-5


def test_back_projections_agree_for_every_subset(pair):
    sparse, _ = pair
    rng = np.random.default_rng(2)
    lors = sparse.ring.views // sparse.subsets * sparse.ring.radial_bins
    for subset in range(sparse.subsets):
        y = torch.from_numpy(rng.random((lors, SLICES), dtype=np.float32))
        found, expected = (each.images(each.back(y, subset)) for each in pair)
        assert norm_error(found[:, inner(sparse)], expected[:, inner(sparse)]) < 1e-5


def test_the_library_projects_each_slice_of_a_stack_alone(pair):
    _, library = pair
    size = library.grid.size
    images = np.zeros((SLICES, size, size), np.float32)
    images[1] = inner(library)
    sinogram = library.project(images)
    assert not sinogram[[0, 2]].any()
    np.testing.assert_allclose(sinogram[1], library.project(images[1:2])[0], rtol=1e-5, atol=1e-3)


def test_the_library_is_loaded_by_name(ring, grid):
    projector = load("parallelproj", ring, grid, 4, None)
    assert (projector.name, projector.subsets) == ("parallelproj", 4)


@pytest.mark.parametrize(
    "scanner", [MMR, Ring(16, 8, 200.0, 9.95, 32), Ring(28, 9, 164.0, 4.09, 60)]
)
def test_lors_are_those_of_the_library_bin_by_bin(scanner):
    pytest.importorskip("parallelproj", reason="parallelproj is not installed: see environment.yml")
    from parallelproj.pet_lors import (
        Michelogram,
        RegularPolygonPETLORDescriptor,
        SinogramSpatialAxisOrder,
    )
    from parallelproj.pet_scanners import RegularPolygonPETScannerGeometry

    geometry = RegularPolygonPETScannerGeometry(
        np,
        "cpu",
        scanner.radius_mm,
        scanner.blocks,
        np.zeros(1, dtype=np.float32),
        2,  # coordinates are (x, y, z), the scanner's axis is z
        num_lor_endpoints_per_side=scanner.crystals_per_block,
        lor_spacing=scanner.pitch_mm,
    )
    descriptor = RegularPolygonPETLORDescriptor(
        geometry,
        Michelogram(1, 0, span=1),
        radial_trim=scanner.radial_trim,
        sinogram_order=SinogramSpatialAxisOrder.PVR,
    )
    for found, expected in zip(
        scanner.lors_mm(np.arange(scanner.views)), descriptor.get_lor_coordinates(), strict=True
    ):
        # The library computes them in single precision.
        np.testing.assert_allclose(found, expected[0, ..., :2], atol=1e-3)
