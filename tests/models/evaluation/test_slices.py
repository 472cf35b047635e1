"""Regions of slices, with labels and without."""

import h5py
import numpy as np
import pytest

from helpers.small_models import SIZE, make_shard
from models.dataset import Scales, ShardSlices
from models.evaluation.measure import measure, tidy
from models.evaluation.slices import Slices
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SHARD

ROWS = np.arange(5)
TISSUES = {"mean", "mean_error"}


@pytest.fixture
def shard(tmp_path):
    """A shard with labels, of grey matter 128 and white matter 32."""
    return make_shard(tmp_path / "shard.h5")


def without_labels(path, **attributes):
    with h5py.File(path, "r+") as file:
        del file["labels"]
        file.attrs.update(attributes)
    return path


def read(path):
    with hdf5.opened(path, SHARD) as file:
        return Slices.read(file, ROWS)


def measured(slices):
    samples = np.stack([slices.osem, slices.fbp], axis=1)
    values = measure(samples.mean(axis=1), slices, Scales(1.0, 150.0), samples=samples)
    return tidy(slices, {"model": "X", "method": "X", "estimate": "mean"}, values)


def test_the_head_is_where_labels_are(shard):
    slices = read(shard)
    np.testing.assert_array_equal(slices.inside("head"), slices.labels > 0)
    assert {*measured(slices)["metric"]} >= TISSUES


def test_without_labels_the_head_is_a_mask_of_the_truth_and_tissues_are_absent(shard):
    before = read(shard)
    after = read(without_labels(shard, head_above=40.0))
    np.testing.assert_array_equal(after.inside("head"), before.labels == 2)
    assert not after.inside("grey").any()
    table = measured(after)
    assert not TISSUES & {*table["metric"]}
    assert {"psnr_db", "ssim", "sd_mean"} <= {*table["metric"]}
    assert {*table["region"]} == {"image", "head"}
    same = measured(before).query("region == 'image'").reset_index(drop=True)
    assert same.equals(table.query("region == 'image'").reset_index(drop=True))


def test_a_shard_that_does_not_know_its_head_is_refused(shard):
    with pytest.raises(InputError, match="lacks the dataset 'labels', and does not say"):
        read(without_labels(shard))


def test_networks_are_trained_without_labels(shard):
    path = without_labels(shard, head_above=40.0)
    assert ShardSlices([path], SIZE, Scales(1.0, 150.0), ["sinogram"])[0]["image"].max() > 0
