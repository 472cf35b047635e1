import numpy as np
import pandas as pd
import pytest

from helpers.measurements import legend_of
from models.evaluation.lesions import COLUMNS
from models.report.lesions import lesion_figure, lesion_table
from pipeline.storage.errors import InputError

ROWS = {"PnPNet": ["PnPNet"], "LegoPET": ["LegoPET", "LegoPET-seed2"]}
TRUE = {"hot": (40.0, 10.0), "cold": (30.0, 20.0)}
"""True differences of a kind's small and large lesions."""


def lines(model, recovery, variance, *, samples=1, setting=np.nan, dose=0.05, auc=0.75):
    """Lines of 2 subjects, 3 slices each: a small hot or cold lesion, and a large one."""
    for subject in ("subject05", "subject06"):
        for index in (10, 14, 18):
            for number, kind in enumerate(("hot", "hot", "cold", "cold")):
                true = TRUE[kind][number % 2]
                yield {
                    "subject": subject,
                    "rotation": 0,
                    "slice_index": index,
                    "number": number + 1,
                    "tissue": "GM",
                    "kind": kind,
                    "diameter_mm": 7.0 if number % 2 == 0 else 13.0,
                    "dose": dose,
                    "model": model,
                    "samples": samples,
                    "setting": setting,
                    # The large ones of few activity are shown twice as well.
                    "difference": recovery * true * (1 + number % 2),
                    "true_difference": true,
                    "variance": variance,
                    "level": 50.0,
                    "auc": auc if kind == "hot" else 0.5,
                    "false_structure": 0.01,
                    "threshold": 12.5,
                }


def write(path, *parts):
    table = pd.DataFrame([line for part in parts for line in part], columns=COLUMNS)
    table.to_csv(path, index=False)
    return path


def measured(folder, name="lesions.csv.gz", dose=0.05):
    return write(
        folder / name,
        lines("OSEM-filter", 0.6, 25.0, dose=dose),
        lines("MAP", 0.5, 16.0, dose=dose),
        lines("PnPNet", 0.3, 4.0, dose=dose),
        lines("LegoPET", 0.2, 36.0, dose=dose),
        lines("LegoPET-seed2", 0.4, 36.0, dose=dose),
        lines("LegoPET", 0.2, 9.0, samples=2, dose=dose, auc=0.95),
        lines("LegoPET-seed2", 0.4, 9.0, samples=2, dose=dose, auc=0.85),
    )


@pytest.fixture
def tables(tmp_path):
    """The numbers, and the Markdown text, of two doses."""
    files = [measured(tmp_path, f"{dose}.csv.gz", dose) for dose in (0.05, 1.0)]
    outputs = {f"output_{kind}": tmp_path / kind for kind in ("csv", "markdown", "html")}
    lesion_table(files, ROWS, **outputs)
    html = (tmp_path / "html").read_text(encoding="utf-8")
    assert html.count("<table>") == 6
    return pd.read_csv(tmp_path / "csv"), (tmp_path / "markdown").read_text(encoding="utf-8")


def test_recovery_is_a_ratio_of_means(tables):
    numbers, _ = tables
    osem = numbers[numbers["row"] == "OSEM + filter"].iloc[0]
    assert osem["recovery_small"] == pytest.approx(0.6)
    assert osem["recovery_large"] == pytest.approx(1.2)
    # Not 0.9, the mean of both ratios: small lesions have more activity.
    assert osem["recovery_hot"] == pytest.approx(0.6 * (40 + 2 * 10) / (40 + 10))
    assert osem["recovery_cold"] == pytest.approx(0.6 * (30 + 2 * 20) / (30 + 20))
    # All lesions of a kind and size are alike here.
    assert osem["recovery_small_low"] == osem["recovery_small_high"] == pytest.approx(0.6)


def test_rows_are_methods_replicates_together_and_means_of_samples(tables):
    numbers, _ = tables
    of_dose = numbers[numbers["dose"] == 0.05].set_index("row")
    assert [*of_dose.index] == [
        "OSEM + filter", "MAP", "PnPNet", "LegoPET", "LegoPET, mean of 2"
    ]  # fmt: skip
    assert len(numbers) == 10
    assert of_dose["noise"].tolist() == pytest.approx([0.1, 0.08, 0.04, 0.12, 0.06])
    assert of_dose.loc["LegoPET", "recovery_small"] == pytest.approx(0.3)
    low, high = of_dose.loc["LegoPET", ["recovery_small_low", "recovery_small_high"]]
    assert low == pytest.approx(0.2)  # one seed alone, in a draw of two
    assert high == pytest.approx(0.4)
    mean = of_dose.loc["LegoPET, mean of 2"]
    assert mean["auc_hot"] == pytest.approx(0.9)
    assert mean["auc_cold"] == pytest.approx(0.5)
    assert mean["auc_small"] == pytest.approx(0.7)
    assert (of_dose["false_structure"] == 0.01).all()


def test_differences_from_map_are_of_the_same_lesions(tables):
    numbers, text = tables
    found = numbers[numbers["dose"] == 0.05].set_index("row")
    assert found.loc["MAP"].filter(like="minus_map").isna().all()
    factor = (40 + 2 * 10) / (40 + 10)
    mean = found.loc["LegoPET, mean of 2"]
    hot = [f"recovery_hot_minus_map{end}" for end in ("", "_low", "_high")]
    assert mean[hot].tolist() == pytest.approx([-0.2 * factor, -0.3 * factor, -0.1 * factor])
    auc = [f"auc_hot_minus_map{end}" for end in ("", "_low", "_high")]
    assert mean[auc].tolist() == pytest.approx([0.15, 0.1, 0.2])
    assert found.loc["OSEM + filter", "recovery_cold_minus_map"] == pytest.approx(0.1 * 70 / 50)
    assert "| MAP | - | - | - | - |" in text


def test_a_difference_has_no_spread_of_what_both_have(tmp_path):
    """Slices in which lesions are found worse by both methods widen no difference."""
    path = write(
        tmp_path / "lesions.csv",
        *(
            ({**line, "auc": line["auc"] - line["slice_index"] / 100} for line in of_model)
            for of_model in (
                lines("OSEM-filter", 0.6, 25.0),
                lines("MAP", 0.5, 16.0),
                lines("PnPNet", 0.3, 4.0, auc=0.65),
            )
        ),
    )
    outputs = {f"output_{kind}": tmp_path / kind for kind in ("csv", "markdown", "html")}
    lesion_table([path], {"PnPNet": ["PnPNet"]}, **outputs)
    row = pd.read_csv(tmp_path / "csv").set_index("row").loc["PnPNet"]
    assert row["auc_hot_high"] - row["auc_hot_low"] > 0.03
    ends = row[[f"auc_hot_minus_map{end}" for end in ("", "_low", "_high")]]
    assert ends.tolist() == pytest.approx([-0.1] * 3)


def test_tables_to_read_say_what_they_show(tables):
    _, text = tables
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "### Lesions: contrast recovery, 5 % of the counts",
        "### Lesions: detection, 5 % of the counts",
        "### Lesions: differences from MAP, 5 % of the counts",
        "### Lesions: contrast recovery",
        "### Lesions: detection",
        "### Lesions: differences from MAP",
    ]
    assert "24 lesions in 6 slices of 2 subjects" in text
    assert "7.0 to 13.0 mm diameter, small ones below 10.0 mm" in text
    assert "exceeds in 1 % of the mean slice (12.5 a.u. at 5 % of the counts, 12.5 a.u.)" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| MAP | 0.60")][:1]
    assert row.endswith("| 8.0 [8.0, 8.0] |")


def test_curves_join_settings_and_numbers_of_samples(tmp_path):
    curves = {
        "OSEM-filter": [
            write(
                tmp_path / "osem.csv",
                lines("OSEM-filter", 0.5, 16.0, setting=8.0),
                lines("OSEM-filter", 0.6, 25.0, setting=5.0),
            )
        ],
        "MAP": [write(tmp_path / "map.csv", lines("MAP", 0.5, 16.0, setting=0.1))],
    }
    figure = lesion_figure(measured(tmp_path), curves, ROWS)
    assert legend_of(figure) == ["OSEM + filter", "MAP", "PnPNet", "LegoPET"]
    hot, cold = figure.axes
    assert hot.get_title() == "hot lesions (12)"
    drawn = [line for line in cold.lines if line.get_color() == cold.lines[1].get_color()]
    factor = (30 + 2 * 20) / (30 + 20)
    curve, ring = (np.array(line.get_xydata()) for line in drawn[:2])
    np.testing.assert_allclose(curve, [[10, 0.6 * factor], [8, 0.5 * factor]])
    np.testing.assert_allclose(ring, [[10, 0.6 * factor]])
    (lego,) = [line for line in cold.lines if line.get_label() == "LegoPET"]
    np.testing.assert_allclose(lego.get_xydata(), [[12, 0.3 * factor], [6, 0.3 * factor]])
    assert "5 % of the counts" in figure.get_suptitle()


def test_missing_models_and_tables_are_refused(tmp_path):
    path = measured(tmp_path)
    with pytest.raises(InputError, match="has no rows of DeepPET"):
        lesion_figure(path, {}, {"DeepPET": ["DeepPET"]})
    with pytest.raises(InputError, match="does not exist"):
        lesion_figure(tmp_path / "none.csv.gz", {}, ROWS)
    damaged = tmp_path / "damaged.csv.gz"
    damaged.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="is not a readable CSV table"):
        lesion_figure(damaged, {}, ROWS)
