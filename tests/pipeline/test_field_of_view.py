"""A head that reaches beyond the scanner's field of view is refused."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.planes import NO_TEXTURE, SETTINGS, centres
from pipeline.phantom import phantom
from pipeline.slices import check_field_of_view, slices
from pipeline.sources.labels import WHITE_MATTER
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import LABELS


@given(
    st.integers(5, 40),
    st.integers(5, 40),
    st.tuples(st.floats(0.5, 3), st.floats(0.5, 3)),
    st.floats(0.1, 0.99),
    st.data(),
)
def test_a_head_beyond_the_field_of_view_is_refused(rows, columns, voxel_mm, part, data):
    """One voxel is enough, wherever it is, and however little activity it has."""
    planes = np.zeros((2, rows, columns), np.float32)
    row = data.draw(st.integers(0, rows - 1).filter(lambda n: 2 * n + 1 != rows))
    planes[1, row, data.draw(st.integers(0, columns - 1))] = 1e-3
    y, x = centres((rows, columns), voxel_mm)
    reach_mm = np.hypot(y, x)[planes[1] > 0].item()
    check_field_of_view(planes, np.array(voxel_mm), reach_mm * 1.001)
    with pytest.raises(InputError, match=f"the head reaches {reach_mm:.1f} mm") as refused:
        check_field_of_view(planes, np.array(voxel_mm), reach_mm * part)
    assert "100 % of it lies outside" in refused.value.problem


def test_the_share_of_a_head_that_lies_outside_is_named():
    """A disk of 100 mm in fields of view of 4 mm less, and of half of it."""
    y, x = centres((220, 220), (1.0, 1.0))
    disk = (np.hypot(y, x) <= 100)[None].astype(np.float32)
    for radius_mm, share in ((96, 7.84), (90, 19), (50, 75)):  # 1 - (radius / 100)^2
        with pytest.raises(InputError) as refused:
            check_field_of_view(disk, np.ones(2), radius_mm)
        said = re.search(r"([\d.]+) % of it lies outside", refused.value.problem)
        assert float(said[1]) == pytest.approx(share, abs=0.3)


def test_slices_of_a_head_beyond_the_field_of_view_are_not_written(tmp_path):
    labels = np.zeros((40, 60, 60), np.uint8)
    labels[:, 10:50, 10:50] = WHITE_MATTER  # reaches 28.3 mm
    facts = {"source": "test", "labels_sha256": "-", "voxel_mm": np.array([1.0, 1.0, 1.0])}
    hdf5.write(tmp_path / "labels.h5", LABELS, {"labels": labels}, hdf5.provenance({}, **facts))
    phantom(tmp_path / "labels.h5", tmp_path / "phantom.h5", "subject04", 1, NO_TEXTURE)
    output = tmp_path / "slices.h5"
    with pytest.raises(InputError, match=r"field of view of radius 25\.0 mm, and the head reaches"):
        slices(tmp_path / "phantom.h5", output, "subject04", 1, SETTINGS, 1, 25.0)
    assert not output.exists()
    slices(tmp_path / "phantom.h5", output, "subject04", 1, SETTINGS, 1, 28.0)
