"""DICOM series: slices in their order, each with its scale; and series that are refused."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless
from scipy.ndimage import center_of_mass, gaussian_filter, label

from helpers.own_images import LPS, OBLIQUE, SHAPE, affine, real_data, save_dicom, volume
from pipeline.images import dicom
from pipeline.storage.errors import InputError

SMALL = volume(shape=(20, 24, 10), voxel_mm=(6, 6, 12))
AFFINE = affine(shape=SMALL.shape, voxel_mm=(6, 6, 12))


def series(folder, **elements):
    return save_dicom(folder / "subject01", SMALL, AFFINE, **elements)


@pytest.mark.parametrize("directions", [LPS, OBLIQUE, LPS[:, [1, 2, 0]]], ids=str)
def test_slices_come_in_the_order_of_their_positions(tmp_path, directions):
    values, wanted = volume(directions), affine(directions)
    save_dicom(tmp_path, values, wanted)
    found = dicom.read(tmp_path)
    assert found.unit == "BQML"
    assert found.values.shape == SHAPE[::-1]
    np.testing.assert_allclose(found.values, values.T, atol=values.max() / 60000)
    np.testing.assert_allclose(found.affine_mm, wanted, atol=1e-5)


def test_slices_towards_inferior_lie_where_they_are(tmp_path):
    save_dicom(tmp_path / "up", SMALL, AFFINE)
    down = AFFINE @ np.diag([1, 1, -1, 1])
    down[:, 3] = AFFINE @ [0, 0, SMALL.shape[2] - 1, 1]
    save_dicom(tmp_path / "down", SMALL[:, :, ::-1], down)
    up, down = dicom.read(tmp_path / "up"), dicom.read(tmp_path / "down")
    np.testing.assert_allclose(up.affine_mm, down.affine_mm)
    np.testing.assert_allclose(up.values, down.values, atol=SMALL.max() / 30000)


def test_other_files_are_passed_over(tmp_path):
    series(tmp_path)
    folder = tmp_path / "subject01"
    (folder / "LICENSE").write_text("MIT")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "more").mkdir()
    assert dicom.read(folder).values.shape == (10, 24, 20)


def test_units_may_be_absent(tmp_path):
    series(tmp_path, Units=None)
    assert dicom.read(tmp_path / "subject01").unit == "unknown"


def refused(folder):
    with pytest.raises(InputError) as caught:
        dicom.read(folder)
    return str(caught.value)


def test_missing_and_doubled_slices_are_named_by_their_positions(tmp_path):
    paths = series(tmp_path)
    whole = paths[4].read_bytes()
    paths[4].unlink()
    said = refused(tmp_path / "subject01")
    assert "slices 12.00 mm apart along its axis, and none between 22.00 and 46.00 mm" in said
    for name in ("slice900.dcm", "slice901.dcm"):
        (tmp_path / "subject01" / name).write_bytes(whole)
    said = refused(tmp_path / "subject01")
    assert "doubled ones: slice900.dcm and slice901.dcm at 34.00 mm" in said


def test_slices_in_a_folder_below_are_pointed_at(tmp_path):
    folder = tmp_path / "subject01"
    save_dicom(folder / "a" / "PET", volume(shape=(6, 7, 5)))
    said = refused(folder)
    assert f"holds 0 DICOM slices, and {folder / 'a' / 'PET'} 5 DICOM files" in said
    assert f"move the files of one series into {folder}" in said


@pytest.mark.parametrize(
    ("elements", "problem"),
    [
        ({"SeriesInstanceUID": lambda z: f"1.2.{z // 5}"}, "SeriesInstanceUID is 1.2.0 and 1.2.1"),
        ({"Units": lambda z: "BQML" if z else "CNTS"}, "Units is BQML and CNTS"),
        ({"Modality": "CT"}, "slices of modality CT, not PT"),
        ({"PixelSpacing": None}, "do not say where they lie"),
        ({"Rows": None}, "do not say where they lie"),
        ({"PixelData": None}, "is damaged"),
        ({"ImagePositionPatient": lambda z: [3 * z, 0, 12 * z]}, "tilted gantry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "mm apart"),
        ({"PixelSpacing": [1e6, 1e6]}, "which is none of an image"),
        ({"NumberOfFrames": 3}, "holds 3 frames"),
        ({"SamplesPerPixel": 3}, "3 numbers a pixel"),
        ({"PixelData": bytes(10)}, "is damaged"),
        ({"RescaleSlope": None, "Rows": 9999}, "(10, 9999, 20) voxels"),
    ],
)
def test_what_is_no_series_of_pet_slices_is_refused(tmp_path, elements, problem):
    series(tmp_path, **elements)
    assert problem in refused(tmp_path / "subject01")


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, JPEGLSLossless])
def test_what_cannot_be_decoded_is_refused(tmp_path, syntax):
    for path in series(tmp_path):
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = syntax
        if syntax == JPEGLSLossless:
            image.PixelData = pydicom.encaps.encapsulate([b"none of JPEG's"])
            image["PixelData"].is_undefined_length = True
        image.save_as(path)
    assert "which cannot be decoded" in refused(tmp_path / "subject01")


def test_run_lengths_are_decoded(tmp_path):
    paths = series(tmp_path)
    plain = dicom.read(tmp_path / "subject01").values
    for path in paths:
        image = pydicom.dcmread(path)
        image.compress(RLELossless)
        image.save_as(path)
    np.testing.assert_array_equal(dicom.read(tmp_path / "subject01").values, plain)


def test_a_folder_without_slices_is_refused(tmp_path):
    assert "holds 0 DICOM slices" in refused(tmp_path)
    (tmp_path / "large.dcm").write_bytes(bytes(128) + b"DICM" + bytes(2**23))
    assert "more than 8388608 bytes, as no slice has" in refused(tmp_path)


# A real scan of the NEMA phantom


def test_real_slices_come_in_order(tmp_path):
    found = dicom.read(real_data("pynemaiqpet_dicom"))
    assert found.values.shape == (18, 192, 192)
    np.testing.assert_allclose(np.linalg.norm(found.affine_mm[:3, 2]), 2.78, atol=1e-3)


def test_real_spheres_lie_where_the_positions_say():
    folder = real_data("pynemaiqpet_dicom")
    found = dicom.read(folder)
    spheres = _hottest(found.values, np.abs(np.diag(found.affine_mm))[2::-1])
    here = {tuple(p) for p in np.round(_in_mm(found.affine_mm, spheres)[:, :2], 1)}
    assert len(here) >= 4
    # Independently: every pixel by its own file's position, as the standard has it.
    points, weights = [], []
    for path in folder.glob("*.dcm"):
        image = pydicom.dcmread(path)
        values = image.pixel_array * float(image.RescaleSlope)
        y, x = np.indices(values.shape)
        corner = np.array(image.ImagePositionPatient, float)
        y_mm, x_mm = map(float, image.PixelSpacing)
        place = np.stack([corner[0] + x * x_mm, corner[1] + y * y_mm, 0 * x + corner[2]], axis=-1)
        points.append(place.reshape(-1, 3))
        weights.append(values.ravel())
    points, weights = np.concatenate(points), np.concatenate(weights)
    background = np.median(weights[weights > 0.2 * weights.max()])
    for centre in _in_mm(found.affine_mm, spheres):
        near = (np.linalg.norm(points - centre, axis=1) < 15) & (weights > background)
        own = np.average(points[near], axis=0, weights=(weights - background)[near])
        assert np.linalg.norm(own - centre) < 2


def _hottest(values, size_mm):
    """Centroids (z, y, x), in voxels, of the spheres: hot, and above half of the hottest."""
    smooth = gaussian_filter(values, 3 / size_mm)
    spots, count = label(smooth > 0.5 * smooth.max())
    sizes = np.bincount(spots.ravel())[1:]
    large = [n for n in range(1, count + 1) if sizes[n - 1] > 20]
    return np.array(center_of_mass(smooth - 0.5 * smooth.max(), spots, large))


def _in_mm(affine_mm, voxels):
    return voxels[:, ::-1] @ affine_mm[:3, :3].T + affine_mm[:3, 3]
