from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.lesions import PIXEL_MM, SETTINGS, SIZE, SLICE_MM, head, write_slices
from pipeline.lesions import (
    IN_BRAIN,
    Lesion,
    covered,
    lesions,
    margin_mm,
    mask_of,
    place,
    with_lesions,
)
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import LESION_SLICES, SLICES
from pipeline.tomography.geometry import Grid

GRID = Grid(SIZE, PIXEL_MM)
DRAWS = 3


def sphere(diameter_mm, x_mm=0.0, y_mm=0.0, contrast=2.0, number=1):
    return Lesion(number, 2, contrast, diameter_mm, x_mm, y_mm)


@given(
    st.floats(6, 14), st.floats(-30, 30), st.floats(-30, 30), st.floats(0.5, 20), st.floats(1, 9)
)
def test_what_a_slice_holds_of_a_sphere_is_its_volume(diameter, x_mm, y_mm, slice_mm, pixel_mm):
    """Of a ball of radius r between the planes +-h: 2 pi h (r^2 - h^2 / 3)."""
    part = covered(sphere(diameter, x_mm, y_mm), Grid(128, pixel_mm), slice_mm)
    radius = diameter / 2
    half = min(slice_mm / 2, radius)
    volume = 2 * np.pi * half * (radius**2 - half**2 / 3)
    # With one pixel over the whole sphere, 16 x 16 points of it are all that is counted.
    points = 16 * diameter / pixel_mm
    assert part.sum(dtype=float) * pixel_mm**2 * slice_mm == pytest.approx(volume, rel=4 / points)
    assert part.min() >= 0
    assert part.max() <= 1


def test_the_middle_of_a_sphere_lies_where_it_should():
    part = covered(sphere(12, x_mm=20.3, y_mm=-7.4), GRID, SLICE_MM)
    rows, columns = part.sum(axis=1), part.sum(axis=0)
    assert (columns @ GRID.centres_mm) / columns.sum() == pytest.approx(20.3, abs=0.05)
    assert (rows @ GRID.centres_mm) / rows.sum() == pytest.approx(-7.4, abs=0.05)


def test_a_lesion_has_its_contrast_inside_and_changes_nothing_elsewhere():
    _, activity = head()
    found = with_lesions(activity, [sphere(14, 1.5, 1.5, contrast=0.4)], GRID, SLICE_MM)
    part = covered(sphere(14, 1.5, 1.5), GRID, SLICE_MM)
    np.testing.assert_array_equal(found[part == 0], activity[part == 0])
    np.testing.assert_allclose(found[part == 1], 0.4 * activity[part == 1], rtol=1e-6)
    edge = (part > 0) & (part < 1)
    assert edge.any()
    np.testing.assert_allclose(found[edge], (1 - 0.6 * part[edge]) * activity[edge], rtol=1e-5)


@given(st.floats(0.3, 14))
def test_every_lesion_has_pixels(diameter):
    mask = mask_of([sphere(diameter, 20.0, 1.0), sphere(diameter, -20.0, 1.0, number=2)], GRID, 2)
    assert {*np.unique(mask)} == {0, 1, 2}


@given(st.integers(0, 2**32), st.integers(1, 4), st.floats(6, 20), st.floats(0, 4))
def test_lesions_lie_in_their_tissue_and_apart(seed, per_slice, least, more):
    labels, _ = head()
    settings = replace(SETTINGS, per_slice=per_slice, diameter_mm=(least, least + more))
    found = place(labels, GRID, settings, np.random.default_rng(seed))
    if found is None:
        return
    assert [one.number for one in found] == [*range(1, per_slice + 1)]
    # By turns: of up to four lesions no two are alike.
    assert len({(one.tissue, one.contrast) for one in found}) == per_slice
    brain = np.isin(labels, (2, 3))
    for one in found:
        row, column = (int(np.abs(GRID.centres_mm - mm).argmin()) for mm in (one.y_mm, one.x_mm))
        assert labels[row, column] == one.tissue
        assert least <= one.diameter_mm <= least + more
        part = covered(one, GRID, 1e-6)
        assert part[brain].sum() / part.sum() >= IN_BRAIN - 1e-5
        for other in found[: one.number - 1]:
            centres_mm = np.hypot(one.x_mm - other.x_mm, one.y_mm - other.y_mm)
            discs_mm = (one.diameter_mm + other.diameter_mm) / 2
            assert centres_mm - discs_mm >= margin_mm(PIXEL_MM) - 1e-9


def test_where_there_is_no_room_there_are_no_lesions():
    labels, _ = head()
    rng = np.random.default_rng(0)
    assert place(np.zeros_like(labels), GRID, SETTINGS, rng) is None
    assert place(labels, GRID, replace(SETTINGS, diameter_mm=(150, 150)), rng) is None
    assert place(labels, GRID, replace(SETTINGS, per_slice=30), rng) is None


@pytest.fixture
def made(tmp_path):
    """The slices, and the file of rule ``lesions``."""
    plain = write_slices(tmp_path / "slices.h5", oversampling=2, attenuation=0.09)
    lesions(plain, tmp_path / "lesions.h5", SETTINGS, DRAWS)
    return plain, tmp_path / "lesions.h5"


def test_twins_differ_in_their_lesions_alone(made):
    before, _ = hdf5.read(made[0], SLICES)
    found, attributes = hdf5.read(made[1], LESION_SLICES)
    count = 2 * SETTINGS.per_volume * 2 * DRAWS
    assert found["activity"].shape == (count, 2 * SIZE, 2 * SIZE)
    assert found["draw"].tolist() == [0, 0, 1, 1, 2, 2] * (2 * SETTINGS.per_volume)
    assert found["present"].tolist() == [0, 1] * (count // 2)
    assert (attributes["subject"], attributes["oversampling"]) == ("subject04", 2)
    fine = GRID.finer(2)
    for n in range(0, count, 2):
        key = found["rotation"][n], found["slice_index"][n]
        (row,) = np.flatnonzero((before["rotation"] == key[0]) & (before["slice_index"] == key[1]))
        for name in ("activity", "attenuation", "labels", "rotation_deg"):
            np.testing.assert_array_equal(found[name][n], before[name][row])
        for name in ("attenuation", "labels", "lesion", "slice_index"):
            np.testing.assert_array_equal(found[name][n + 1], found[name][n])
        own = (found["lesion_rotation"] == key[0]) & (found["lesion_slice_index"] == key[1])
        assert found["lesion_number"][own].tolist() == [1, 2, 3]
        spheres = [
            Lesion(*(found[f"lesion_{name}"][row] for name in Lesion._fields))
            for row in np.flatnonzero(own)
        ]
        wanted = with_lesions(found["activity"][n], spheres, fine, SLICE_MM)
        np.testing.assert_allclose(found["activity"][n + 1], wanted, rtol=1e-5)
        np.testing.assert_array_equal(found["lesion"][n], mask_of(spheres, GRID, SLICE_MM))


def test_slices_without_room_are_passed_over(made):
    found, _ = hdf5.read(made[1], LESION_SLICES)
    # The first of the four slices has no brain.
    assert sorted({*found["slice_index"]}) == [11, 12, 13]


def test_rotations_have_lesions_in_other_slices(made):
    found, _ = hdf5.read(made[1], LESION_SLICES)
    first, second = ({*found["slice_index"][found["rotation"] == n].tolist()} for n in (0, 1))
    assert (first, second) == ({11, 12}, {12, 13})


def test_hot_and_cold_lesions_are_as_many_and_as_large(made):
    found, _ = hdf5.read(made[1], LESION_SLICES)
    contrasts = found["lesion_contrast"].reshape(-1, SETTINGS.per_slice)
    diameters = found["lesion_diameter_mm"].reshape(-1, SETTINGS.per_slice)
    assert {*contrasts[:, :2].ravel().tolist()} == {SETTINGS.hot, SETTINGS.cold}
    assert (contrasts[:, 0] != contrasts[:, 1]).all()
    np.testing.assert_array_equal(contrasts[:, 0], contrasts[:, 2])
    np.testing.assert_array_equal(diameters[:, 0], diameters[:, 1])
    assert (diameters[:, 1] != diameters[:, 2]).all()


def test_lesions_belong_to_their_slice_alone(made, tmp_path):
    fewer = write_slices(tmp_path / "fewer.h5", rotations=1)
    lesions(fewer, tmp_path / "other.h5", SETTINGS, 2)
    one, _ = hdf5.read(made[1], LESION_SLICES)
    other, _ = hdf5.read(tmp_path / "other.h5", LESION_SLICES)
    shared = (one["lesion_rotation"] == 0) & (one["lesion_slice_index"] == 11)
    same = other["lesion_slice_index"] == 11
    assert shared.sum() == same.sum() == SETTINGS.per_slice
    for name in (name for name in LESION_SLICES.datasets if name.startswith("lesion_")):
        np.testing.assert_array_equal(one[name][shared], other[name][same])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"per_volume": 4}, "is 4, and in rotation 0 of subject04 3 slices have room"),
        ({"diameter_mm": (90, 95)}, "is 2, and in rotation 0 of subject04 0 slices have room"),
    ],
)
def test_too_few_slices_with_room_are_said(tmp_path, change, problem):
    plain = write_slices(tmp_path / "slices.h5")
    with pytest.raises(InputError) as caught:
        lesions(plain, tmp_path / "lesions.h5", replace(SETTINGS, **change), DRAWS)
    assert caught.value.where == "lesions.per_volume"
    assert problem in caught.value.problem
    assert not (tmp_path / "lesions.h5").exists()


def test_images_without_labels_are_refused(tmp_path):
    plain = write_slices(tmp_path / "slices.h5", labels=False)
    with pytest.raises(InputError) as caught:
        lesions(plain, tmp_path / "lesions.h5", SETTINGS, DRAWS)
    assert "subject04 has no labels" in caught.value.problem
    assert "give subject04_labels beside its image, or set it to 0" in caught.value.remedy
