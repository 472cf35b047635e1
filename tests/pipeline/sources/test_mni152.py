import importlib.resources

import numpy as np
import pytest

from pipeline.sources import mni152
from pipeline.sources.labels import labels_sha256
from pipeline.storage import hdf5, kinds
from pipeline.storage.errors import InputError

SEED = 2411
BACKGROUND, CSF, GM, WM, SCALP, SKULL = 0, 1, 2, 3, 6, 7


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    path = tmp_path_factory.mktemp("mni152") / "subject01.h5"
    mni152.fetch(path, "subject01", {"seed": SEED})
    arrays, attributes = hdf5.read(path, kinds.LABELS)
    return arrays["labels"], attributes


@pytest.fixture
def coarse_template(monkeypatch):
    maps = tuple(tissue[::3, ::3, ::3].copy() for tissue in mni152.template())
    monkeypatch.setattr(mni152, "template", lambda: maps)


def test_attributes(fetched):
    labels, attributes = fetched
    assert attributes["source"] == "mni152"
    assert attributes["subject"] == "subject01"
    assert attributes["seed"] == SEED
    assert attributes["orientation"] == "RAS"
    assert attributes["voxel_mm"].tolist() == [1, 1, 1]
    assert attributes["labels_sha256"] == labels_sha256(labels)


def test_template_is_a_pair_of_fractions():
    grey_matter, white_matter = mni152.template()
    assert grey_matter.shape == white_matter.shape == mni152.FACTS.shape
    for tissue in (grey_matter, white_matter):
        assert tissue.min() == 0
        assert 0.9 < tissue.max() <= 1
    assert (grey_matter + white_matter).max() <= 1.01


def test_volumes_are_those_of_a_head(fetched):
    labels, _ = fetched
    assert set(np.unique(labels)) == {BACKGROUND, CSF, GM, WM, SCALP, SKULL}
    litres = np.bincount(labels.ravel()) / 1e6
    assert 0.8 < litres[GM] < 1.4
    assert 0.4 < litres[WM] < 0.8
    assert litres[CSF] > 0.1


def test_shells_follow_one_another_outwards(fetched):
    labels, _ = fetched
    slice_index = 100
    y, x = (int(mean) for mean in np.argwhere(labels[slice_index] == WM).mean(axis=0))
    ray = labels[slice_index, y, x:]
    changes = [int(c) for c in ray[np.r_[True, np.diff(ray) != 0]]]
    assert changes[-4:] == [CSF, SKULL, SCALP, BACKGROUND]
    # A ray crosses a shell at some angle, and labels are per whole voxel.
    assert 5 <= np.count_nonzero(ray == SKULL) <= 10
    assert 4 <= np.count_nonzero(ray == SCALP) <= 9


def test_head_is_upright_and_whole(fetched):
    labels, _ = fetched
    head = labels > 0
    assert not head[-1].any()
    assert head[0].any()
    assert not head[:, [0, -1]].any()
    assert not head[:, :, [0, -1]].any()
    # The lowest part of the brain is the cerebellum, at the back.
    brain = (labels == GM) | (labels == WM)
    assert np.argwhere(brain[:15])[:, 1].mean() < np.argwhere(brain)[:, 1].mean() - 10


def test_equal_seeds_give_equal_heads(coarse_template):
    first = mni152.make_labels("subject02", SEED)
    assert np.array_equal(first, mni152.make_labels("subject02", SEED))


@pytest.mark.parametrize(("subject", "seed"), [("subject03", SEED), ("subject02", SEED + 1)])
def test_other_subjects_and_seeds_give_other_heads(coarse_template, subject, seed):
    first = mni152.make_labels("subject02", SEED)
    other = mni152.make_labels(subject, seed)
    brain, other_brain = (np.isin(labels, (GM, WM)) for labels in (first, other))
    dice = 2 * (brain & other_brain).sum() / (brain.sum() + other_brain.sum())
    assert 0.5 < dice < 0.97


def test_says_so_when_nilearn_lacks_the_maps(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match="is not in the installed nilearn"):
        mni152.fetch(tmp_path / "subject01.h5", "subject01", {"seed": SEED})
    assert not list(tmp_path.iterdir())
