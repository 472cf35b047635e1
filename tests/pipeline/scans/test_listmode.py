"""PETSIRD list mode: events between the crystals of a ring fall into the bins of their lines."""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzz import fuzz
from pipeline.scans.listmode import bins_of, cylinder, histogrammed, read
from pipeline.scans.projections import ScanSettings, single_slice_rebinned
from pipeline.storage.errors import InputError
from pipeline.tomography.scanners import Ring

RING = Ring(blocks=8, crystals_per_block=3, radius_mm=100, pitch_mm=20, radial_trim=0)
RINGS, SPACING_MM = 4, 5.0
WHERE = Path("scan.petsird")


def crystals(shuffle=True):
    """Crystals of the toy scanner, in no order: their middles, rings and end points."""
    xy = RING.end_point_xy_mm
    ring, point = (a.ravel() for a in np.mgrid[:RINGS, : len(xy)])
    centres = np.column_stack([xy[point], SPACING_MM * (ring - (RINGS - 1) / 2)])
    order = np.random.default_rng(0).permutation(len(ring)) if shuffle else np.arange(len(ring))
    return centres[order], ring[order], point[order]


def test_crystals_are_found_in_any_order():
    """End point 0 is the first at or after the top: the second of block 0, which is centred."""
    centres, ring, point = crystals()
    found = cylinder(centres, WHERE)
    np.testing.assert_array_equal(found.ring, ring)
    np.testing.assert_array_equal(found.end_point, (point - 1) % RING.end_points)
    assert (found.rings, found.end_points) == (RINGS, RING.end_points)
    assert found.spacing_mm == pytest.approx(SPACING_MM)
    assert found.offset_deg == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("change", ["one less", "layers", "odd", "turned"])
def test_other_scanners_are_refused(change):
    centres, ring, _ = crystals(shuffle=False)
    if change == "one less":
        centres = centres[1:]
    elif change == "layers":
        centres = np.concatenate([centres, centres * [1.1, 1.1, 1]])
    elif change == "odd":
        angle = 2 * np.pi * np.arange(7) / 7
        centres = np.column_stack([np.sin(angle), np.cos(angle), 0 * angle])
    else:
        c, s = np.cos(0.1), np.sin(0.1)
        centres[ring == 0] = centres[ring == 0] @ [[c, s, 0], [-s, c, 0], [0, 0, 1]]
    with pytest.raises(InputError, match="crystals"):
        cylinder(centres, WHERE)


def test_bins_are_those_of_the_ring():
    view, tangential = bins_of(RING.end_points)
    starts, ends = RING.lors_mm(np.arange(RING.views))
    seen = np.argwhere(view >= 0)
    assert (
        len(seen)
        == RING.views * RING.radial_bins
        == len({frozenset(pair) for pair in seen.tolist()})
    )
    for start, end in seen:
        place = view[start, end], tangential[start, end]
        np.testing.assert_array_equal(starts[place], RING.end_point_xy_mm[start])
        np.testing.assert_array_equal(ends[place], RING.end_point_xy_mm[end])


def events(count=5000, seed=1):
    pairs = np.random.default_rng(seed).integers(0, RINGS * RING.end_points, (count, 2))
    return np.sort(pairs, axis=1)[:, ::-1]  # as PETSIRD orders them


def test_events_are_counted_on_their_lines_whichever_comes_first():
    centres, ring, point = crystals()
    pairs = events()
    one = histogrammed([pairs[:3000], pairs[3000:]], cylinder(centres, WHERE))
    other = histogrammed([pairs[:, ::-1]], cylinder(centres, WHERE))
    kept = (point[pairs[:, 0]] != point[pairs[:, 1]]).sum()
    assert sum(a.sum() for a in one.values()) == kept
    assert one.keys() == other.keys() == set(range(1 - RINGS, RINGS))
    for difference, array in one.items():
        np.testing.assert_array_equal(array, other[difference])
        distance = np.abs(ring[pairs[:, 0]] - ring[pairs[:, 1]])
    assert one[0].sum() == ((distance == 0) & (point[pairs[:, 0]] != point[pairs[:, 1]])).sum()


def written(petsird, pairs, path):
    """A PETSIRD file of the toy scanner: each crystal a module of one cube."""

    def moved(to):
        return petsird.RigidTransformation(matrix=np.column_stack([np.eye(3), to]).astype("f4"))

    centres, *_ = crystals()
    corners = [petsird.Coordinate(c=np.array(c, "f4")) for c in np.ndindex(2, 2, 2)]
    cube = petsird.BoxSolidVolume(shape=petsird.BoxShape(corners=corners), material_id=1)
    element = petsird.ReplicatedBoxSolidVolume(object=cube, transforms=[moved([-0.5] * 3)])
    module = petsird.ReplicatedDetectorModule(
        object=petsird.DetectorModule(detecting_elements=element),
        transforms=[moved(centre) for centre in centres],
    )
    geometry = petsird.ScannerGeometry(replicated_modules=[module])
    scanner = petsird.ScannerInformation(model_name="Toy", scanner_geometry=geometry)
    edges = petsird.BinEdges(edges=np.array([0, 1], "f4"))
    scanner.tof_bin_edges, scanner.tof_resolution = [[edges]], [[1.0]]
    scanner.event_energy_bin_edges, scanner.energy_resolution_at_511 = [edges], [0.1]
    scanner.prompt_event_policy = petsird.CoincidencePolicy.REJECT_HIGHER_MULTIPLES
    found = [petsird.CoincidenceEvent(detection_bins=list(map(int, p)), tof_idx=0) for p in pairs]
    blocks = [
        petsird.TimeBlock.EventTimeBlock(
            petsird.EventTimeBlock(
                time_interval=petsird.TimeInterval(start=n, stop=n + 1), prompt_events=[[part]]
            )
        )
        for n, part in enumerate((found[:1000], found[1000:]))
    ]
    with path.open("wb") as file, petsird.BinaryPETSIRDWriter(file) as writer:
        writer.write_header(petsird.Header(scanner=scanner))
        writer.write_time_blocks(blocks)


def test_a_file_is_read(tmp_path):
    petsird = pytest.importorskip("petsird")
    path, pairs = tmp_path / "scan.petsird", events()
    written(petsird, pairs, path)
    found = read(path, ScanSettings(patient_position="HFS"))
    counts = histogrammed([pairs], cylinder(crystals()[0], path))
    for segment in found.segments:
        np.testing.assert_array_equal(segment.data, counts[segment.differences[0]])
    assert found.acquisition.detectors_per_ring == RING.end_points
    assert found.acquisition.scanner == "Toy"
    assert single_slice_rebinned(found, 3).sum() == sum(a.sum() for a in counts.values())
    assert read(path, ScanSettings(array="delayeds")).segments[0].data.sum() == 0
    whole = path.read_bytes()
    for data in (whole[:-100], whole[:5000], b"", whole.replace(b"petsird", b"Petsird", 1)[:99]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="is not a readable PETSIRD file"):
            read(path, ScanSettings())


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "petsird", None)
    (tmp_path / "scan.petsird").write_bytes(b"")
    with pytest.raises(InputError, match="needs the package petsird"):
        read(tmp_path / "scan.petsird", ScanSettings())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of a good file of few events."""
    petsird = pytest.importorskip("petsird")
    path = tmp_path_factory.mktemp("petsird") / "scan.petsird"
    written(petsird, events()[:60], path)
    return path.read_bytes()


@fuzz
@given(st.data())
def test_spoilt_files_are_read_or_refused(tmp_path_factory, whole, data):
    spoilt = bytearray(whole[: data.draw(st.one_of(st.none(), st.integers(0, len(whole))))])
    for _ in range(data.draw(st.integers(0, 4)) if spoilt else 0):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "spoilt.petsird"
    path.write_bytes(spoilt)
    tracemalloc.start()
    refusal = ""
    try:
        read(path, ScanSettings(patient_position="HFS"))
    except InputError as error:
        refusal = str(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(refusal) < 2200
    assert peak < 64 * 2**20
