"""Scanners beyond the plain ring: gaps, even numbers of bins, end points turned, parallel lines."""

import re

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.configurations import ROOT, SCHEMA, changed, refusal
from pipeline.fbp import FilteredBackProjection
from pipeline.jobs.config import check
from pipeline.jobs.config_files import SCANNERS, take_scanner
from pipeline.storage.errors import InputError
from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.scanners import ParallelBeam, Ring, scanner_from

MMR = {"blocks": 56, "crystals_per_block": 9, "radius_mm": 335.0, "pitch_mm": 4.09}
SMALL = {"blocks": 16, "crystals_per_block": 8, "radius_mm": 200.0, "pitch_mm": 9.95}
GRID = Grid(64, 4.1726)
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("one_thread")


def disc_sinogram(scanner, radius_mm, centre_mm):
    """Exact line integrals (view, radial) of a disc of 1."""
    radial_mm, angle = scanner.radial_and_angle()
    distance = radial_mm - centre_mm[0] * np.cos(angle) - centre_mm[1] * np.sin(angle)
    return (2 * np.sqrt(np.clip(radius_mm**2 - distance**2, 0, None))).astype(np.float32)


def inside_of(grid, radius_mm, centre_mm):
    x, y = np.meshgrid(grid.centres_mm, grid.centres_mm)
    return np.hypot(x - centre_mm[0], y - centre_mm[1]) < radius_mm


# --- rings ---------------------------------------------------------------------------------------


def test_gaps_take_the_lors_of_their_end_points():
    ring = Ring(**MMR, radial_trim=124, gaps=[0])
    start, end = ring.lors_mm(np.arange(ring.views))
    gaps = {tuple(point) for point in ring.end_point_xy_mm[::9]}
    expected = [
        [not {tuple(a), tuple(b)} & gaps for a, b in zip(*view, strict=True)]
        for view in zip(start, end, strict=True)
    ]
    assert np.array_equal(ring.counting, expected)
    assert Ring(**MMR, radial_trim=124).counting.all()


def test_an_even_number_of_bins_is_the_vendors():
    """344 bins, -172 to 171, of which the odd 255 are 45 to 299."""
    even, odd = Ring(**MMR, radial_trim=79, even_bins=True), Ring(**MMR, radial_trim=124)
    assert (even.radial_bins, odd.radial_bins) == (344, 255)
    for mine, other in zip(even.lors_mm([0, 7]), odd.lors_mm([0, 7]), strict=True):
        np.testing.assert_array_equal(mine[:, 45:300], other)
    radial_mm, _ = even.radial_and_angle()
    assert np.abs(radial_mm[:, even.central_bin]).max() < 1e-9


@given(st.floats(-360, 360))
@settings(deadline=None, max_examples=20)
def test_the_first_end_point_is_where_it_is_told(degrees):
    ring = Ring(**SMALL, radial_trim=32, first_end_point_deg=degrees)
    x, y = ring.end_point_xy_mm[0]
    towards_left = np.rad2deg(np.arctan2(x, -y))
    assert (towards_left - degrees + 180) % 360 - 180 == pytest.approx(0, abs=1e-9)
    plain = Ring(**SMALL, radial_trim=32)
    (radial_mm, angle), (plain_mm, plain_angle) = ring.radial_and_angle(), plain.radial_and_angle()
    np.testing.assert_allclose(np.abs(radial_mm), np.abs(plain_mm), atol=1e-9)
    turned = (angle - plain_angle) / np.pi
    # By one angle all of them, but for half turns, which change the sign of the distance.
    assert np.ptp(turned) < 1e-9


def test_a_ring_without_a_word_has_block_0_on_top():
    plain = Ring(**SMALL, radial_trim=32)
    first = float(np.rad2deg(np.arctan2(*(plain.end_point_xy_mm[0] * [1, -1]))))
    told = Ring(**SMALL, radial_trim=32, first_end_point_deg=first)
    np.testing.assert_allclose(told.end_point_xy_mm, plain.end_point_xy_mm, atol=1e-9)


@pytest.mark.parametrize("gaps", [[9], [-1], [*range(9)]])
def test_gaps_that_are_no_end_points_are_refused(gaps):
    with pytest.raises(InputError, match=r"scanner\.gaps"):
        Ring(**MMR, radial_trim=124, gaps=gaps)


# --- parallel lines ------------------------------------------------------------------------------


@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("bins", [63, 64])
def test_parallel_lines_are_those_of_the_radon_transform(bins, clockwise):
    beam = ParallelBeam(30, bins, 3.0, 40.0, clockwise)
    radial_mm, angle = beam.radial_and_angle()
    wanted_mm = (np.arange(bins) - bins // 2) * 3.0
    turns = (angle[:, beam.central_bin] - np.deg2rad(40)) / np.pi * 30
    np.testing.assert_allclose(turns, np.arange(30) * (1 if clockwise else -1), atol=1e-9)
    np.testing.assert_allclose(radial_mm, np.broadcast_to(wanted_mm, radial_mm.shape), atol=1e-9)


def test_a_point_to_the_left_lies_at_positive_distances_of_view_0():
    sinogram = disc_sinogram(ParallelBeam(90, 65, 4.0), 10.0, (60.0, 0.0))
    assert sinogram[0].argmax() == 32 + 15
    assert sinogram[45].argmax() == 32  # lines from right to left: its y is 0
    posterior = disc_sinogram(ParallelBeam(90, 65, 4.0), 10.0, (0.0, 60.0))
    assert posterior[45].argmax() == 32 + 15


@pytest.mark.parametrize("clockwise", [True, False])
def test_parallel_lines_are_projected_as_their_formula_says(sparse, disc, clockwise):
    beam, centre = ParallelBeam(60, 100, 3.0, 20.0, clockwise), (30.0, -20.0)
    found = sparse(beam, GRID).project(disc(GRID, 60, centre)[None])[0]
    expected = disc_sinogram(beam, 60, centre)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


# --- reconstructed -------------------------------------------------------------------------------

SCANS = {
    "gaps": Ring(**SMALL, radial_trim=32, gaps=[0]),
    "two gaps": Ring(**SMALL, radial_trim=32, gaps=[2, 5]),
    "even": Ring(**SMALL, radial_trim=31, even_bins=True, first_end_point_deg=11.0),
    "mMR": scanner_from(yaml.safe_load((SCANNERS / "mmr.yaml").read_text())),
    "parallel": ParallelBeam(90, 96, 3.0),
    "odd": ParallelBeam(90, 95, 3.0, -33.0),
    "counter-clockwise": ParallelBeam(90, 96, 3.0, 10.0, False),
}


@pytest.mark.parametrize("name", SCANS)
def test_fbp_of_a_disc_is_right_on_average(name):
    scanner, centre = SCANS[name], (25.0, -15.0)
    sinogram = 100 * disc_sinogram(scanner, 70, centre)
    sinogram[~scanner.counting] = np.float32(1e7)  # which must not be seen
    image = FilteredBackProjection(scanner, GRID, "ramp", 1.0)(sinogram[None])[0]
    assert image[inside_of(GRID, 60, centre)].mean() == pytest.approx(100, rel=0.01)
    outside = field_of_view(scanner, GRID) & ~inside_of(GRID, 85, centre)
    assert abs(image[outside].mean()) < 1


@given(st.sets(st.integers(0, 7), min_size=1, max_size=3), st.floats(0, 360))
@settings(deadline=None, max_examples=8)
def test_gaps_anywhere_leave_a_disc_as_it_is(gaps, degrees):
    scanner = Ring(**SMALL, radial_trim=32, gaps=sorted(gaps), first_end_point_deg=degrees)
    sinogram = 100 * disc_sinogram(scanner, 70, (25.0, -15.0)) * scanner.counting
    image = FilteredBackProjection(scanner, GRID, "ramp", 1.0)(sinogram[None])[0]
    assert image[inside_of(GRID, 60, (25.0, -15.0))].mean() == pytest.approx(100, rel=0.01)


# --- in the configuration ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [path.stem for path in sorted(SCANNERS.glob("*.yaml"))])
def test_a_scanner_is_taken_by_its_name(name):
    config = changed(scanner=name)
    take_scanner(config, SCHEMA)
    assert config["scanner"] == yaml.safe_load((SCANNERS / f"{name}.yaml").read_text())
    scanner = scanner_from(config["scanner"])
    bins = {"mmr": (252, 255), "signa_petmr": (224, 357), "neurolf": (128, 180), "small": (64, 63)}
    assert (scanner.views, scanner.radial_bins) == bins[name]


def readme_settings():
    """The README's table of scanners: name, and settings that go with it."""
    rows = re.findall(r"^\| `(\w+)` \| `(osem=[^`]*)` \|$", README, re.MULTILINE)
    for name, options in rows:
        sections = re.findall(r"(\w+)=(\{.*?\})", options)
        yield name, {section: yaml.safe_load(text) for section, text in sections}


def test_scanners_run_with_the_settings_that_the_readme_has_for_them():
    found = dict(readme_settings())
    assert {*found, "mmr"} == {path.stem for path in SCANNERS.glob("*.yaml")}
    for name, sections in {**found, "mmr": {"osem": {"subsets": 4}}}.items():
        config = changed(scanner=name)
        for section, values in sections.items():
            config[section] |= values
        check(config, SCHEMA)
        assert config["network"]["size"] == config["slices"]["size"]


def test_a_scanner_of_ones_own_is_taken_by_its_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "{geometry: parallel, angles: 64, bins: 65, bin_mm: 4, first_angle_deg: 0, clockwise: true}"
    )
    config = changed(scanner=str(path))
    rules = take_scanner(config, SCHEMA)["properties"]["scanner"]["properties"]
    assert scanner_from(config["scanner"]) == ParallelBeam(64, 65, 4)
    assert rules["bins"]["minimum"] == 3


@pytest.mark.parametrize(
    ("scanner", "where", "said"),
    [
        ("mrr", "scanner", "choose from mmr, neurolf, signa_petmr, small"),
        ({"geometry": "cylinder"}, "scanner.geometry", "one of ring, parallel"),
        ({"blocks": 8}, "scanner", "lacks geometry"),
        (5, "scanner", "a section with keys"),
    ],
)
def test_scanners_that_are_none_are_refused(scanner, where, said):
    error = refusal(scanner=scanner)
    assert error.where == where
    assert said in str(error)
