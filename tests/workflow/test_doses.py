"""Networks that see fewer counts than their reference, and learn the truth, through the DAG."""

import numpy as np
import pandas as pd
import pytest

from helpers.low_counts import DOSES, FILES
from helpers.workflow import ROOT, SUBJECTS, snakemake
from models.checkpoints import read_metadata
from models.configuration import read_configuration
from models.dataset import SliceKey
from models.evaluation.metrics_table import read_table
from models.evaluation.recompute import recompute
from pipeline.storage import hdf5
from pipeline.storage.kinds import SHARD

pytestmark = pytest.mark.dag


@pytest.fixture(scope="module")
def folder(low_counts):
    """A folder in which the workflow has run at several doses."""
    return low_counts


def shard(folder, dose, subject="subject03"):
    return hdf5.read(folder / "data" / "low" / "shards" / DOSES[dose] / f"{subject}.h5", SHARD)


def test_doses_have_the_same_reference_and_fewer_counts(folder):
    full, attributes = shard(folder, 1.0)
    assert "dose" not in attributes
    for dose in (0.2, 0.05):
        low, found = shard(folder, dose)
        assert found["dose"] == dose
        for name in ("osem", "activity", "labels", "slice_index"):
            np.testing.assert_array_equal(low[name], full[name], strict=True)
        part = low["sinogram"].sum() / full["sinogram"].sum(dtype=np.int64)
        assert part == pytest.approx(dose, rel=0.02)
        np.testing.assert_allclose(low["scale"], dose * full["scale"], rtol=1e-6)
        # Of the same activity, with more noise.
        for name in ("fbp", "osem_input"):
            assert low[name].mean() == pytest.approx(full[name].mean(), rel=0.05)
            assert np.abs(low[name] - full[name]).mean() > 0


def test_fewer_counts_are_further_from_the_truth(folder):
    errors = [
        np.square(arrays["osem_input"] - arrays["activity"]).mean()
        for arrays, _ in (shard(folder, dose) for dose in sorted(DOSES))
    ]
    assert errors == sorted(errors, reverse=True)


def test_weights_say_which_doses_they_were_trained_with(folder):
    found = read_metadata(folder / "results" / "low" / "weights" / "PnPNet.safetensors")
    assert found.physics.doses == (0.05, 0.2, 1.0)
    full = [shard(folder, 1.0, "subject01")[0]["sinogram"].sum(axis=(1, 2)).mean()]
    assert found.physics.counts_per_slice == pytest.approx(np.mean(full), rel=0.01)
    assert found.scales.line_integral > 0


def test_an_epoch_sees_each_slice_once(folder):
    log = pd.read_csv(folder / "results" / "low" / "training" / "PnPNet.csv")
    slices = len(shard(folder, 1.0, "subject01")[0]["rotation"])
    assert log["step"].max() == 2 * -(-slices // 4)


def test_every_dose_is_measured(folder):
    table = read_table(folder / "results" / "low" / "metrics.csv.gz")
    assert {*table["dose"]} == {*DOSES}
    assert {*table["subject"]} == {name for name, split in SUBJECTS.items() if split == "test"}
    sizes = table.groupby("dose").size()
    assert sizes.nunique() == 1


def test_table1_has_each_dose_and_the_truth_first(folder):
    results = folder / "results" / "low"
    numbers = pd.read_csv(results / "table1.csv")
    assert numbers["dose"].drop_duplicates().tolist() == list(DOSES)
    assert not (numbers["block"] == "as in the paper").any()
    assert numbers["paper_psnr_db"].isna().all()
    text = (results / "table1.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert "against the noise-free truth, whole image, 20 % of the counts" in headings[0].lower()
    assert "OSEM reconstruction of all counts" in text
    of_dose = numbers.groupby("dose")["row"].agg(set)
    assert {dose for dose in DOSES if "OSEM of all counts" in of_dose[dose]} == {0.2, 0.05}
    assert "OSEM" in of_dose[1.0]
    assert "towards which networks were trained" in text


@pytest.mark.parametrize("dose", DOSES)
def test_a_line_of_each_dose_is_made_again(folder, dose, monkeypatch):
    monkeypatch.chdir(folder)
    config = read_configuration([ROOT / "tests" / "tiny.yaml", folder / "low.yaml"])
    index = int(shard(folder, dose)[0]["slice_index"][0])
    lines = recompute(config, "LegoPET", SliceKey("subject03", 0, index), dose)
    assert lines.xs("psnr_db", level="metric")["difference"].abs().max() < 1e-3
    np.testing.assert_allclose(lines["recomputed"], lines["table"], rtol=1e-3, atol=1e-3)


def test_a_lower_dose_more_makes_its_files_alone(folder):
    more = {"simulation": {"doses": [*DOSES, 0.5]}}
    result = snakemake(
        folder, "-n", "--cores", "2", *FILES, "--config", f"simulation={more['simulation']}",
        *("--until", "shard"), tiny=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-4000:]
    jobs = {line.split()[0] for line in result.stdout.splitlines() if line[:1].isalpha()}
    assert {"thin", "fbp", "osem_input", "shard"} <= jobs
    assert not jobs & {"sinogram", "osem", "slices", "fetch"}
