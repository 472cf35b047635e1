import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage.errors import InputError
from pipeline.tomography import system_matrix
from pipeline.tomography.backend import device_for, resolve
from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.projectors import ParallelprojProjector, load
from pipeline.tomography.scanners import Ring
from pipeline.tomography.system_matrix import system_matrices

pytestmark = pytest.mark.usefixtures("one_thread")

SUBSETS = 4

# Joseph's sum over the pixel planes misses an edge by up to about 0.2 pixels, wherever it crosses
# it: chords agree to 1e-3 LOR by LOR only if they are some hundred pixels long. Few LORs keep such
# a fine grid cheap.
CHORD_RING = Ring(blocks=18, crystals_per_block=6, radius_mm=164, pitch_mm=9.6, radial_trim=25)
CHORD_GRID = Grid(768, 0.25)
MMR = Ring(blocks=56, crystals_per_block=9, radius_mm=328.0, pitch_mm=4.09, radial_trim=124)


def norm_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def disc_chords(ring, radius_mm, centre_mm):
    """Chords of a disc, and distances of the LORs from its centre in radii."""
    radial_mm, angle = ring.radial_and_angle()
    distance = radial_mm - centre_mm[0] * np.cos(angle) - centre_mm[1] * np.sin(angle)
    chords = 2 * np.sqrt(np.clip(radius_mm**2 - distance**2, 0, None))
    return chords, np.abs(distance) / radius_mm


def box_chords(ring, half_x_mm, half_y_mm):
    """Chords of a box, and distances of the LORs from its nearest corner in mm."""
    radial_mm, angle = ring.radial_and_angle()
    cos, sin = np.cos(angle), np.sin(angle)
    sides = np.array([-1.0, 1.0])[:, None, None]
    with np.errstate(divide="ignore"):
        # Where the point (radial cos - t sin, radial sin + t cos) of the line meets each side.
        x_sides = (radial_mm * cos - sides * half_x_mm) / sin
        y_sides = (sides * half_y_mm - radial_mm * sin) / cos
    enter = np.maximum(x_sides.min(axis=0), y_sides.min(axis=0))
    leave = np.minimum(x_sides.max(axis=0), y_sides.max(axis=0))
    corners = [
        np.abs(x * cos + y * sin - radial_mm)
        for x in (-half_x_mm, half_x_mm)
        for y in (-half_y_mm, half_y_mm)
    ]
    return np.clip(leave - enter, 0, None), np.min(corners, axis=0)


@pytest.fixture(scope="module")
def projector(sparse, ring, grid):
    return sparse(ring, grid, SUBSETS)


def random_pair(projector, seed, draw):
    rng = np.random.default_rng(seed)
    lors = projector.ring.views // projector.subsets * projector.ring.radial_bins
    pixels = int(field_of_view(projector.ring, projector.grid).sum())
    arrays = (getattr(rng, draw)(size=(count, 3)).astype(np.float32) for count in (pixels, lors))
    return [torch.from_numpy(array) for array in arrays]


@given(seed=st.integers(0, 2**32 - 1), subset=st.integers(0, SUBSETS - 1))
@settings(deadline=None, max_examples=12)
def test_back_is_the_adjoint_of_forward(projector, seed, subset):
    x, y = random_pair(projector, seed, "uniform")
    left = (projector.forward(x, subset).double() * y).sum()
    right = (x.double() * projector.back(y, subset)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-5)
    # With both signs the products nearly cancel: the error is then relative to the factors.
    x, y = random_pair(projector, seed, "normal")
    projected = projector.forward(x, subset).double()
    difference = (projected * y).sum() - (x.double() * projector.back(y, subset)).sum()
    assert abs(float(difference)) < 1e-5 * float(projected.norm() * y.norm())


@pytest.mark.parametrize(
    ("radius_mm", "centre_mm"), [(80, (0.0, 0.0)), (75, (3.3, -6.1)), (55, (-20.2, 17.7))]
)
def test_line_integrals_of_a_disc_are_its_chords(sparse, disc, radius_mm, centre_mm):
    found = sparse(CHORD_RING, CHORD_GRID).project(disc(CHORD_GRID, radius_mm, centre_mm)[None])[0]
    chords, distance = disc_chords(CHORD_RING, radius_mm, centre_mm)
    # Near the rim a chord is short and the rim grazes it; outside there is nothing to see.
    interior = distance < 0.8
    assert interior.sum() > 500
    np.testing.assert_allclose(found[interior], chords[interior], rtol=1e-3)
    assert (found[distance > 1 + 2 * CHORD_GRID.pixel_mm / radius_mm] == 0).all()


def test_line_integrals_of_a_box_are_its_chords(sparse):
    half_x, half_y = 230, 150  # pixels
    image = np.zeros((1, CHORD_GRID.size, CHORD_GRID.size), np.float32)
    middle = CHORD_GRID.size // 2
    image[0, middle - half_y : middle + half_y, middle - half_x : middle + half_x] = 1
    found = sparse(CHORD_RING, CHORD_GRID).project(image)[0]
    half_mm = half_x * CHORD_GRID.pixel_mm, half_y * CHORD_GRID.pixel_mm
    chords, from_corner_mm = box_chords(CHORD_RING, *half_mm)
    interior = (from_corner_mm > 2 * CHORD_GRID.pixel_mm) & (chords > half_mm[1])
    assert interior.sum() > 500
    np.testing.assert_allclose(found[interior], chords[interior], rtol=1e-3)


def test_line_integrals_at_the_papers_pixel_size_are_chords_on_average(sparse, disc):
    ring, grid = Ring(28, 9, 328.0, 8.18, 60), Grid(256, 2.0863)
    found = sparse(ring, grid).project(disc(grid, 150, (4.0, -3.0))[None])[0]
    chords, distance = disc_chords(ring, 150, (4.0, -3.0))
    interior = distance < 0.8
    error = found[interior] - chords[interior]
    assert np.abs(error).max() < 0.5 * grid.pixel_mm  # a quarter where it enters, and leaves
    assert norm_error(found[interior], chords[interior]) < 1e-3
    # The errors of single LORs have both signs: no bias.
    assert abs(error.sum() / chords[interior].sum()) < 1e-4


def test_a_point_appears_where_its_coordinates_say(projector, ring, grid):
    image = np.zeros((1, grid.size, grid.size), np.float32)
    row, column = 40, 21
    image[0, row, column] = 1
    x, y = grid.centres_mm[column], grid.centres_mm[row]
    sinogram = projector.project(image)[0]
    radial_mm, angle = ring.radial_and_angle()
    distance = np.abs(radial_mm - x * np.cos(angle) - y * np.sin(angle))
    assert (sinogram[distance > np.sqrt(2) * grid.pixel_mm] == 0).all()
    assert (sinogram[distance < 0.5 * grid.pixel_mm] > 0).all()


def test_a_turned_image_has_the_turned_sinogram(projector, grid, quarter_turn):
    images = np.random.default_rng(4).random((2, grid.size, grid.size), dtype=np.float32)
    turned = projector.project(np.rot90(images, -1, axes=(1, 2)).copy())  # clockwise: x to y
    expected = quarter_turn(projector.project(images))
    assert norm_error(turned, expected) < 1e-5


def test_the_views_of_all_subsets_are_the_views_of_one(sparse, projector, ring, grid):
    images = np.random.default_rng(1).random((3, grid.size, grid.size), dtype=np.float32)
    whole = sparse(ring, grid)
    sinogram = whole.project(images)
    np.testing.assert_allclose(projector.project(images), sinogram, rtol=1e-6)
    parts = [projector.back(projector.lors(sinogram, s), s) for s in range(SUBSETS)]
    together = whole.back(whole.lors(sinogram, 0), 0)
    np.testing.assert_allclose(sum(parts), together, rtol=1e-5)


def test_taking_a_sinogram_apart_into_subsets_and_together_again_changes_nothing(projector, ring):
    shape = (2, ring.views, ring.radial_bins)
    sinogram = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    parts = [projector.lors(sinogram, subset) for subset in range(SUBSETS)]
    np.testing.assert_array_equal(projector.sinograms(parts), sinogram)
    np.testing.assert_array_equal(parts[1][: ring.radial_bins, 1], sinogram[1, 1])


@given(seed=st.integers(0, 2**32 - 1), part=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
@settings(deadline=None, max_examples=12)
def test_a_projector_of_fewer_lors_leaves_out_the_others(projector, ring, grid, seed, part):
    rng = np.random.default_rng(seed)
    marked = rng.random((ring.views, ring.radial_bins)) < part
    marked[1::SUBSETS] = False  # a subset without any
    few = projector.of_lors(marked)
    images = rng.random((3, grid.size, grid.size), dtype=np.float32)
    np.testing.assert_array_equal(few.project(images), projector.project(images) * marked)
    sinogram = rng.random((3, ring.views, ring.radial_bins), dtype=np.float32)
    for subset in range(SUBSETS):
        found = few.back(few.lors(sinogram, subset), subset)
        expected = projector.back(projector.lors(sinogram * marked, subset), subset)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="left out already"):
        few.of_lors(marked)
    everything = projector.of_lors(np.ones_like(marked))
    np.testing.assert_array_equal(everything.project(images), projector.project(images))


def test_parallelproj_is_given_the_marked_lors_alone(monkeypatch, ring, grid):
    def forward(start, end, volume, origin, voxel, lors):
        lors[:] = (start * end).sum(axis=-1)  # of each LOR another number

    def back(start, end, volume, origin, voxel, values):
        volume += ((start + end).sum(axis=-1) * values).sum(axis=1)[:, None, None]

    library = types.SimpleNamespace(joseph3d_fwd=forward, joseph3d_back=back)
    monkeypatch.setitem(sys.modules, "parallelproj_core", library)
    projector = ParallelprojProjector(ring, grid, SUBSETS, torch.device("cpu"))
    rng = np.random.default_rng(0)
    marked = rng.random((ring.views, ring.radial_bins)) < 0.3
    few, images = projector.of_lors(marked), np.zeros((2, grid.size, grid.size), np.float32)
    np.testing.assert_array_equal(few.project(images), projector.project(images) * marked)
    sinogram = rng.random((2, ring.views, ring.radial_bins), dtype=np.float32)
    found = few.back(few.lors(sinogram, 1), 1)
    expected = projector.back(projector.lors(sinogram * marked, 1), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@given(count=st.integers(1, 30), chosen=st.integers(0, 29))
@settings(deadline=None, max_examples=10)
def test_a_slice_projects_the_same_alone_and_in_a_stack(projector, grid, count, chosen):
    chosen %= count
    images = np.random.default_rng(count).random((count, grid.size, grid.size), dtype=np.float32)
    alone = projector.project(images[chosen : chosen + 1])[0]
    np.testing.assert_allclose(projector.project(images)[chosen], alone, rtol=1e-5)


def test_pixels_outside_the_field_of_view_are_neither_seen_nor_filled(projector, ring, grid):
    inside = field_of_view(ring, grid)
    outside = np.where(inside, 0, 1).astype(np.float32)[None]
    assert not projector.project(outside).any()
    ones = np.ones((1, ring.views, ring.radial_bins), np.float32)
    filled = projector.images(projector.back(projector.lors(ones, 0), 0))[0]
    assert (filled[~inside] == 0).all()
    assert (filled[inside] > 0).all()


def test_images_return_from_columns_unchanged(projector, ring, grid):
    images = np.random.default_rng(2).random((2, grid.size, grid.size), dtype=np.float32)
    returned = projector.images(projector.columns(images))
    np.testing.assert_array_equal(returned, images * field_of_view(ring, grid))


def test_results_do_not_depend_on_the_number_of_threads(sparse, fine_ring, fine_grid):
    projector = sparse(fine_ring, fine_grid, 2)
    size = fine_grid.size
    images = np.random.default_rng(3).random((20, size, size), dtype=np.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sinogram = projector.project(images)
            results.append((sinogram, projector.back(projector.lors(sinogram, 1), 1).numpy()))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_projector_read_from_its_file_is_the_one_that_was_written(tmp_path, projector):
    ring, grid = projector.ring, projector.grid
    system_matrix.write(tmp_path / "matrix.h5", ring, grid, SUBSETS)
    read = load("sparse", ring, grid, SUBSETS, tmp_path / "matrix.h5")
    assert (read.name, read.subsets) == ("sparse", SUBSETS)
    for subset in range(SUBSETS):
        x, y = random_pair(projector, subset, "uniform")
        for found, expected in (
            (read.forward(x.to(read.device), subset), projector.forward(x, subset)),
            (read.back(y.to(read.device), subset), projector.back(y, subset)),
        ):
            if read.device.type == "cpu":
                np.testing.assert_array_equal(found, expected)
            np.testing.assert_allclose(found.cpu(), expected, rtol=1e-5)


@pytest.mark.parametrize("other", ["ring", "grid", "subsets"])
def test_a_file_of_another_geometry_is_refused(tmp_path, ring, other):
    grid = Grid(16, 10.0)
    system_matrix.write(tmp_path / "matrix.h5", ring, grid, 2)
    wanted = {"ring": ring, "grid": grid, "subsets": 2, "matrix": tmp_path / "matrix.h5"}
    wanted[other] = {"ring": Ring(16, 8, 201, 9.95, 32), "grid": Grid(16, 10.1), "subsets": 4}[
        other
    ]
    with pytest.raises(InputError, match=r"was made for .* not for"):
        load("sparse", **wanted)


def test_the_sparse_projector_asks_for_its_file(ring, grid):
    with pytest.raises(ValueError, match="needs a system matrix file"):
        load("sparse", ring, grid, 1, None)


def test_subsets_that_do_not_divide_the_views_are_refused_with_those_that_do():
    with pytest.raises(
        InputError, match="20 subsets do not divide the scanner's 252 views"
    ) as error:
        system_matrices(MMR, Grid(256, 2.0863), 20)
    assert "choose one of [1, 2, 3, 4, 6, 7, 9, 12, 14, 18, 21, 28," in str(error.value)


def test_images_beyond_the_ring_are_refused_with_the_numbers(ring):
    with pytest.raises(InputError, match=r"100 pixels of 4.1 mm reach 205 mm .* radius is 200 mm"):
        system_matrices(ring, Grid(100, 4.1), 1)


@pytest.mark.parametrize(
    ("installed", "cuda_enabled", "gpu", "choice", "expected"),
    [
        (False, 0, False, "auto", "sparse"),
        (False, 0, True, "auto", "sparse"),
        (True, 1, False, "auto", "sparse"),
        (True, 0, True, "auto", "sparse"),
        (True, 1, True, "auto", "parallelproj"),
        (True, 0, False, "parallelproj", "parallelproj"),
        (True, 1, True, "sparse", "sparse"),
    ],
)
def test_auto_takes_parallelproj_only_where_it_is_installed_and_sees_a_gpu(
    monkeypatch, installed, cuda_enabled, gpu, choice, expected
):
    library = types.SimpleNamespace(cuda_enabled=cuda_enabled)
    monkeypatch.setitem(sys.modules, "parallelproj_core", library if installed else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve(choice) == expected


@pytest.mark.parametrize(("cuda_enabled", "expected"), [(0, "cpu"), (1, "cuda")])
def test_parallelproj_without_cuda_stays_on_the_cpu(monkeypatch, cuda_enabled, expected):
    library = types.SimpleNamespace(cuda_enabled=cuda_enabled)
    monkeypatch.setitem(sys.modules, "parallelproj_core", library)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for("parallelproj").type == expected
    assert device_for("sparse").type == "cuda"


def test_parallelproj_by_name_is_refused_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="not installed"):
        resolve("parallelproj")
