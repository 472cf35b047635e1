import json

import pytest

from models.report.classical import classical
from pipeline.storage.errors import InputError


def written(tmp_path, at_end=()):
    curve = [
        {"iterations": n, "fwhm_mm": width, "psnr_db": 20 + n - width / 5}
        for n in (1, 2, 3)
        for width in (0.0, 5.0)
    ]
    betas = [{"beta": beta, "psnr_db": 24 - beta} for beta in (0.01, 0.1, 1.0)]
    found = {
        "level": 100.0,
        "slices": 7,
        "OSEM-filter": {
            "chosen": {"iterations": 3, "fwhm_mm": 0.0},
            "psnr_db": 23.0,
            "at_end": list(at_end),
            "curve": curve,
        },
        "MAP": {"chosen": {"beta": 0.01}, "psnr_db": 23.99, "at_end": [], "curve": betas},
    }
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(found))
    return path


def test_curves_and_choices_are_drawn(tmp_path):
    figure = classical(written(tmp_path))
    left, right = figure.axes
    assert [line.get_label() for line in left.lines[:2]] == ["0 mm", "5 mm"]
    assert left.lines[0].get_xydata().tolist() == [[1, 21], [2, 22], [3, 23]]
    assert left.lines[2].get_xydata().tolist() == [[3, 23]]
    assert left.get_title() == "OSEM + filter: 3 iterations, 0 mm"
    assert right.lines[0].get_xdata() == pytest.approx([1, 10, 100])
    assert right.lines[1].get_xydata().tolist() == [[1, 23.99]]
    assert "7 slices" in figure.get_suptitle()


def test_a_choice_at_an_end_is_said_so(tmp_path):
    left, right = classical(written(tmp_path, at_end=["iterations"])).axes
    assert "at an end of what was compared" in left.get_title()
    assert "at an end" not in right.get_title()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"OSEM-filter": {"curve": [1]}}'])
def test_damaged_files_are_refused(tmp_path, text):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(InputError, match="holds no curves"):
        classical(path)
    with pytest.raises(InputError, match="does not exist"):
        classical(tmp_path / "none.json")
