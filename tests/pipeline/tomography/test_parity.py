"""The sparse projector against the library parallelproj, where that is installed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.projectors import ParallelprojProjector, load
from pipeline.tomography.scanners import ParallelBeam, Placed, Ring

pytest.importorskip(
    "parallelproj_core", reason="parallelproj_core is not installed: see environment.yml"
)

MMR = Ring(blocks=56, crystals_per_block=9, radius_mm=328.0, pitch_mm=4.09, radial_trim=124)
MMR_GRID = Grid(256, 2.0863)
GAPPED = replace(MMR, gaps=[0], first_end_point_deg=0.0)
SIGNA = Ring(28, 16, 317.0, 4.03, 45, even_bins=True, first_end_point_deg=-5.23)
BEAM = ParallelBeam(60, 64, 4.0, -5.23)
PARALLEL = [
    *(BEAM, replace(BEAM, clockwise=False), ParallelBeam(60, 63, 4.0, 100.0)),
    ParallelBeam(48, 21, 4.0, 3.0),  # which do not reach the image's corners, nor its sides
]
CPU = torch.device("cpu")
SLICES = 3


def norm_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


COARSE = Grid(64, 8.3452)

SCANNERS = {
    "mmr": (MMR, MMR_GRID, 21),
    "mmr, coarse": (MMR, COARSE, 12),
    "mmr, gaps": (GAPPED, COARSE, 12),
    "mmr, even": (replace(GAPPED, radial_trim=79, even_bins=True), COARSE, 12),
    "mmr, prone": (Placed(GAPPED, "HFP"), COARSE, 12),
    "mmr, feet first": (Placed(GAPPED, "FFS"), COARSE, 12),
    "signa": (SIGNA, COARSE, 16),
    "parallel": (BEAM, Grid(64, 4.0), 4),
    "parallel, narrow": (PARALLEL[-1], Grid(64, 4.0), 4),
}


@pytest.fixture(scope="module", params=[*SCANNERS, "small"])
def pair(request, sparse, ring, grid):
    ring, grid, subsets = {**SCANNERS, "small": (ring, grid, 4)}[request.param]
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


RINGS = [
    *(MMR, Ring(16, 8, 200.0, 9.95, 32), Ring(28, 9, 164.0, 4.09, 60)),
    *(GAPPED, replace(GAPPED, radial_trim=79, even_bins=True), SIGNA),
    replace(SIGNA, first_end_point_deg=-178.143, even_bins=False, gaps=[0, 15]),
]


def described(ring):
    """The library's description of the LORs of a ring, an odd number of bins."""
    pytest.importorskip("parallelproj", reason="parallelproj is not installed: see environment.yml")
    from parallelproj.pet_lors import (
        Michelogram,
        RegularPolygonPETLORDescriptor,
        SinogramSpatialAxisOrder,
    )
    from parallelproj.pet_scanners import RegularPolygonPETScannerGeometry

    phi0 = 0.0
    if ring.first_end_point_deg is not None:
        # It turns the middle of the first side to phi0; the first end point is half a side before.
        half_mm = (ring.crystals_per_block - 1) / 2 * ring.pitch_mm
        phi0 = np.deg2rad(ring.first_end_point_deg) + np.arctan(half_mm / ring.radius_mm)
    geometry = RegularPolygonPETScannerGeometry(
        np,
        "cpu",
        ring.radius_mm,
        ring.blocks,
        np.zeros(1, dtype=np.float32),
        2,  # coordinates are (x, y, z), the scanner's axis is z
        num_lor_endpoints_per_side=ring.crystals_per_block,
        lor_spacing=ring.pitch_mm,
        phi0=float(phi0),
    )
    return RegularPolygonPETLORDescriptor(
        geometry,
        Michelogram(1, 0, span=1),
        radial_trim=ring.radial_trim,
        sinogram_order=SinogramSpatialAxisOrder.PVR,
    )


@pytest.mark.parametrize("ring", RINGS)
def test_lors_are_those_of_the_library_bin_by_bin(ring):
    library = described(ring).get_lor_coordinates()
    for found, expected in zip(ring.lors_mm(np.arange(ring.views)), library, strict=True):
        # The library computes them in single precision; of an even number the last is left out.
        wanted = expected[0, :, : ring.radial_bins, :2]
        assert expected.shape[2] == ring.radial_bins + ring.even_bins
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("ring", RINGS)
def test_gaps_are_the_lors_that_end_in_them(ring):
    library = described(ring)
    ends = (library.start_in_ring_index, library.end_in_ring_index)
    missing = [np.isin(end % ring.crystals_per_block, ring.gaps) for end in ends]
    expected = ~(missing[0] | missing[1])[:, : ring.radial_bins]
    assert np.array_equal(ring.counting, expected)
    assert expected.all() == (not ring.gaps)


@pytest.mark.parametrize("beam", PARALLEL)
def test_parallel_lines_are_those_of_the_library(sparse, beam):
    pytest.importorskip("parallelproj", reason="parallelproj is not installed: see environment.yml")
    from parallelproj.projectors import ParallelViewProjector2D

    projector, grid = sparse(beam, Grid(64, 4.0), 4), Grid(64, 4.0)
    turns = np.arange(beam.angles) * np.pi / beam.angles * (1 if beam.clockwise else -1)
    # Its images are (x, y), its angles run from x against ours, and it needs a radius.
    library = ParallelViewProjector2D(
        (grid.size,) * 2,
        ((np.arange(beam.bins) - beam.bins // 2) * beam.bin_mm).astype(np.float32),
        -(np.deg2rad(beam.first_angle_deg) + turns).astype(np.float32),
        1000.0,
        (float(grid.centres_mm[0]),) * 2,
        (grid.pixel_mm,) * 2,
    )
    images = np.random.default_rng(3).random((1, grid.size, grid.size), dtype=np.float32)
    images *= inner(projector)
    expected = library(np.ascontiguousarray(images[0].T)).T
    assert norm_error(projector.project(images)[0], expected) < 1e-5
