import pytest

from benchmarks import methods, sampling
from benchmarks.stages import stages
from helpers.small_models import GAN_SIZE, NETWORK, SAMPLING, SIZE, make_shard, settings
from helpers.trainings import run, split
from models import checkpoints
from models.dataset import ShardSlices
from models.loader import batches, in_order


def test_stages_summarises_a_rules_jobs(tmp_path):
    folder = tmp_path / "osem"
    folder.mkdir()
    header = "s\th:m:s\tmax_rss\tcpu_time"
    (folder / "subject04.tsv").write_text(f"{header}\n2.0\t0:00:02\t100.0\t1.5\n")
    (folder / "subject05.tsv").write_text(f"{header}\n4.0\t0:00:04\tNA\t2.5\n")
    (row,) = stages(tmp_path).to_dict("records")
    assert row == {
        "rule": "osem",
        "jobs": 2,
        "mean_s": 3.0,
        "longest_s": 4.0,
        "sum_s": 6.0,
        "cpu_s": 4.0,
        "peak_mb": 100.0,
    }


def test_stages_finds_the_jobs_of_every_dose(tmp_path):
    for name in (
        "fbp/subject04.tsv",
        "fbp/dose_0.05/subject04.tsv",
        "classical_settings.tsv",
        "dose_0.05/classical_settings.tsv",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("s\th:m:s\tmax_rss\tcpu_time\n2.0\t0:00:02\t100.0\t1.5\n")
    found = stages(tmp_path)
    assert dict(zip(found["rule"], found["jobs"], strict=True)) == {
        "classical_settings": 2,
        "fbp": 2,
    }


@pytest.mark.parametrize("name", settings()["methods"])
def test_methods_are_measured(tmp_path, monkeypatch, name):
    monkeypatch.setattr(methods, "SETTINGS", settings(network__size=GAN_SIZE))
    shard = make_shard(tmp_path / "s.h5", size=GAN_SIZE)
    found = methods.measure(name, [shard], batch=2, turns=1, threads=1)
    assert min(*found.training, *found.sampling, found.peak_mb, found.operations) > 0


def test_samplers_are_measured(tmp_path):
    weights = run(tmp_path, split(tmp_path), "x", "cDPM")
    method, metadata = checkpoints.load(weights, NETWORK)
    shard = make_shard(tmp_path / "s.h5")
    slices = ShardSlices([shard], SIZE, metadata.scales, metadata.settings["conditioning"])
    (batch,) = batches(slices, in_order(range(5), 5), 0, False)
    seconds, psnr_db = sampling.run(method, batch, SAMPLING)
    assert seconds > 0
    assert 0 < psnr_db < 100
