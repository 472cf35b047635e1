import re
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from helpers.small_models import NETWORK
from helpers.table1 import ROWS, make, rows_of
from helpers.trainings import run, split
from models import checkpoints
from models.evaluation.bootstrap import Bootstrap
from models.evaluation.metrics_table import COLUMNS, write_table
from models.report.table1 import PAPER, Published, parameters_in
from pipeline.storage.errors import InputError

# --- intervals -----------------------------------------------------------------------------------


def images(subjects, slices, rotations=1):
    index = pd.MultiIndex.from_product([range(subjects), range(slices), range(rotations)])
    return index.to_frame(index=False, name=["subject", "slice_index", "rotation"])


@pytest.mark.parametrize(("subjects", "slices"), [(1, 400), (400, 1)])
def test_interval_of_normal_data_is_close_to_the_analytic_one(subjects, slices):
    values = np.random.default_rng(5).normal(30, 2, (1, 400))
    mean, low, high = Bootstrap(images(subjects, slices)).interval(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.06 * half)


def test_subjects_that_differ_make_the_interval_wider():
    # Variance of the mean: the subjects' over their number, and the slices' over all slices.
    rng = np.random.default_rng(6)
    subjects, slices = 50, 20
    values = rng.normal(0, 3, (subjects, 1)) + rng.normal(0, 1, (subjects, slices))
    mean, low, high = Bootstrap(images(subjects, slices)).interval(values.reshape(1, -1))
    between = values.mean(axis=1).var() / subjects
    within = values.var(axis=1).mean() / values.size
    half = 1.96 * np.sqrt(between + within)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.08 * half)


def test_rotations_of_a_slice_are_one_observation():
    values = np.random.default_rng(7).normal(0, 1, (1, 60))
    once = Bootstrap(images(2, 30)).interval(values)
    five_times = Bootstrap(images(2, 30, 5)).interval(np.repeat(values, 5, axis=1))
    assert five_times == pytest.approx(once)


def test_replicates_are_averaged_and_resampled():
    rng = np.random.default_rng(8)
    one = rng.normal(30, 0.1, 100)
    bootstrap = Bootstrap(images(2, 50))
    alone, seeds = (
        bootstrap.interval(one[None]),
        bootstrap.interval(np.stack([one - 1, one, one + 1])),
    )
    assert seeds[0] == pytest.approx(alone[0])
    assert seeds[2] - seeds[1] > 1 > alone[2] - alone[1]
    assert bootstrap.interval(np.stack([one, one, one])) == pytest.approx(alone)


def test_values_that_do_not_exist_do_not_count():
    values = np.full((1, 60), np.nan)
    bootstrap = Bootstrap(images(2, 30))
    assert np.isnan(bootstrap.interval(values)).all()
    values[0, :3] = 4.0
    assert bootstrap.interval(values) == (4.0, 4.0, 4.0)


def test_an_interval_is_the_same_every_time():
    values = np.random.default_rng(9).normal(0, 1, (3, 60))
    assert Bootstrap(images(2, 30)).interval(values) == Bootstrap(images(2, 30)).interval(values)


def test_bootstrap_does_not_hold_every_draw_of_every_image():
    many = images(100, 20, 5)
    tracemalloc.start()
    try:
        Bootstrap(many, draws=1000).interval(np.zeros((1, len(many))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6  # draws x images of 8 bytes are 80e6


# --- the table -----------------------------------------------------------------------------------


@pytest.fixture
def made(metrics, tmp_path):
    counts = {"PnPNet": 33_550_209, "cDPM": 35_708_225, "LegoPET": 35_708_225}
    return make(metrics, ROWS, tmp_path, counts)


def test_rows_stand_in_their_blocks(made):
    table = pd.read_csv(made["csv"])
    assert list(zip(table["block"], table["row"], strict=True)) == [
        ("analytic and iterative", "FBP"),
        ("analytic and iterative", "OSEM"),
        ("as in the paper", "PnPNet"),
        ("as in the paper", "cDPM"),
        ("as in the paper", "LegoPET"),
        ("beyond the paper", "cDPM, mean of 8"),
        ("beyond the paper", "LegoPET, mean of 8"),
        ("beyond the paper", "LegoPET-fbp"),
    ]


def test_what_needs_no_network_stands_with_osem(tmp_path):
    metrics = tmp_path / "metrics.csv.gz"
    names = ("FBP", "OSEM", "MAP", "OSEM-filter", "PnPNet")
    rows = [row | {"method": name} for name in names for row in rows_of(name, 20)]
    write_table([pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)], metrics)
    found = make(metrics, {"PnPNet": ["PnPNet"]}, tmp_path)
    table = pd.read_csv(found["csv"])
    baselines = table[table["block"] == "analytic and iterative"]
    assert baselines["row"].tolist() == ["FBP", "OSEM", "OSEM + filter", "MAP"]
    assert baselines["seeds"].isna().all()
    assert baselines["psnr_db_osem_image"].notna().all()
    assert "OSEM + filter" in found["markdown"].read_text(encoding="utf-8")


def test_an_image_that_is_the_reference_is_not_compared_with_it(tmp_path):
    """As OSEM + filter is that was chosen with the reference's iterations and no filter."""
    rows = [row | {"method": n} for n in ("FBP", "OSEM", "OSEM-filter") for row in rows_of(n, 20)]
    for row in rows:
        if (row["model"], row["metric"], row["reference"]) == ("OSEM-filter", "psnr_db", "osem"):
            row["value"] = np.inf
    rows += rows_of("PnPNet", 20)
    metrics = tmp_path / "metrics.csv.gz"
    write_table([pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)], metrics)
    found = make(metrics, {"PnPNet": ["PnPNet"]}, tmp_path)
    table = pd.read_csv(found["csv"]).set_index("row")
    assert np.isnan(table.loc["OSEM + filter", "psnr_db_osem_image"])
    assert table.loc["OSEM + filter", "psnr_db_truth_image"] > 0
    assert "inf" not in found["markdown"].read_text(encoding="utf-8").split("\n\n", 1)[1]


def test_means_are_over_images_and_seeds(made, metrics):
    table = pd.read_csv(made["csv"]).set_index("row")
    values = pd.read_csv(metrics)
    chosen = values["metric"].eq("psnr_db") & values["reference"].eq("osem")
    chosen &= values["region"].eq("image") & values["estimate"].eq("single")
    values = values[chosen].groupby("model")["value"].mean()
    assert table.at["cDPM", "psnr_db_osem_image"] == pytest.approx(values["cDPM"], abs=1e-3)
    expected = (values["LegoPET"] + values["LegoPET-seed2"]) / 2
    assert table.at["LegoPET", "psnr_db_osem_image"] == pytest.approx(expected, abs=1e-3)
    low, high = (table[f"psnr_db_osem_image_{end}"] for end in ("low", "high"))
    networks = table[table.index != "OSEM"]
    assert low[networks.index].le(networks["psnr_db_osem_image"]).all()
    assert high[networks.index].ge(networks["psnr_db_osem_image"]).all()
    assert high["LegoPET"] - low["LegoPET"] > 2 > high["cDPM"] - low["cDPM"] > 0
    assert table.at["LegoPET", "seeds"] == 2
    assert table.at["LegoPET, mean of 8", "models"] == "LegoPET"  # the other has no such estimate
    assert table.at["LegoPET", "parameters"] == 35_708_225
    assert np.isnan(table.at["OSEM", "psnr_db_osem_image"])
    assert table.at["OSEM", "ssim_truth_head"] == pytest.approx(0.9)
    assert table.at["PnPNet", "mean_error_truth_grey"] == pytest.approx(0.1)
    assert np.isnan(table.at["PnPNet", "contrast_recovery_truth"])


@pytest.mark.parametrize("labelled", [("subject41", "subject42"), ("subject42",), ()])
def test_of_images_without_labels_nothing_is_said_of_tissues(metrics, tmp_path, labelled):
    table = pd.read_csv(metrics, keep_default_na=False, na_values=[""])
    table = table[table["region"].isin(["image", "head"]) | table["subject"].isin(labelled)]
    table.to_csv(tmp_path / "m.csv", index=False)
    text = make(tmp_path / "m.csv", ROWS, tmp_path)["markdown"].read_text()
    assert ("### Activity, against" in text) == bool(labelled)
    assert ("Errors of grey and white matter" in text) == bool(labelled)
    assert ("a BrainWeb label above 0" in text) == bool(labelled)
    assert ("above the value head_above of the shard" in text) == (len(labelled) < 2)
    assert "  " not in text.splitlines()[0]


def test_networks_that_are_not_the_papers_stand_apart(metrics, tmp_path):
    found = make(metrics, ROWS, tmp_path, other_networks=["LegoPET"])
    blocks = pd.read_csv(found["csv"]).set_index("row")["block"]
    assert blocks["LegoPET"] == "beyond the paper"
    assert blocks["cDPM"] == blocks["PnPNet"] == "as in the paper"
    assert "LegoPET minus cDPM" in set(pd.read_csv(found["differences"])["row"])


def test_samples_with_counts_stand_apart_and_are_compared_with_their_like(tmp_path):
    """Not with networks that have not seen the counts at each step."""
    rows = [row for name in ("FBP", "OSEM") for row in rows_of(name, 20)]
    on = {"consistency_steps": 1, "consistency_strength": 1.0, "consistency_start": 0.0}
    half = on | {"consistency_strength": 0.5}
    settings = {"cDPM": {}, "LegoPET": {}, "cDPM-em": on, "LegoPET-em": on, "LegoPET-half": half}
    for name, facts in settings.items():
        rows += [row | facts for row in rows_of(name, 30)]
    rows += rows_of("PnPNet", 29)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    write_table([table], tmp_path / "metrics.csv.gz")
    models = ("PnPNet", *settings)
    made = make(tmp_path / "metrics.csv.gz", {name: [name] for name in models}, tmp_path)
    blocks = pd.read_csv(made["csv"]).set_index("row")["block"]
    assert blocks["LegoPET"] == blocks["PnPNet"] == "as in the paper"
    assert blocks["LegoPET-em"] == blocks["cDPM-em"] == "beyond the paper"
    differences = {
        *("LegoPET minus PnPNet", "LegoPET minus cDPM"),
        "LegoPET-em minus cDPM-em",
    }
    assert set(pd.read_csv(made["differences"])["row"]) == differences


def test_samples_are_compared_with_those_of_as_many_steps(tmp_path):
    rows = [row for name in ("FBP", "OSEM") for row in rows_of(name, 20)]
    for name, steps in {"cDPM": 8, "cDPM-1step": 1, "LegoPET": 8, "LegoPET-1step": 1}.items():
        rows += [row | {"steps": steps} for row in rows_of(name, 30)]
    rows += rows_of("PnPNet", 29)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    write_table([table], tmp_path / "metrics.csv.gz")
    models = ("PnPNet", "cDPM", "cDPM-1step", "LegoPET", "LegoPET-1step")
    made = make(tmp_path / "metrics.csv.gz", {name: [name] for name in models}, tmp_path)
    assert set(pd.read_csv(made["differences"])["row"]) == {
        *("LegoPET minus PnPNet", "LegoPET minus cDPM"),
        *("LegoPET-1step minus PnPNet", "LegoPET-1step minus cDPM-1step"),
    }


def test_differences_are_paired(made):
    found = pd.read_csv(made["differences"]).set_index("row")
    assert list(found.index) == [
        "LegoPET minus PnPNet",
        "LegoPET minus cDPM",
        "LegoPET, mean of 8 minus PnPNet",
        "LegoPET, mean of 8 minus cDPM, mean of 8",
    ]
    # 31 and 33 minus 28, whatever the slices, which differ by 1 dB; and 31 or 33 at the ends.
    row = found.loc["LegoPET minus cDPM"]
    assert row["psnr_db_osem_image"] == pytest.approx(4, abs=0.1)
    assert row["psnr_db_osem_image_low"] == pytest.approx(3, abs=0.2)
    assert row["psnr_db_osem_image_high"] == pytest.approx(5, abs=0.2)
    # The same noise in both: no spread is left.
    row = found.loc["LegoPET, mean of 8 minus cDPM, mean of 8"]
    assert row["psnr_db_truth_image"] == pytest.approx(0, abs=1e-9)
    assert row["psnr_db_truth_image_high"] == pytest.approx(0, abs=1e-9)


def test_what_needs_no_network_is_compared_with_samples_and_means(tmp_path):
    rows = [
        *(row for name in ("FBP", "OSEM", "MAP", "OSEM-filter") for row in rows_of(name, 29)),
        *rows_of("LegoPET", 30),
        *rows_of("LegoPET", 31.5, estimate="mean", samples=8),
        *(row | {"consistency_steps": 1} for row in rows_of("LegoPET-em", 32)),
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    write_table([table], tmp_path / "metrics.csv.gz")
    models = ("LegoPET", "LegoPET-em")
    made = make(tmp_path / "metrics.csv.gz", {name: [name] for name in models}, tmp_path)
    found = pd.read_csv(made["differences"]).set_index("row")["psnr_db_truth_image"]
    for ours, lead in (("LegoPET", 1), ("LegoPET, mean of 8", 2.5), ("LegoPET-em", 3)):
        assert found.pop(f"{ours} minus MAP") == pytest.approx(lead)
        assert found.pop(f"{ours} minus OSEM + filter") == pytest.approx(lead)
    assert found.empty


def test_the_numbers_of_the_paper_are_its_own(made):
    """LegoPET leads cDPM by 0.59 dB and 0.011; DeepPET has the higher PSNR."""
    table = pd.read_csv(made["csv"]).set_index("row")
    differences = pd.read_csv(made["differences"]).set_index("row")
    assert differences.at["LegoPET minus cDPM", "paper_psnr_db"] == 0.59
    assert differences.at["LegoPET minus cDPM", "paper_ssim"] == 0.011
    assert table.at["LegoPET", "paper_psnr_db"] == 27.59
    assert PAPER["DeepPET"].psnr_db - PAPER["LegoPET"].psnr_db == pytest.approx(0.71)


def test_the_papers_numbers_stand_beside_ours(metrics, tmp_path, monkeypatch):
    monkeypatch.setitem(PAPER, "LegoPET", Published(40.5, 0.98, 35.71e6))
    monkeypatch.setitem(PAPER, "cDPM", Published(38.0, 0.95, 35.71e6))
    made = make(metrics, ROWS, tmp_path)
    table = pd.read_csv(made["csv"]).set_index("row")
    assert table.at["LegoPET", "paper_psnr_db"] == 40.5
    assert table["paper_psnr_db"].notna().sum() == 2  # in the block of the paper alone
    found = pd.read_csv(made["differences"]).set_index("row")
    assert found.at["LegoPET minus cDPM", "paper_psnr_db"] == 2.5
    assert found.at["LegoPET minus cDPM", "paper_ssim"] == pytest.approx(0.03)
    assert np.isnan(found.at["LegoPET minus PnPNet", "paper_psnr_db"])


def test_seeds_are_paired_in_order(tmp_path):
    rows = []
    for number, offset in (("", 0.0), ("-seed2", 5.0)):
        rows += [*rows_of(f"cDPM{number}", 28 + offset), *rows_of(f"LegoPET{number}", 31 + offset)]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    write_table([table], tmp_path / "m.csv")
    groups = {name: [name, f"{name}-seed2"] for name in ("cDPM", "LegoPET")}
    made = make(tmp_path / "m.csv", groups, tmp_path)
    (row,) = pd.read_csv(made["differences"]).to_dict("records")
    ends = [row[f"psnr_db_osem_image{end}"] for end in ("", "_low", "_high")]
    assert ends == pytest.approx([3, 3, 3], abs=1e-4)


def test_markdown_reads_by_itself(made):
    text = made["markdown"].read_text()
    for fact in (
        "12 test images of 2 subjects (6 anatomical slices",
        "data range of 1",
        "divided by the largest activity of the training references",
        "sigma 1.5 pixels",
        "BrainWeb label above 0",
        "percentile bootstrap",
        "Paper, 256 x 256: Table 1 of arXiv 2411.16629",
        "not comparable",
    ):
        assert fact in text
    lines = text.splitlines()
    legopet = next(line for line in lines if line.startswith("| LegoPET |"))
    assert legopet.startswith("| LegoPET | 2 | 35.71 | 35.71 | 27.59 | 0.956 | ")
    tables = [table.splitlines()[2:] for table in text.split("\n### ")[1:]]
    for table in tables:
        assert table[1].startswith("| :-- | --: |")
        assert len({line.count("|") for line in table if line}) == 1
    assert any(line.startswith("| *as in the paper* |  |") for line in tables[0])


def test_latex_is_balanced_and_escaped(made):
    text = made["latex"].read_text()
    for environment in ("table", "tabular"):
        opened, closed = (text.count(f"\\{word}{{{environment}}}") for word in ("begin", "end"))
        assert opened == closed == made["markdown"].read_text().count("\n### ")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert "95 \\% intervals" in body
    unescaped = body.replace("\\%", "").replace("\\#", "").replace("\\_", "")
    assert not any(character in unescaped for character in "%#_")
    assert unescaped.count("{") == unescaped.count("}")
    for columns, table in re.findall(r"{tabular}{l(r+)}((?:.|\n)*?)\\end{tabular}", body):
        rows = [line for line in table.splitlines() if " & " in line]
        assert len(rows) > 1
        assert {line.count("&") for line in rows} == {len(columns)}


def test_html_is_balanced_and_escaped(metrics, tmp_path):
    text = make(metrics, {"a < b & c": ["PnPNet"]}, tmp_path)["html"].read_text()
    assert "<td>a &lt; b &amp; c</td>" in text

    class Parser(HTMLParser):
        cells, columns, stack = 0, 0, ()

        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "!doctype"):
                self.stack = (*self.stack, tag)
            self.cells += tag == "td"
            self.columns += tag == "th" and "thead" in self.stack

        def handle_endtag(self, tag):
            assert self.stack[-1] == tag
            self.stack = self.stack[:-1]

    parser = Parser()
    parser.feed(text)
    assert parser.stack == ()
    assert parser.cells == 3 * parser.columns > 0  # FBP, OSEM and the network


def test_tables_do_not_depend_on_how_much_is_read_at_a_time(metrics, tmp_path, monkeypatch):
    whole = {name: path.read_bytes() for name, path in make(metrics, ROWS, tmp_path).items()}
    monkeypatch.setattr("models.evaluation.metrics_table.PART", 11)
    parts = {name: path.read_bytes() for name, path in make(metrics, ROWS, tmp_path).items()}
    assert parts == whole


def test_a_model_without_rows_is_named(metrics, tmp_path):
    with pytest.raises(InputError, match=r"metrics\.csv\.gz: has no rows of Pix2Pix"):
        make(metrics, {"Pix2Pix": ["Pix2Pix"]}, tmp_path)
    assert not (tmp_path / "csv").exists()


def test_parameters_are_those_that_the_training_recorded(tmp_path):
    features = run(tmp_path, split(tmp_path), "p")
    weights = run(tmp_path, split(tmp_path), "l", "LegoPET", features)
    for path in (features, weights):
        method, _ = checkpoints.load(path, NETWORK)
        assert parameters_in(path.with_suffix(".yaml")) == method.parameter_count()


@pytest.mark.parametrize("text", ["", "model: x", "trainable_parameters: many", "a: [", "[1, 2]"])
def test_a_record_that_is_none_is_named(tmp_path, text):
    record = tmp_path / "PnPNet.yaml"
    with pytest.raises(InputError, match=r"PnPNet\.yaml: does not exist"):
        parameters_in(record)
    record.write_text(text)
    with pytest.raises(InputError, match=r"PnPNet\.yaml: is no record of a training"):
        parameters_in(record)
