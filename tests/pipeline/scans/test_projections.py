"""Single-slice rebinning, against ring pairs that are summed by hand."""

import logging
from pathlib import Path

import numpy as np
import pytest

from helpers.interfile import toy_segments
from pipeline.scans.projections import (
    Acquisition,
    Projections,
    ScanSettings,
    Segment,
    segments_within,
    single_slice_rebinned,
)
from pipeline.storage.errors import InputError

RINGS = 4
SPAN_1 = [(d, d) for d in range(-3, 4)]
SPAN_3 = [(-3, -2), (-1, 1), (2, 3)]
SPAN_3_ALONE = [(-1, 1)]
BACKWARDS = SPAN_3[::-1]


def projections(segments, towards="inferior", position="HFS", rings=RINGS, dtype=int):
    found = tuple(Segment(d, array.sum(axis=0).astype(dtype)) for d, array in segments)
    acquisition = Acquisition(rings=rings, patient_position=position)
    return Projections(acquisition, found, -2, towards, Path("scan.hs"), "")


def by_hand(pairs, limit):
    """Plane p holds all pairs of rings whose numbers sum to p."""
    shape = next(iter(pairs.values())).shape[1:]
    planes = np.zeros((2 * RINGS - 1, *shape), int)
    for (one, other), counts in pairs.items():
        if abs(one - other) <= limit:
            planes[one + other] += counts.sum(axis=0)
    return planes


@pytest.mark.parametrize(
    ("ranges", "limit", "reach"),
    [
        (SPAN_1, 3, 3),
        (SPAN_1, 0, 0),
        (SPAN_1, 2, 2),
        (SPAN_3, 3, 3),
        (SPAN_3, 2, 1),
        (BACKWARDS, 9, 3),
    ],
)
def test_planes_are_the_sums_over_ring_pairs(ranges, limit, reach):
    segments, pairs = toy_segments(ranges)
    found = single_slice_rebinned(projections(segments), limit)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found[::-1], by_hand(pairs, reach))


def test_one_count_in_every_pair_gives_the_number_of_pairs():
    ones = [((d, d), np.ones((1, RINGS - abs(d), 1, 1))) for d in range(-3, 4)]
    found = single_slice_rebinned(projections(ones), 3).ravel()
    assert found.tolist() == [1, 2, 3, 4, 3, 2, 1]
    found = single_slice_rebinned(projections(ones), 0).ravel()
    assert found.tolist() == [1, 0, 1, 0, 1, 0, 1]


def test_places_of_the_mmr_are_those_of_its_headers():
    """Axial sizes and ring differences of STIR's template of span 11, 64 rings."""
    sizes = [127, 115, 93, 71, 49, 27]
    ranges = [(-5, 5), (6, 16), (17, 27), (28, 38), (39, 49), (50, 60)]
    for size, (low, high) in zip(sizes, ranges, strict=True):
        for sign in (1, -1):
            segment = Segment(tuple(sorted((sign * low, sign * high))), np.zeros((size, 1, 1)))
            assert segment.positions(64) == size
            places = range(127)[segment.planes(64)]
            assert len(places) == size
            assert places[0] + places[-1] == 126, "centred"


@pytest.mark.parametrize(
    ("towards", "position", "reversed_"),
    [
        ("inferior", "HFS", True),
        ("inferior", "HFP", True),
        ("inferior", "FFS", False),
        ("superior", "HFS", False),
        ("superior", "FFP", True),
    ],
)
def test_planes_run_towards_superior(towards, position, reversed_):
    segments, pairs = toy_segments(SPAN_1)
    found = single_slice_rebinned(projections(segments, towards, position), 3)
    np.testing.assert_array_equal(found[:: -1 if reversed_ else 1], by_hand(pairs, 3))


def test_an_unknown_position_is_refused():
    with pytest.raises(InputError, match="how the patient lies") as refused:
        single_slice_rebinned(projections(toy_segments(SPAN_1)[0], position=None), 3)
    assert "HFS, HFP, FFS, FFP" in refused.value.remedy


def test_segments_partly_beyond_the_limit_are_left_out_and_the_log_says_so(caplog):
    scan = projections(toy_segments(SPAN_3)[0])
    assert [s.differences for s in segments_within(scan, 2)] == [(-1, 1)]
    with caplog.at_level(logging.INFO):
        single_slice_rebinned(scan, 2)
    assert "rebinned the ring differences (-1, 1)" in caplog.text
    with pytest.raises(InputError, match="within 0") as refused:
        single_slice_rebinned(scan, 0)
    assert refused.value.remedy == "set the limit to 1, or above"


def test_fractions_stay_float():
    segments, pairs = toy_segments(SPAN_1)
    found = single_slice_rebinned(projections(segments, dtype=np.float32), 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[::-1], by_hand(pairs, 3))


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "f4"), (np.inf, "f8"), (1e300, "f8"), (2**54, "u8")]
)
def test_what_is_no_count_is_refused(value, dtype):
    segments, _ = toy_segments(SPAN_1)
    scan = projections(segments, dtype=dtype)
    scan.segments[3].data[1, 2, 3] = value
    with pytest.raises(InputError, match="has 1 bins that are not finite, or too large"):
        single_slice_rebinned(scan, 3)


def test_rings_are_those_of_the_direct_segment_if_the_file_does_not_say():
    for ranges in (SPAN_1, SPAN_3, SPAN_3_ALONE):
        assert projections(toy_segments(ranges)[0], rings=None).rings == RINGS


@pytest.mark.parametrize(
    ("ranges", "rings", "problem"),
    [
        ([(0, 0), (1, 1)], 5, "4 axial positions for ring differences from 0 to 0, where 5"),
        ([(3, 3), (0, 0)], 3, "ring differences from 3 to 3 on 3 rings"),
        ([(0, 0), (0, 0)], 4, "ring difference 0 in two segments"),
        ([(-1, 1), (1, 2)], 4, "ring difference 1 in two segments"),
        ([(1, 1), (2, 2)], 4, "no segment with ring difference 0"),
    ],
)
def test_segments_that_contradict_are_refused(ranges, rings, problem):
    segments, _ = toy_segments(ranges)
    with pytest.raises(InputError, match=problem):
        projections(segments, rings=rings)


def test_a_range_that_runs_backwards_is_refused():
    with pytest.raises(InputError, match="from 1 down to -1"):
        projections([((1, -1), np.zeros((1, 7, 3, 4))), ((0, 0), np.zeros((1, 4, 3, 4)))])


@pytest.mark.parametrize(
    "wrong", [{"towards": "up"}, {"patient_position": "HFX"}, {"patient_position": ""}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(InputError) as refused:
        ScanSettings(**wrong)
    assert refused.value.where == name
