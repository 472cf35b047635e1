"""STIR's own simulation, reconstructed: everything has the place and size that its sinogram says.

A cylinder of an ellipse and three hot points; what they should be comes from closed forms of their
projections, fitted to the file's own sinogram.
"""

import numpy as np
import pytest

from helpers.interfile import real_data
from pipeline.fbp import FbpSettings
from pipeline.import_scan import Scan, import_scan
from pipeline.osem import OsemSettings
from pipeline.scan_images import scan_fbp, scan_osem
from pipeline.storage import hdf5
from pipeline.storage.kinds import SCAN_IMAGE
from pipeline.tomography.geometry import Grid
from pipeline.tomography.scanners import ParallelBeam

pytestmark = pytest.mark.usefixtures("one_thread")

BEAM = ParallelBeam(angles=64, bins=75, bin_mm=3.0)
GRID = Grid(72, 3.0)
PLAIN = slice(3, 6)
"""Planes, from inferior to superior, of the cylinder alone."""
POINTS = {"first": slice(7, 12), "second": slice(12, 17), "third": slice(22, 26)}
"""Planes in which a point is, whatever the view: off the axis, oblique lines see it in others."""
COUNTS = 1000
"""Counts that OSEM gets for a value of 1: the file's are no whole numbers."""


@pytest.fixture(scope="module")
def stored():
    """The file's own numbers (plane, view, bin), from inferior to superior."""
    path = real_data() / "stir_recon_demo" / "smalllong.s"
    numbers = np.fromfile(path, "<f4").reshape(64, 27, 75).transpose(1, 0, 2)
    return numbers[::-1].astype(float)


@pytest.fixture(scope="module", params=["fbp", "osem"])
def images(request, stored, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    paths = [folder / name for name in ("scan.h5", "image.h5", "image.nii")]
    if request.param == "fbp":
        header = real_data() / "stir_recon_demo" / "smalllong.hs"
        import_scan("small", Scan(str(header), patient_position="HFS"), BEAM, paths[0])
        scan_fbp(*paths, FbpSettings("ramp", 1.0), GRID)
    else:
        np.save(folder / "counts.npy", np.rint(np.clip(stored, 0, None) * COUNTS))
        said = {"axes": "plane view radial", "patient_position": "HFS", "slice_mm": 3.27}
        import_scan("small", Scan(str(folder / "counts.npy"), **said), BEAM, paths[0])
        scan_osem(*paths, OsemSettings(10, 8), 0.0, GRID)
    return hdf5.read(paths[1], SCAN_IMAGE)[0]["image"].astype(float)


def angles_and_radial_mm():
    radial_mm, angle = BEAM.radial_and_angle()
    return angle[:, BEAM.central_bin], radial_mm[0]


def moments(values, where):
    """Mean and variance of places, weighted; along the last axis."""
    total = values.sum(axis=-1)
    mean = (values * where).sum(axis=-1) / total
    return mean, (values * (where - mean[..., None]) ** 2).sum(axis=-1) / total


def ellipse_of_sinogram(sinogram):
    """Centre (x, y) and half axes in mm: a view's mean is its centre's, its variance A^2 / 4.

    A, half of an ellipse's width at an angle, is a^2 cos^2 + b^2 sin^2 of the angle to its axis.
    """
    angle, radial_mm = angles_and_radial_mm()
    mean, variance = moments(np.clip(sinogram, 0, None), radial_mm)
    centre = np.linalg.lstsq(np.stack([np.cos(angle), np.sin(angle)], 1), mean, rcond=None)[0]
    terms = np.stack([np.ones_like(angle), np.cos(2 * angle), np.sin(2 * angle)], 1)
    level, *turning = np.linalg.lstsq(terms, 4 * variance, rcond=None)[0]
    difference = np.hypot(*turning)
    return centre, np.sqrt([level - difference, level + difference])


def ellipse_of_image(image):
    """The same of what is brighter than half: a uniform ellipse's variances are a^2 / 4."""
    y, x = np.nonzero(image > np.median(image[image > image.max() / 3]) / 2)
    places = np.stack([GRID.centres_mm[x], GRID.centres_mm[y]])
    return places.mean(axis=1), np.sqrt(4 * np.linalg.eigvalsh(np.cov(places)))


def point_of_sinogram(sinogram):
    """Place (x, y) in mm of which the brightest bins are the sinusoid."""
    angle, radial_mm = angles_and_radial_mm()
    brightest = np.argmax(sinogram, axis=1)
    near = np.abs(np.arange(BEAM.bins) - brightest[:, None]) <= 2
    found, _ = moments(np.clip(sinogram, 0, None) * near, radial_mm)
    terms = np.stack([np.cos(angle), np.sin(angle)], 1)
    kept = sinogram.max(axis=1) > sinogram.max() / 3  # where no end of the scanner cuts it off
    for _ in range(3):
        place = np.linalg.lstsq(terms[kept], found[kept], rcond=None)[0]
        kept &= np.abs(terms @ place - found) < 2 * BEAM.bin_mm
    assert kept.sum() > 16
    return place


def point_of_image(image):
    y, x = np.unravel_index(np.argmax(image), image.shape)
    part = np.clip(image[y - 2 : y + 3, x - 2 : x + 3], 0, None)
    down, across = GRID.centres_mm[y - 2 : y + 3], GRID.centres_mm[x - 2 : x + 3]
    return np.array([part.sum(axis=0) @ across, part.sum(axis=1) @ down]) / part.sum()


def test_the_ellipse_has_its_place_and_its_half_axes(stored, images):
    centre, half_axes = ellipse_of_sinogram(stored[PLAIN].sum(axis=0))
    found, found_axes = ellipse_of_image(images[PLAIN].sum(axis=0))
    print(f"centre {centre} {found}, half axes {half_axes} {found_axes} mm")
    assert found == pytest.approx(centre, abs=GRID.pixel_mm)
    assert found_axes == pytest.approx(half_axes, abs=GRID.pixel_mm)


@pytest.mark.parametrize("name", POINTS)
def test_hot_points_are_in_their_places(stored, images, name):
    planes = POINTS[name]
    several = planes.stop - planes.start
    cylinders = [array[PLAIN].mean(axis=0) for array in (stored, images)]
    wanted = point_of_sinogram(stored[planes].sum(axis=0) - several * cylinders[0])
    found = point_of_image(images[planes].sum(axis=0) - several * cylinders[1])
    print(f"{name} point {wanted} {found} mm")
    assert found == pytest.approx(wanted, abs=GRID.pixel_mm)
