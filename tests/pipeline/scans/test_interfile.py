"""STIR's Interfile: round trips in all layouts, real headers, and what is refused."""

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import interfile as writer
from pipeline.scans.headers import read_header
from pipeline.scans.interfile import read, read_acquisition, read_layout
from pipeline.scans.projections import ScanSettings, single_slice_rebinned
from pipeline.storage.errors import InputError

PLAIN = ScanSettings()
RANGES = {
    "span 1": [(0, 0), (-1, -1), (1, 1), (-2, -2), (2, 2)],
    "span 3": [(-3, -2), (-1, 1), (2, 3)],
    "ascending": [(d, d) for d in range(-3, 4)],
    "one": [(-3, 3)],
}


@settings(max_examples=150, deadline=None)
@given(
    order=st.sampled_from(writer.ORDERS),
    dtype=st.sampled_from(writer.DTYPES),
    byte_order=st.sampled_from("<>"),
    tof=st.sampled_from([1, 3]),
    offset=st.sampled_from([0, 1, 512]),
    ranges=st.sampled_from(sorted(RANGES)),
    tangential=st.integers(1, 5),
)
def test_every_layout_comes_back(order, dtype, byte_order, tof, offset, ranges, tangential):
    segments, _ = writer.toy_segments(RANGES[ranges], tof=tof, tangential=tangential)
    with tempfile.TemporaryDirectory() as folder:
        found = read(writer.write(folder, segments, order, dtype, byte_order, offset), PLAIN)
        for segment, (differences, array) in zip(found.segments, segments, strict=True):
            assert segment.differences == differences
            np.testing.assert_array_equal(segment.data, array.sum(axis=0))
        assert found.acquisition.tof_bins == tof
        assert found.first_tangential == -(tangential // 2)
        assert found.towards == "inferior"


@pytest.mark.parametrize(("order", "dtype"), [(o, d) for o in writer.ORDERS for d in writer.DTYPES])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_every_format_comes_back(tmp_path, order, dtype, byte_order):
    """Each combination for sure, of which the drawn ones may leave some out."""
    segments, _ = writer.toy_segments(RANGES["span 3"])
    found = read(writer.write(tmp_path, segments, order, dtype, byte_order), PLAIN)
    for segment, (_, array) in zip(found.segments, segments, strict=True):
        np.testing.assert_array_equal(segment.data, array[0])


def test_what_the_header_says_is_kept(tmp_path):
    found = read(writer.write(tmp_path, writer.toy_segments(RANGES["one"])[0]), PLAIN).acquisition
    assert (found.scanner, found.detectors_per_ring, found.rings) == ("Toy", 16, 4)
    assert found.ring_spacing_mm == pytest.approx(6.54)
    assert found.radius_mm == pytest.approx(307)
    assert found.bin_mm == pytest.approx(3)
    assert found.view_offset_deg == -5.23
    assert (found.arc_corrected, found.corrections) == (False, ())
    assert found.patient_position == "HFS"


def test_what_the_header_does_not_say_is_none(tmp_path):
    kept = ("applied corrections",)
    changes = dict.fromkeys(key for key in writer.SCANNER if key not in kept)
    path = writer.write(tmp_path, writer.toy_segments(RANGES["one"])[0], **changes)
    found = read(path, PLAIN)
    assert {getattr(found.acquisition, name) for name in vars(found.acquisition)} == {
        None, False, 1, ()
    }  # fmt: skip
    assert found.rings == 4


@pytest.mark.parametrize(
    ("said", "corrections", "arc_corrected"),
    [
        ("{arc correction}", ("arc correction",), True),
        ("{Arc  Corrected, decay}", ("arc corrected", "decay"), True),
        ("{None}", (), False),
        ("decay", ("decay",), False),
    ],
)
def test_corrections(tmp_path, said, corrections, arc_corrected):
    segments, _ = writer.toy_segments(RANGES["one"])
    path = writer.write(tmp_path, segments, **{"applied corrections": said})
    found = read(path, PLAIN).acquisition
    assert (found.corrections, found.arc_corrected) == (corrections, arc_corrected)


@pytest.mark.parametrize(
    ("orientation", "rotation", "position"),
    [
        ("head_in", "prone", "HFP"),
        ("feet_in", "supine", "FFS"),
        ("Feet In", "PRONE", "FFP"),
        ("head_in", "unknown", None),
        ("other", "supine", None),
        (None, None, None),
    ],
)
def test_positions(tmp_path, orientation, rotation, position):
    segments, _ = writer.toy_segments(RANGES["one"])
    said = {"patient orientation": orientation, "patient rotation": rotation}
    path = writer.write(tmp_path, segments, **said)
    assert read(path, PLAIN).acquisition.patient_position == position
    own = ScanSettings(patient_position="FFS")
    assert read(path, own).acquisition.patient_position == "FFS"


@pytest.mark.parametrize(
    ("said", "factor"),
    [
        ({"image scaling factor[1]": 0.5}, 0.5),
        ({"image scaling factor[1]": "{0.5,0.5,0.5}"}, 0.5),
        ({"quantification units": 0.25}, 0.25),
        ({"quantification units": 0.25, "image scaling factor[1]": 1}, 0.25),
        ({"quantification units": 1, "image scaling factor": 2}, 2),
    ],
)
def test_scale_factors_are_applied(tmp_path, said, factor):
    segments, _ = writer.toy_segments(RANGES["one"])
    found = read(writer.write(tmp_path, segments, dtype="i2", **said), PLAIN).segments[0].data
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, segments[0][1][0] * factor)


def test_spellings_of_keys_are_the_same(tmp_path):
    """Marks, blanks, capitals, comments, continued lines and the ends of lines of Windows."""
    segments, _ = writer.toy_segments(RANGES["span 3"])
    path = writer.write(tmp_path, segments)
    text = path.read_text()
    for old, new in (
        ("!number format := float", "  %Number_FORMAT:=Float ; in IEEE's format"),
        ("matrix axis label [4]", "!MATRIX  axis label[ 4 ]"),
        ("{ -3,-1,2}", "{ -3 , \\\n-1,2 }"),
        ("!PET data type", "; nothing := 1\n\n!PET data type"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    path.write_bytes(text.replace("\n", "\r\n").encode())
    np.testing.assert_array_equal(read(path, PLAIN).segments[1].data, segments[1][1][0])


def test_data_stay_on_the_disk(tmp_path):
    segments, _ = writer.toy_segments(RANGES["span 3"])
    path = writer.write(tmp_path, segments)
    assert all(isinstance(s.data, np.memmap) for s in read(path, PLAIN).segments)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name of data file": None}, "lacks the key 'name of data file'"),
        ({"name of data file": "other.s"}, "other.s: does not exist"),
        ({"name of data file": "."}, "no regular file"),
        ({"name of data file": "a\0b"}, "cannot be read"),
        ({"imagedata byte order": "MIDDLE"}, "'middle' as 'imagedata byte order'"),
        ({"!number format": "ascii"}, "'ascii' as 'number format', not one of float"),
        ({"!number of bytes per pixel": 3}, "3 bytes a number"),
        ({"!number format": "float", "!number of bytes per pixel": 2}, "2 bytes a number"),
        ({"number of dimensions": 3}, "3 dimensions"),
        ({"matrix axis label [3]": "axial coordinate"}, "has the axes tangential coordinate, "),
        ({"matrix axis label [4]": None}, "lacks the key 'matrix axis label[4]'"),
        ({"!matrix size [3]": -3}, "-3 as 'matrix size[3]'"),
        ({"!matrix size [3]": "nan"}, "'nan' as 'matrix size[3]', not whole"),
        ({"!matrix size [3]": 4}, "by its header"),
        ({"!matrix size [3]": 2}, "by its header"),
        ({"!matrix size [1]": 10**12}, "by its header"),
        ({"!matrix size [1]": 10**30}, "not whole numbers"),
        ({"!matrix size [4]": 4}, "axial positions of 3 segments, not 4"),
        ({"!matrix size [2]": "{3,7}"}, "axial positions of 2 segments, not 3"),
        ({"!matrix size [2]": "{0,7,3}"}, "0 axial positions in a segment"),
        ({"!matrix size [2]": "{4,7,2}"}, "4 axial positions for ring differences from -3 to -2"),
        ({"minimum ring difference per segment": "{0}"}, "ring differences of 1 segments, not 3"),
        ({"minimum ring difference per segment": "{-3,-1,4}"}, "from 4 down to 3"),
        ({"maximum ring difference per segment": "{-2,1,9}"}, "from 2 to 9 on 4 rings"),
        ({"maximum ring difference per segment": "{-2,2,3}"}, "ring difference 2 in two segments"),
        ({"Number of rings": 0}, "0 as 'number of rings'"),
        ({"Number of rings": 5}, "where 5 rings give"),
        ({"Inner ring diameter (cm)": -1}, "-1 as 'inner ring diameter (cm)', not a positive"),
        ({"Inner ring diameter (cm)": "1e999"}, "not finite numbers"),
        ({"Distance between rings (cm)": "nan"}, "'nan' as 'distance between rings (cm)'"),
        ({"Average depth of interaction (cm)": -2}, "-2 cm as average depth"),
        ({"View offset (degrees)": "{1,2}"}, "not one number"),
        ({"applied corrections": None}, "does not say whether it is arc-corrected"),
        ({"image scaling factor[1]": "{1,2}"}, "several scale factors"),
        ({"image scaling factor[1]": 0}, "scale factor 0"),
        ({"quantification units": 2, "image scaling factor": 3}, "several scale factors"),
        ({"number of time frames": 2}, "2 time frames"),
        ({"!imaging modality": "NM"}, "'nm' as 'imaging modality'"),
        ({"!PET data type": "Image"}, "'image' as 'pet data type'"),
        ({"data offset in bytes[1]": 4}, "by its header"),
        ({"data offset in bytes[1]": -4}, "-4 as 'data offset in bytes[1]'"),
        (
            {"Scanner geometry (BlocksOnCylindrical/Cylindrical/Generic)": "Generic"},
            "the scanner geometry 'generic'",
        ),
        ({"matrix size [4]": 5}, "both '3' and '5' as 'matrix size[4]'"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, changes, problem):
    path = writer.write(tmp_path, writer.toy_segments(RANGES["span 3"])[0], **changes)
    with pytest.raises(InputError) as refused:
        read(path, PLAIN)
    assert problem in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert len(str(refused.value)) < 1500


@pytest.mark.parametrize("name", ["BlocksOnCylindrical", "Cylindrical"])
def test_crystals_and_blocks_on_rings_are_read(tmp_path, name):
    key = "Scanner geometry (BlocksOnCylindrical/Cylindrical/Generic)"
    read(writer.write(tmp_path, writer.toy_segments(RANGES["span 3"])[0], **{key: name}), PLAIN)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: b"", "does not begin with"),
        (lambda text: text[20:], "does not begin with"),
        (lambda text: text.replace(b"!END OF INTERFILE :=", b""), "ends without '!END OF"),
        (lambda text: text[: len(text) // 2], "ends without|has no ':='"),
        (lambda text: text.replace(b"!type of data :=", b"!type of data"), "no ':=' in line 3"),
        (lambda text: text + bytes(2**20), "longer than"),
    ],
)
def test_what_is_no_header_is_refused(tmp_path, change, problem):
    path = writer.write(tmp_path, writer.toy_segments(RANGES["span 3"])[0])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=problem):
        read(path, PLAIN)


def test_a_missing_header_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "scan.hs", PLAIN)


def test_data_cut_off_or_too_long_are_refused(tmp_path):
    path = writer.write(tmp_path, writer.toy_segments(RANGES["span 3"])[0])
    data = (tmp_path / "scan.s").read_bytes()
    for wrong in (data[:-1], data + b"0", b""):
        (tmp_path / "scan.s").write_bytes(wrong)
        with pytest.raises(InputError, match=f"has {len(wrong)} bytes, {len(data)} by its header"):
            read(path, PLAIN)


# --- real files --------------------------------------------------------------------------------


def test_stirs_own_simulation_is_read_as_by_hand():
    """Interfile (view 64, axial 27, tangential 75), as its header says; STIR goes to inferior."""
    folder = writer.real_data() / "stir_recon_demo"
    stored = np.fromfile(folder / "smalllong.s", "<f4").reshape(64, 27, 75)
    found = read(folder / "smalllong.hs", ScanSettings(patient_position="HFS"))
    assert [s.differences for s in found.segments] == [(-8, 8)]
    np.testing.assert_array_equal(found.segments[0].data, stored.transpose(1, 0, 2))
    planes = single_slice_rebinned(found, 8)
    np.testing.assert_array_equal(planes, stored.transpose(1, 0, 2)[::-1])
    acquisition = found.acquisition
    assert (acquisition.arc_corrected, acquisition.rings, acquisition.bin_mm) == (True, 14, 3)
    assert acquisition.radius_mm == pytest.approx(307)
    assert found.first_tangential == -37


@pytest.mark.parametrize(
    ("name", "rings", "detectors", "radius_mm", "spacing_mm", "offset_deg", "bin_mm", "position"),
    [
        ("Siemens_mMR_seg2.hs", 64, 504, 335, 4.0625, 0, 2.08815, "HFS"),
        ("mMR_template_span11.hs", 64, 504, 335, 4.0625, 0, 2.08815, None),
        ("GE_Signa_template.hs", 45, 448, 320.3, 5.56, -5.23, 2.24608, None),
        ("NeuroLF-15mm.hs", 48, 256, 143.76007, 3.313, -178.143, None, None),
    ],
)
def test_real_headers(
    name, rings, detectors, radius_mm, spacing_mm, offset_deg, bin_mm, position
):  # fmt: skip
    header = read_header(writer.real_data() / "stir_headers" / name, to_the_end=True)
    found = read_acquisition(header, 1, None)
    assert (found.rings, found.detectors_per_ring) == (rings, detectors)
    assert found.radius_mm == pytest.approx(radius_mm)
    assert found.ring_spacing_mm == pytest.approx(spacing_mm)
    assert found.view_offset_deg == offset_deg
    assert found.bin_mm == (bin_mm and pytest.approx(bin_mm))
    assert found.patient_position == position
    assert found.arc_corrected is False


@pytest.mark.parametrize(
    ("name", "views", "tangential", "segments", "planes"),
    [
        ("Siemens_mMR_seg2.hs", 252, 344, 5, 314),
        ("mMR_template_span11.hs", 252, 344, 11, 837),
        ("GE_Signa_template.hs", 224, 357, 45, 1981),
        ("NeuroLF-15mm.hs", 128, 180, 95, 48**2),
    ],
)
def test_real_layouts_fit_their_scanners(tmp_path, name, views, tangential, segments, planes):
    """With data that are all holes, of the length that the header asks for."""
    header = read_header(writer.real_data() / "stir_headers" / name, to_the_end=True)
    layout = read_layout(header)
    assert (layout.by_view, layout.tof) == (True, 1)
    assert (layout.views, layout.tangential) == (views, tangential)
    assert (len(layout.axial), sum(layout.axial)) == (segments, planes)
    text = header.path.read_text().replace(header.text("name of data file"), "scan.s")
    (tmp_path / "scan.hs").write_text(text)
    with (tmp_path / "scan.s").open("wb") as file:
        file.truncate(sum(layout.sizes) * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.scans.interfile.sha256_of", lambda path: "")
        found = read(tmp_path / "scan.hs", PLAIN)
    assert len(found.segments) == segments
