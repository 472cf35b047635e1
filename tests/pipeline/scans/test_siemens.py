"""Siemens' sinograms: prompts and randoms in one uncompressed file."""

import numpy as np
import pytest

from helpers import interfile as writer
from pipeline.scans import interfile
from pipeline.scans.projections import ScanSettings, single_slice_rebinned
from pipeline.scans.siemens import read, read_all
from pipeline.storage.errors import InputError

PLAIN = ScanSettings()
SPAN_1 = [(0, 0), (-1, -1), (1, 1), (-2, -2), (2, 2)]
SPAN_3 = [(-1, 1), (-3, -2), (2, 3)]
"""Of the three differences of the last segments, four rings have two."""


@pytest.mark.parametrize("ranges", [SPAN_1, SPAN_3])
@pytest.mark.parametrize("tof", [1, 3])
def test_prompts_and_randoms_come_back(tmp_path, ranges, tof):
    segments, _ = writer.toy_segments(ranges, tof=tof)
    path = writer.write_siemens(tmp_path, segments)
    found = read_all(path, PLAIN)
    assert list(found) == ["prompts", "randoms"]
    for factor, projections in enumerate(found.values(), 1):
        assert [s.differences for s in projections.segments] == ranges
        for segment, (_, array) in zip(projections.segments, segments, strict=True):
            np.testing.assert_array_equal(segment.data, factor * array.sum(axis=0))
        assert projections.acquisition.tof_bins == tof
        assert projections.first_tangential == -2
    randoms = read(path, ScanSettings(array="randoms"))
    np.testing.assert_array_equal(randoms.segments[0].data, found["randoms"].segments[0].data)


def test_it_rebins_to_what_interfile_does(tmp_path):
    segments, _ = writer.toy_segments(SPAN_3)
    one = single_slice_rebinned(read(writer.write_siemens(tmp_path, segments), PLAIN), 3)
    (tmp_path / "stir").mkdir()
    other = interfile.read(writer.write(tmp_path / "stir", segments, dtype="i2"), PLAIN)
    np.testing.assert_array_equal(one, single_slice_rebinned(other, 3))


def test_time_of_flight_may_be_an_axis(tmp_path):
    """As in the files that e7_tools writes for normalisation, say."""
    segments, _ = writer.toy_segments(SPAN_1, tof=3)
    path = writer.write_siemens(
        tmp_path,
        segments,
        names=["prompts"],
        gap=0,
        **{
            "number of dimensions": 4,
            "matrix axis label [2]": "sinogram views",
            "matrix axis label [3]": "number of sinograms",
            "matrix axis label [4]": "TOF bin",
            "matrix size [4]": 3,
            "number of scan data types": 1,
        },
    )
    found = read(path, PLAIN)
    assert found.acquisition.tof_bins == 3
    for segment, (_, array) in zip(found.segments, segments, strict=True):
        np.testing.assert_array_equal(segment.data, array.sum(axis=0))


def test_what_the_header_says_is_kept(tmp_path):
    found = read(writer.write_siemens(tmp_path, writer.toy_segments(SPAN_1)[0]), PLAIN).acquisition
    assert (found.scanner, found.rings, found.patient_position) == ("2008", 4, "HFS")
    assert found.ring_spacing_mm == 4.0625
    assert (found.radius_mm, found.bin_mm, found.arc_corrected) == (None, None, False)


def test_width_of_arc_corrected_bins_is_known(tmp_path):
    segments, _ = writer.toy_segments(SPAN_1)
    said = {"applied corrections": "{radial arc-correction}", "matrix axis label [1]": "x"}
    found = read(writer.write_siemens(tmp_path, segments, **said), PLAIN).acquisition
    assert (found.arc_corrected, found.bin_mm) == (True, 2.0445)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"%compression": "on"}, "compressed data"),
        ({"%compression": "maybe"}, "'maybe' as 'compression'"),
        ({"number of dimensions": 2}, "2 dimensions"),
        ({"matrix axis label [2]": "plane"}, "has the axes bin, plane, plane"),
        ({"matrix size [3]": 18}, "18 planes, and segments of"),
        ({"matrix size [1]": 10**12}, "has data of"),
        ({"%segment table": "{4,3}"}, "and segments of {4,3}"),
        ({"%segment table": "{4,3,3,0,4}"}, "and segments of {4,3,3,0,4}"),
        ({"%segment table": "{4,3,3,1,3}"}, "1 axial positions for ring differences from -2"),
        ({"%segment table": "{4,2,4,2,2}"}, "2 axial positions for ring differences from -1"),
        ({"%axial compression": 2}, "2 as 'axial compression'"),
        ({"%axial compression": None}, "lacks the key 'axial compression'"),
        ({"%maximum ring difference": 1}, "from -1 down to -2"),
        ({"number of rings": 9}, "9 rings give"),
        ({"number format": "complex"}, "'complex' as 'number format'"),
        ({"!number of bytes per pixel": 4}, "has data of"),
        ({"number of scan data types": 10**9}, "more than it has lines"),
        ({"number of scan data types": 3}, "lacks the key 'data offset in bytes[3]'"),
        ({"data offset in bytes [2]": 25}, "at 24 and 25"),
        ({"data offset in bytes [2]": 10**9}, "by its header"),
        ({"scale factor (mm/pixel) [3]": "inf"}, "not finite numbers"),
        ({"!name of data file": "other.s"}, "does not exist"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, changes, problem):
    path = writer.write_siemens(tmp_path, writer.toy_segments(SPAN_1)[0], **changes)
    with pytest.raises(InputError) as refused:
        read(path, PLAIN)
    assert problem in str(refused.value)


def test_data_of_another_name_are_refused(tmp_path):
    path = writer.write_siemens(tmp_path, writer.toy_segments(SPAN_1)[0])
    with pytest.raises(InputError, match="holds prompts, randoms, and no 'trues'"):
        read(path, ScanSettings(array="trues"))


def test_a_real_compressed_header_is_refused():
    path = writer.real_data() / "stir_headers/mMR_sinogram.s.hdr"
    with pytest.raises(InputError, match="compressed data") as refused:
        read(path, PLAIN)
    assert "intfcompr.exe" in refused.value.remedy


def test_a_real_header_fits_its_data_if_they_are_uncompressed(tmp_path, monkeypatch):
    """Data that are all holes, of the length that an uncompressed file has."""
    path = writer.real_data() / "stir_headers/mMR_sinogram.s.hdr"
    size = 344 * 252 * 4084 * 2
    text = path.read_text().replace("%compression:=on", "%compression:=off")
    text = text.replace("[2]:=73129037", f"[2]:={24504 + size}")
    (tmp_path / path.name).write_text(text)
    with (tmp_path / "mMR_sinogram.s").open("wb") as file:
        file.truncate(24504 + 2 * size)
    monkeypatch.setattr("pipeline.scans.siemens.sha256_of", lambda path: "")
    found = read(tmp_path / path.name, PLAIN)
    assert found.segments[0].data.shape == (64, 252, 344)
    assert [s.differences for s in found.segments[1:3]] == [(-1, -1), (1, 1)]
    assert found.segments[120].data.shape == (4, 252, 344)
    assert (found.acquisition.scanner, found.acquisition.patient_position) == ("2008", "HFS")
