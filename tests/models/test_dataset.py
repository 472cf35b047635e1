import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_models import PHYSICS, SIZE, few_files, make_shard
from models.dataset import Scales, ShardSlices, SliceKey, crop, from_signed, pad, to_signed
from models.loader import batches, in_order
from models.training.order import BatchOrder, steps_per_epoch
from pipeline.storage.errors import InputError

SCALES = Scales(sinogram=100.0, activity=200.0)
SINOGRAM, BOTH = ["sinogram"], ["sinogram", "fbp"]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5))
def test_padding_is_reversible_and_centred(views, radial, extra):
    size = max(views, radial) + extra
    array = np.random.default_rng(0).random((2, views, radial))
    padded = pad(array, size)
    assert padded.shape == (2, size, size)
    assert np.isclose(padded.sum(), array.sum())
    assert np.array_equal(crop(padded, (views, radial)), array)
    filled = np.flatnonzero(padded[0].any(axis=1))
    assert filled[0] - (size - 1 - filled[-1]) in (0, -1)


def test_padding_of_the_paper():
    padded = pad(np.ones((252, 255)), 256)
    rows, columns = (np.flatnonzero(padded.any(axis=axis)) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (2, 253, 0, 254)


def test_padding_refuses_what_is_too_large():
    with pytest.raises(ValueError, match="does not fit"):
        pad(np.ones((5, 4)), 4)


def test_scales_are_the_maxima_of_the_given_shards_alone(tmp_path):
    train = [make_shard(tmp_path / f"{n}.h5", seed=n) for n in range(2)]
    make_shard(tmp_path / "validation.h5", brightness=10.0)
    scales = Scales.from_shards(train)
    contents = [h5py.File(path) for path in train]
    assert scales.sinogram == max(file["sinogram"][()].max() for file in contents)
    assert scales.activity == max(file["osem"][()].max() for file in contents)


def test_normalisation_is_reversible(tmp_path):
    path = make_shard(tmp_path / "s.h5")
    item = ShardSlices([path], SIZE, SCALES, SINOGRAM)[2]
    with h5py.File(path) as file:
        assert np.allclose(item["image"][0] * 200, file["osem"][2], rtol=1e-6)
        sinogram = crop(item["inputs"][0].numpy(), (12, 15)) * 100
        assert np.allclose(sinogram, file["sinogram"][2], rtol=1e-6)
    assert item["inputs"].dtype == item["image"].dtype == torch.float32
    assert item["key"] == SliceKey("subject04", 0, 12)
    assert torch.allclose(from_signed(to_signed(item["image"])), item["image"], atol=1e-6)


def test_filtered_back_projection_is_the_second_channel_on_the_scale_of_the_image(tmp_path):
    path = make_shard(tmp_path / "s.h5")
    alone = ShardSlices([path], SIZE, SCALES, SINOGRAM)[2]
    both = ShardSlices([path], SIZE, SCALES, BOTH)[2]
    assert (alone["inputs"].shape, both["inputs"].shape) == ((1, SIZE, SIZE), (2, SIZE, SIZE))
    assert torch.equal(both["inputs"][:1], alone["inputs"])
    assert torch.equal(both["image"], alone["image"])
    assert both["inputs"].dtype == torch.float32
    with h5py.File(path) as file:
        assert np.allclose(both["inputs"][1] * 200, file["fbp"][2], rtol=1e-6)
        assert (file["fbp"][2] < 0).any()  # and nothing is cut off


def test_slices_of_several_shards_follow_one_another(tmp_path):
    paths = [make_shard(tmp_path / f"{n}.h5", subject=f"subject0{n}", seed=n) for n in (4, 5)]
    dataset = ShardSlices(paths, SIZE, SCALES, SINOGRAM)
    assert len(dataset) == 10
    assert [key.subject for key in dataset.keys] == ["subject04"] * 5 + ["subject05"] * 5
    assert [item["key"] for item in map(dataset.__getitem__, range(10))] == dataset.keys


@pytest.mark.parametrize("options", [{"views": 17}, {"size": 18}])
def test_a_shard_that_does_not_fit_the_network_is_refused(tmp_path, options):
    path = make_shard(tmp_path / "s.h5", **options)
    with pytest.raises(InputError, match=r"s\.h5.*do not fit a network of 16 x 16"):
        ShardSlices([path], SIZE, SCALES, SINOGRAM)


def test_sinograms_that_are_not_seen_may_be_larger_than_images(tmp_path):
    path = make_shard(tmp_path / "s.h5", views=2 * SIZE, radial=2 * SIZE)
    found = ShardSlices([path], SIZE, SCALES, ["fbp"])[0]
    assert found["inputs"].shape == (1, SIZE, SIZE)
    with pytest.raises(InputError, match=r"s\.h5.*do not fit a network of 16 x 16"):
        ShardSlices([path], SIZE, SCALES, ["fbp", *SINOGRAM])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_slice_that_is_not_finite_is_named(tmp_path, workers):
    path = make_shard(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        file["osem"][3, 4, 5] = np.nan
    dataset = ShardSlices([path], SIZE, SCALES, SINOGRAM)
    assert torch.isfinite(dataset[2]["image"]).all()
    with pytest.raises(InputError, match=r"s\.h5: subject04, rotation 0, slice 13: .*osem"):
        list(batches(dataset, in_order(range(5), 2), workers, False))
    with pytest.raises(InputError, match="non-finite"):
        Scales.from_shards([path])


def test_a_filtered_back_projection_is_read_only_where_it_is_asked_for(tmp_path):
    path = make_shard(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        file["fbp"][3, 4, 5] = np.nan
    assert torch.isfinite(ShardSlices([path], SIZE, SCALES, SINOGRAM)[3]["inputs"]).all()
    with pytest.raises(InputError, match=r"s\.h5: subject04, rotation 0, slice 13: .*fbp"):
        ShardSlices([path], SIZE, SCALES, BOTH)[3]


def test_workers_read_the_same_as_one_process(tmp_path):
    dataset = ShardSlices([make_shard(tmp_path / "s.h5")], SIZE, SCALES, SINOGRAM)
    order = in_order([4, 1, 3, 0], 2)
    here, there = (list(batches(dataset, order, workers, False)) for workers in (0, 2))
    for a, b in zip(here, there, strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.image, b.image)


def test_handles_are_not_shared_with_other_processes(tmp_path, monkeypatch):
    dataset = ShardSlices([make_shard(tmp_path / "s.h5")], SIZE, SCALES, SINOGRAM)
    dataset[0]
    mine = dataset._file(0)
    assert dataset._file(0) is mine
    assert pickle.loads(pickle.dumps(dataset))._open_files == {}
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    assert dataset._file(0) is not mine


def test_few_shards_are_open_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr("models.dataset.OPEN_FILES", 2)
    names = [f"subject{n:02d}" for n in range(12)]
    paths = [
        make_shard(tmp_path / f"{n}.h5", subject=name, slices=1) for n, name in enumerate(names)
    ]
    rows = [0, 5, 0, *range(12), 0]
    with few_files(8):
        dataset = ShardSlices(paths, SIZE, SCALES, SINOGRAM)
        found = [dataset[row]["key"].subject for row in rows]
    assert found == [names[row] for row in rows]


@given(
    st.integers(1, 12), st.integers(1, 5), st.integers(0, 3), st.integers(0, 30), st.integers(0, 30)
)
def test_batches_depend_on_seed_and_epoch_alone(count, size, seed, start, stop):
    whole = list(BatchOrder(count, size, seed, 0, 30))
    assert list(BatchOrder(count, size, seed, start, stop)) == whole[start:stop]
    per_epoch = steps_per_epoch(count, size)
    first_epoch = [index for batch in whole[:per_epoch] for index in batch]
    if per_epoch <= 30:
        assert sorted(first_epoch) == list(range(count))


def test_epochs_and_seeds_differ():
    batch = BatchOrder(50, 50, 1, 0, 2)
    first, second = batch
    (other,) = BatchOrder(50, 50, 2, 0, 1)
    assert first != second
    assert first != other


def test_line_integrals_are_counts_over_the_scale(tmp_path):
    paths = [make_shard(tmp_path / f"{n}.h5", seed=n, scale=n + 2.0) for n in range(2)]
    scales = Scales.from_shards(paths)
    slices = ShardSlices(paths, SIZE, scales, ["line_integrals", "sinogram"])
    largest = 0.0
    for row, scale in ((0, 2.0), (5, 3.0)):
        integrals, counts = slices[row]["inputs"].double()
        expected = counts * scales.sinogram / scale / scales.line_integral
        torch.testing.assert_close(integrals, expected, rtol=1e-5, atol=1e-7)
    for row in range(len(slices)):
        largest = max(largest, float(slices[row]["inputs"][0].max()))
    assert largest == pytest.approx(1, rel=1e-6)


def test_images_are_what_is_to_be_learnt(tmp_path):
    path = make_shard(tmp_path / "s.h5")
    with h5py.File(path) as file:
        for target in ("osem", "activity"):
            item = ShardSlices([path], SIZE, SCALES, ["osem_input"], target)[1]
            assert np.allclose(item["image"][0] * 200, file[target][1], rtol=1e-6)
            assert np.allclose(item["inputs"][0] * 200, file["osem_input"][1], rtol=1e-6)


def doses(folder, slices=(5, 5)):
    """Shards of two subjects at two doses."""
    found = []
    for number, dose in enumerate((0.2, 0.05)):
        for n, subject in enumerate(("subject04", "subject05")):
            physics = {**PHYSICS, "dose": dose}
            path = folder / f"{subject}_{dose}.h5"
            make_shard(path, subject=subject, seed=n, slices=slices[number], physics=physics)
            found.append(path)
    return found


def test_doses_of_the_same_slices_follow_one_another(tmp_path):
    slices = ShardSlices(doses(tmp_path), SIZE, SCALES, SINOGRAM)
    assert slices.doses == 2
    assert slices.keys[:10] == slices.keys[10:]
    with pytest.raises(InputError, match="the same slices at each of 2 doses"):
        ShardSlices(doses(tmp_path, (5, 4)), SIZE, SCALES, SINOGRAM)


def test_a_channel_that_shards_lack_is_named(tmp_path):
    path = make_shard(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        del file["osem_input"]
    assert len(ShardSlices([path], SIZE, SCALES, BOTH)) == 5
    with pytest.raises(InputError, match=r"s\.h5: lacks the dataset 'osem_input'"):
        ShardSlices([path], SIZE, SCALES, ["osem_input"])


@given(st.integers(1, 30), st.integers(1, 7), st.integers(2, 4), st.integers(0, 9))
def test_each_slice_is_seen_once_an_epoch_at_some_dose(count, batch_size, doses, seed):
    steps = steps_per_epoch(count, batch_size)
    order = list(BatchOrder(count, batch_size, seed, 0, 20 * steps, doses=doses))
    seen = set()
    for epoch in range(20):
        indices = [i for batch in order[epoch * steps : (epoch + 1) * steps] for i in batch]
        assert sorted(i % count for i in indices) == list(range(count))
        seen |= {i // count for i in indices}
    assert seen <= set(range(doses))
    if count > 1:
        assert len(seen) == doses
    # Resumed anywhere, it goes on the same.
    middle = 7 * steps + steps // 2
    rest = BatchOrder(count, batch_size, seed, middle, 20 * steps, doses=doses)
    assert list(rest) == order[middle:]
