"""Measured sinograms become images in which everything has its place, or are refused."""

import json
import re

import h5py
import nibabel
import numpy as np
import pytest
import yaml

from helpers import interfile
from pipeline.fbp import FbpSettings
from pipeline.import_scan import Scan, import_scan
from pipeline.jobs.config_files import SCANNERS
from pipeline.osem import OsemSettings
from pipeline.scan_images import scan_fbp, scan_osem
from pipeline.scan_report import scan_report
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SCAN, SCAN_IMAGE
from pipeline.tomography.geometry import Grid
from pipeline.tomography.scanners import ParallelBeam, Ring, scanner_from

pytestmark = pytest.mark.usefixtures("one_thread")

RING = Ring(16, 8, 200.0, 9.95, 32, gaps=[0], first_end_point_deg=-5.23)
GRID = Grid(64, 4.0)
RINGS, SPACING_MM = 12, 8.0
PLANES = 2 * RINGS - 1

MARKS_MM = {
    "left": (60.0, 0.0, 0.0),
    "posterior": (0.0, 45.0, -24.0),
    "superior": (-10.0, -20.0, 32.0),
}
"""Where bright balls lie in the patient: towards the left, posterior and superior."""

LYING = {
    "HFS": ("head_in", "supine", (1, 1, -1)),
    "HFP": ("head_in", "prone", (-1, -1, -1)),
    "FFS": ("feet_in", "supine", (-1, 1, 1)),
    "FFP": ("feet_in", "prone", (1, -1, 1)),
}
"""Words of Interfile, and signs that turn the patient's coordinates into the scanner's, whose z is
that of STIR's planes: towards the feet of one who lies head first."""


def ball_sinograms(geometry, centres_mm, radius_mm=12.0, height=40.0):
    """Exact counts (plane, view, radial) of balls in the scanner's coordinates, rounded."""
    radial_mm, angle = geometry.radial_and_angle()
    z_mm = (np.arange(PLANES) - (PLANES - 1) / 2) * SPACING_MM / 2
    total = np.zeros((PLANES, *radial_mm.shape))
    for x, y, z in centres_mm:
        distance = radial_mm - x * np.cos(angle) - y * np.sin(angle)
        squared = radius_mm**2 - distance**2 - ((z_mm - z) ** 2)[:, None, None]
        total += height * 2 * np.sqrt(np.clip(squared, 0, None))
    return np.rint(total * geometry.counting)


def interfile_of(folder, planes, geometry, **changes):
    """Write planes as STIR's direct segment of three ring differences, which has one a plane."""
    keys = {
        "Number of rings": RINGS,
        "Number of detectors per ring": 2 * geometry.views,
        "Inner ring diameter (cm)": 2 * 19.3,
        "Average depth of interaction (cm)": 0.7,
        "Distance between rings (cm)": SPACING_MM / 10,
    }
    return interfile.write(folder, [((-1, 1), planes[None])], **{**keys, **changes})


def found_mm(path, scale=1.0):
    """Centres of the three brightest balls of a NIfTI image, in LPS millimetres."""
    image = nibabel.load(path)
    values = np.asanyarray(image.dataobj).astype(float)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    at = np.argwhere(values > 0.3 * values.max())
    weight = values[tuple(at.T)]
    ras = nibabel.affines.apply_affine(image.affine, at)
    return ras * (-1, -1, 1), weight


def check_marks(path):
    """Every ball's centre lies within half a pixel, or plane, of its mark."""
    places, weights = found_mm(path)
    taken = 0
    for mark in MARKS_MM.values():
        near = np.linalg.norm(places - mark, axis=1) < 22
        centre = (places[near] * weights[near, None]).sum(axis=0) / weights[near].sum()
        assert np.abs(centre - mark).max() < 2.0, (mark, centre)
        taken += near.sum()
    assert taken == len(places)


@pytest.mark.parametrize("order", interfile.ORDERS)
@pytest.mark.parametrize("position", LYING)
def test_marks_are_where_they_were_however_the_patient_lies(tmp_path, position, order):
    orientation, rotation, signs = LYING[position]
    planes = ball_sinograms(RING, [np.multiply(mark, signs) for mark in MARKS_MM.values()])
    words = {"patient orientation": orientation, "patient rotation": rotation}
    path = interfile_of(tmp_path, planes, RING, order=order, dtype="i2", **words)
    import_scan("marks", Scan(str(path)), RING, tmp_path / "scan.h5")
    with hdf5.opened(tmp_path / "scan.h5", SCAN) as file:
        assert file.attrs["patient_position"] == position
    scan_fbp(
        *(tmp_path / name for name in ("scan.h5", "fbp.h5", "fbp.nii")),
        FbpSettings("hann", 1.0),
        GRID,
    )
    check_marks(tmp_path / "fbp.nii")
    if order == "by view":
        files = (tmp_path / name for name in ("scan.h5", "osem.h5", "osem.nii"))
        scan_osem(*files, OsemSettings(4, 8), 0.0, GRID)
        check_marks(tmp_path / "osem.nii")


def test_arc_corrected_data_are_parallel_lines(tmp_path):
    beam = ParallelBeam(60, 64, 4.0, -5.23)
    planes = ball_sinograms(beam, [np.multiply(mark, (1, 1, -1)) for mark in MARKS_MM.values()])
    words = {"applied corrections": "{arc correction}", "effective central bin size (cm)": 0.4}
    path = interfile_of(tmp_path, planes, beam, **words)
    import_scan("marks", Scan(str(path)), RING, tmp_path / "scan.h5")
    files = (tmp_path / name for name in ("scan.h5", "osem.h5", "osem.nii"))
    scan_osem(*files, OsemSettings(4, 6), 0.0, GRID)
    check_marks(tmp_path / "osem.nii")


def test_a_plain_array_is_taken_by_the_names_of_its_axes(tmp_path):
    planes = ball_sinograms(RING, MARKS_MM.values())  # towards superior, the patient's own
    np.savez(tmp_path / "a.npz", prompts=planes.transpose(2, 0, 1).astype(np.uint16), other=[1])
    scan = Scan(
        f"{tmp_path / 'a.npz'}#prompts",
        axes="radial plane view",
        patient_position="HFS",
        slice_mm=SPACING_MM / 2,
    )
    import_scan("marks", scan, RING, tmp_path / "scan.h5")
    files = [tmp_path / name for name in ("scan.h5", "fbp.h5", "fbp.nii")]
    scan_fbp(*files, FbpSettings("hann", 1.0), GRID)
    check_marks(files[-1])


# --- the measurement model -----------------------------------------------------------------------


def cylinder(geometry, radius_mm=70.0, centre_mm=(10.0, -15.0)):
    """Line integrals (view, radial) of a disc of 1."""
    radial_mm, angle = geometry.radial_and_angle()
    distance = radial_mm - centre_mm[0] * np.cos(angle) - centre_mm[1] * np.sin(angle)
    return 2 * np.sqrt(np.clip(radius_mm**2 - distance**2, 0, None))


def arrays_of(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    paths = {name: str(folder / f"{name}.npy") for name in arrays}
    return {"axes": "plane view radial", "patient_position": "HFS", "slice_mm": 4.0, **paths}


@pytest.mark.parametrize("kind", ["osem", "fbp"])
def test_expected_counts_are_factors_times_the_projection_and_background(tmp_path, kind):
    rng = np.random.default_rng(3)
    shape = (3, RING.views, RING.radial_bins)
    factors = rng.uniform(0.3, 1.2, shape).astype(np.float32)
    randoms, scatter = rng.uniform(5, 9, shape), rng.uniform(1, 30, shape)
    expected = 50 * factors * cylinder(RING) + randoms + scatter
    given = arrays_of(
        tmp_path,
        sinogram=np.rint(expected * RING.counting).astype(np.uint32),
        randoms=randoms,
        scatter=scatter,
        factors=factors,
    )
    import_scan("disc", Scan(**given, calibration=2.0), RING, tmp_path / "scan.h5")
    paths = [tmp_path / name for name in ("scan.h5", "image.h5", "image.nii")]
    if kind == "osem":
        scan_osem(*paths, OsemSettings(8, 8), 0.0, GRID)
    else:
        scan_fbp(*paths, FbpSettings("hann", 1.0), GRID)
    arrays, attributes = hdf5.read(paths[1], SCAN_IMAGE)
    x, y = np.meshgrid(GRID.centres_mm, GRID.centres_mm)
    inside = np.hypot(x - 10, y + 15) < 55
    assert attributes["unit"] == "Bq/ml"
    for image in arrays["image"]:
        assert image[inside].mean() == pytest.approx(2.0 * 50, rel=0.01)


@pytest.mark.parametrize("subsets", [1, 4, 32])
def test_too_few_counts_for_the_subsets_are_said(tmp_path, subsets, caplog):
    """A plane of many counts, and one of so few that subsets have none on a pixel's lines."""
    planes = ball_sinograms(RING, MARKS_MM.values()).astype(np.float64)
    plane = planes[planes.sum(axis=(1, 2)).argmax()][None]
    rng = np.random.default_rng(3)
    planes = np.concatenate([rng.poisson(plane * (n / plane.sum())) for n in (1e8, 300)])
    np.save(tmp_path / "p.npy", planes.astype(np.uint32))
    given = {"axes": "plane view radial", "patient_position": "HFS", "slice_mm": 2.0}
    import_scan("few", Scan(str(tmp_path / "p.npy"), **given), RING, tmp_path / "scan.h5")
    paths = [tmp_path / name for name in ("scan.h5", "osem.h5", "osem.nii")]
    scan_osem(*paths, OsemSettings(4, subsets), 0.0, GRID)
    doubts = hdf5.read(paths[1], SCAN_IMAGE)[1]["doubts"]
    if subsets == 32:
        assert re.match(r"in [12] of 2 planes the image explains less than 95% of", doubts)
        assert "osem.subsets" in doubts
        assert doubts in caplog.text
    else:
        assert doubts == ""


def test_randoms_are_smoothed_as_asked_and_gaps_have_none(tmp_path):
    rng = np.random.default_rng(0)
    shape = (2, RING.views, RING.radial_bins)
    given = arrays_of(
        tmp_path,
        sinogram=np.full(shape, 7, np.uint16) * RING.counting,
        randoms=rng.poisson(2.0, shape) * RING.counting,
    )
    spread = {}
    for width in (1, 7):
        scan = Scan(**given, smoothed_randoms=width)
        import_scan("flat", scan, RING, tmp_path / "scan.h5")
        background = hdf5.read(tmp_path / "scan.h5", SCAN)[0]["background"]
        assert not background[:, ~RING.counting].any()
        inner = background[:, :, 5:-5][:, RING.counting[:, 5:-5]]
        assert inner.mean() == pytest.approx(2.0, rel=0.05)
        spread[width] = inner.std()
    assert spread[7] < 0.3 * spread[1]


def test_prompts_and_randoms_of_one_file_are_told_apart(tmp_path):
    segments, _ = interfile.toy_segments([(-1, 1)], 4, RING.views, RING.radial_bins)
    path = str(interfile.write_siemens(tmp_path, segments))  # its randoms are twice its prompts
    import_scan("toy", Scan(f"{path}#randoms", f"{path}#prompts"), RING, tmp_path / "scan.h5")
    arrays, attributes = hdf5.read(tmp_path / "scan.h5", SCAN)
    assert str(tmp_path) not in str(attributes)
    assert arrays["prompts"].any()
    assert np.array_equal(arrays["prompts"], 2 * arrays["background"])


def test_sinograms_of_several_ring_differences_are_as_sensitive_as_they_are_many(tmp_path):
    segments, pairs = interfile.toy_segments([(-1, 1)], 4, RING.views, RING.radial_bins)
    keys = {"Number of detectors per ring": 128, "Inner ring diameter (cm)": 38.6}
    path = interfile.write(tmp_path, segments, dtype="i2", **keys)
    import_scan("toy", Scan(str(path)), RING, tmp_path / "scan.h5")
    factors = hdf5.read(tmp_path / "scan.h5", SCAN)[0]["factors"]
    summed = [sum(one + other == plane for one, other in pairs) for plane in range(7)]
    assert np.array_equal(factors.max(axis=(1, 2)), summed)


# --- refused -------------------------------------------------------------------------------------


def test_data_below_0_are_for_fbp_alone(tmp_path):
    shape = (1, RING.views, RING.radial_bins)
    given = arrays_of(tmp_path, sinogram=np.full(shape, -0.5, np.float32))
    import_scan("corrected", Scan(**given), RING, tmp_path / "scan.h5")
    paths = [tmp_path / name for name in ("scan.h5", "image.h5", "image.nii")]
    scan_fbp(*paths, FbpSettings("hann", 1.0), GRID)
    for path in paths[1:]:
        path.unlink()
    with pytest.raises(InputError, match="likelihood") as refused:
        scan_osem(*paths, OsemSettings(1, 8), 0.0, GRID)
    below, broken = "4032 bins below 0, the least -0.5", "4032 bins of no whole number"
    assert f"holds {below} and {broken}, the first -0.5, of sinogram.npy;" in str(refused.value)
    assert "images: [fbp]" in refused.value.remedy
    assert not any(path.exists() for path in paths[1:])


SCANNER_OF_ITS_OWN = {
    "detectors": ({"Number of detectors per ring": 504}, "504 detectors a ring"),
    "radius": ({"Inner ring diameter (cm)": 65.6}, "335.0 mm from the axis"),
    "first detector": ({"View offset (degrees)": 0}, "0.0 degrees to the first detector"),
}


@pytest.mark.parametrize("name", SCANNER_OF_ITS_OWN)
def test_data_of_another_scanner_are_refused(tmp_path, name):
    changes, said = SCANNER_OF_ITS_OWN[name]
    planes = ball_sinograms(RING, MARKS_MM.values())
    path = interfile_of(tmp_path, planes, RING, **changes)
    with pytest.raises(InputError, match=said) as refused:
        import_scan("other", Scan(str(path)), RING, tmp_path / "scan.h5")
    assert "--config scanner=" in refused.value.remedy
    assert not (tmp_path / "scan.h5").exists()


SHAPE = (2, RING.views, RING.radial_bins)
BESIDE = {
    "shape": (np.ones((3, *SHAPE[1:])), r"has \(3, 64, 63\)"),
    "bins": (np.ones((2, 64, 61)), "64 views x 61 bins.* the prompts, which fit the scanner, 64"),
    "below 0": (np.full(SHAPE, -1.0), "8064 bins below 0, the least -1"),
    "not finite": (np.full(SHAPE, np.nan), "8064 bins that are not finite"),
}


@pytest.mark.parametrize("what", ["randoms", "scatter", "factors"])
@pytest.mark.parametrize("name", BESIDE)
def test_what_does_not_belong_to_the_prompts_is_refused(tmp_path, name, what):
    array, said = BESIDE[name]
    given = arrays_of(tmp_path, sinogram=np.ones(SHAPE, np.uint8), **{what: array})
    with pytest.raises(InputError, match=said) as refused:
        import_scan("x", Scan(**given), RING, tmp_path / "scan.h5")
    assert refused.value.where.endswith(f"{what}.npy")
    assert not (tmp_path / "scan.h5").exists()


def test_what_nothing_says_is_asked_for(tmp_path):
    given = arrays_of(tmp_path, sinogram=np.ones(SHAPE, np.uint8))
    for name, said in (
        ("patient_position", "how the patient lies"),
        ("slice_mm", "planes are apart"),
    ):
        scan = Scan(**{key: value for key, value in given.items() if key != name})
        with pytest.raises(InputError, match=said):
            import_scan("x", scan, RING, tmp_path / "scan.h5")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("geometry", "{"),
        ("geometry", '{"geometry": "ring"}'),
        ("geometry", "[]"),
        ("geometry", '{"geometry": "cone"}'),
        ("patient_position", "HFX"),
    ],
)
def test_a_damaged_geometry_is_refused(tmp_path, name, value):
    path = interfile_of(tmp_path, ball_sinograms(RING, MARKS_MM.values()), RING, dtype="i2")
    import_scan("marks", Scan(str(path)), RING, tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        file.attrs[name] = value
    files = [tmp_path / each for each in ("scan.h5", "fbp.h5", "fbp.nii")]
    with pytest.raises(InputError, match="says no geometry"):
        scan_fbp(*files, FbpSettings("hann", 1.0), GRID)
    assert not any(file.exists() for file in files[1:])


# --- the report, and real files ------------------------------------------------------------------


def test_fbp_needs_views_that_count_in_every_radial_bin(tmp_path):
    planes = np.rint(50 * np.stack([cylinder(RING)] * 3))
    factors = np.ones_like(planes)
    factors[0, :, 3] = factors[1, : RING.views - 1, 5] = 0
    scan = Scan(**arrays_of(tmp_path, sinogram=planes, factors=factors))
    import_scan("s", scan, RING, tmp_path / "scan.h5")
    files = tmp_path / "fbp.h5", tmp_path / "fbp.nii"
    scan_fbp(tmp_path / "scan.h5", *files, FbpSettings("ramp", 1.0), GRID)  # opposites are known
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        file["factors"][0, :, RING.radial_bins - 1 - 3] = 0
    with pytest.raises(InputError, match="in 2 of 63 radial bins, number 3 first") as refused:
        scan_fbp(tmp_path / "scan.h5", *files, FbpSettings("ramp", 1.0), GRID)
    assert refused.value.where == str(tmp_path / "scan.h5")
    assert "images: [osem]" in refused.value.remedy


def test_the_report_is_drawn_of_whatever_there_is(tmp_path):
    planes = ball_sinograms(RING, MARKS_MM.values())
    path = interfile_of(tmp_path, planes, RING, dtype="i2")
    import_scan("marks", Scan(str(path)), RING, tmp_path / "scan.h5")
    files = [tmp_path / name for name in ("scan.h5", "fbp.h5", "fbp.nii")]
    scan_fbp(*files, FbpSettings("hann", 1.0), GRID)
    scan_report(files[0], {"fbp": files[1]}, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_real_head_is_where_it_is(tmp_path):
    """Counts of the file, and a head of about a brain's width whose front is up."""
    file = interfile.real_data() / "mmr_head" / "mmr_head_ssrb.npz"
    scanner = scanner_from(yaml.safe_load((SCANNERS / "mmr.yaml").read_text(encoding="utf-8")))
    scan = Scan(
        *(f"{file}#{name}" for name in ("prompts", "delayeds")),
        axes="plane view radial",
        patient_position="HFS",
        slice_mm=2.03125,
        smoothed_randoms=9,
    )
    import_scan("head", scan, scanner, tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5") as scanned:
        assert scanned["prompts"][()].sum() <= scanned.attrs["counts"] == 209558
        assert json.loads(scanned.attrs["geometry"])["gaps"] == [0]
        assert scanned["background"][()].sum() == pytest.approx(26075, rel=0.02)
    files = [tmp_path / name for name in ("scan.h5", "osem.h5", "osem.nii")]
    grid = Grid(84, 6.0)
    scan_osem(*files, OsemSettings(2, 21), 0.0, grid)
    image = hdf5.read(files[1], SCAN_IMAGE)[0]["image"].astype(float)
    axial = image[50:90].sum(axis=0)
    widths_mm = []
    for axis in (0, 1):
        line = axial.sum(axis=axis)
        widths_mm.append(np.ptp(np.flatnonzero(line > 0.2 * line.max())) * grid.pixel_mm)
    across_mm, along_mm = widths_mm
    assert 120 < across_mm < 190  # a brain's width
    assert along_mm > across_mm
    assert image[115:].sum() < 0.02 * image.sum()  # nothing above the vertex
