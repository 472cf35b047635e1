import json

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import shard
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import FBP, OSEM, SHARD, SINOGRAM, SLICES, SUBJECT_FACTS

KINDS = {"slices": SLICES, "sinogram": SINOGRAM, "osem": OSEM, "fbp": FBP}
SLICE, SIZE, VIEW, RADIAL = 4, 16, 8, 15
FACTS = {
    "seed": 3,
    "subject": "subject04",
    "source": "brainweb",
    "labels_sha256": "0" * 64,
    "pixel_mm": 2.0,
    "slice_mm": 3.0,
    "orientation": "LPS",
}
SIMULATED = {
    "geometry": '{"geometry": "parallel"}',
    "attenuation": True,
    "psf_fwhm_mm": 4.5,
    "background_fraction": 0.25,
}
OTHERS = {"projector": "sparse", "oversampling": 1, **SIMULATED}


def write(folder, name, *, oversampling=1, arrays=(), **facts):
    """Write one of the inputs of rule ``shard``; some arrays and facts may be given."""
    rng = np.random.default_rng(sorted(KINDS).index(name))
    length = {"slice": SLICE, "y": SIZE, "x": SIZE, "view": VIEW, "radial": RADIAL}
    if name == "slices":
        length |= {"y": SIZE * oversampling, "x": SIZE * oversampling}
    made = {
        key: rng.integers(0, 9, [length[axis] for axis in declared.axes]).astype(declared.dtype)
        for key, declared in KINDS[name].datasets.items()
    }
    made |= {
        "rotation": np.array([0, 0, 1, 1], np.uint8),
        "rotation_deg": np.array([0, 0, -7.5, -7.5], np.float32),
        "slice_index": np.array([10, 12, 10, 12], np.int16),
        "draw": np.array([0, 1, 0, 1], np.uint16),
        "present": np.array([0, 0, 1, 1], np.uint8),
    }
    facts = FACTS | OTHERS | {"oversampling": oversampling} | facts
    settings = {name: "settings"}
    path = folder / f"{name}.h5"
    hdf5.write(path, KINDS[name], made | dict(arrays), hdf5.provenance(settings, **facts))
    return path


@pytest.fixture
def inputs(tmp_path):
    return {name: write(tmp_path, name) for name in KINDS}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "shard.h5"


def build(inputs, output):
    shard.build(**inputs, output=output, split="train")
    return hdf5.read(output, SHARD)


def refusal(inputs, output):
    with pytest.raises(InputError) as caught:
        build(inputs, output)
    assert not output.exists()
    assert not list(output.parent.glob(".*"))
    return caught.value


SOURCES = {
    "sinogram": ("sinogram", "prompts"),
    "osem": ("osem", "osem"),
    "fbp": ("fbp", "fbp"),
    "activity": ("slices", "activity"),
    "labels": ("slices", "labels"),
    "scale": ("sinogram", "scale"),
    "rotation": ("slices", "rotation"),
    "rotation_deg": ("slices", "rotation_deg"),
    "slice_index": ("slices", "slice_index"),
    "lesion": ("slices", "lesion"),
    "draw": ("slices", "draw"),
    "present": ("slices", "present"),
}
"""Where each dataset of a shard comes from: file and dataset."""


def test_every_dataset_has_a_source():
    assert {*SOURCES, "osem_input"} == SHARD.datasets.keys()


def test_a_lower_dose_has_its_own_osem_image(tmp_path, inputs, output):
    seen = write(tmp_path, "osem", arrays={"osem": np.full((SLICE, SIZE, SIZE), 7, np.float32)})
    seen.rename(tmp_path / "osem_input.h5")
    inputs["osem"] = write(tmp_path, "osem")
    inputs["sinogram"] = write(tmp_path, "sinogram", dose=0.05)
    found, attributes = build(inputs | {"osem_input": tmp_path / "osem_input.h5"}, output)
    assert (found["osem_input"] == 7).all()
    assert not (found["osem"] == 7).all()
    assert attributes["dose"] == 0.05
    assert "osem_input_config" in json.loads(attributes["config"])


def test_values_are_those_of_the_inputs(inputs, output):
    found, _ = build(inputs, output)
    for name, (source, dataset) in SOURCES.items():
        wanted, _ = hdf5.read(inputs[source], KINDS[source], [dataset])
        np.testing.assert_array_equal(found[name], wanted[dataset], strict=True)


def test_compressed_chunks_are_copied_unchanged(inputs, output):
    build(inputs, output)
    for name, (source, dataset) in SOURCES.items():
        with h5py.File(inputs[source]) as old, h5py.File(output) as new:
            count = old[dataset].id.get_num_chunks()
            assert new[name].id.get_num_chunks() == count
            for n in range(count):
                at = old[dataset].id.get_chunk_info(n).chunk_offset
                chunk = old[dataset].id.read_direct_chunk(at)
                assert new[name].id.read_direct_chunk(at) == chunk


def test_datasets_and_attributes_describe_the_shard(inputs, output):
    _, attributes = build(inputs, output)
    assert {name: attributes[name] for name in SUBJECT_FACTS} == FACTS
    assert attributes["split"] == "train"
    assert attributes["projector"] == attributes["osem_projector"] == "sparse"
    assert {name: attributes[name] for name in SIMULATED} == SIMULATED
    assert attributes["pixels"] == SIZE
    config = json.loads(attributes["config"])
    assert config == {f"{name}_config": json.dumps({name: "settings"}) for name in KINDS}
    with hdf5.opened(output, SHARD) as file:
        for name in SOURCES:
            declared = SHARD.datasets[name]
            assert tuple(axis.label for axis in file[name].dims) == declared.axes
            assert file[name].attrs["units"] == declared.units
            assert file[name].attrs["description"] == declared.description


def test_counts_are_those_of_the_prompts(inputs, output):
    _, attributes = build(inputs, output)
    counted, _ = hdf5.read(inputs["sinogram"], SINOGRAM)
    images, _ = hdf5.read(inputs["fbp"], FBP)
    prompts = counted["prompts"].sum()
    trues = prompts - counted["background"].sum()
    assert attributes["counts_per_slice"] == prompts / SLICE
    assert attributes["counts_per_activity"] == pytest.approx(trues / images["fbp"].sum())


def test_identical_inputs_give_identical_bytes(inputs, output):
    build(inputs, output)
    first = output.read_bytes()
    build(inputs, output)
    assert output.read_bytes() == first


@pytest.mark.parametrize("factor", [2, 3])
def test_truth_on_a_finer_grid_is_averaged(tmp_path, inputs, output, factor):
    fine = np.random.default_rng(0).random((SLICE, SIZE * factor, SIZE * factor), np.float32)
    labels = np.ones((SLICE, SIZE, SIZE), np.uint8)
    inputs["slices"] = write(
        tmp_path,
        "slices",
        oversampling=factor,
        arrays={"activity": fine, "labels": labels, "lesion": labels},
    )
    found, _ = build(inputs, output)
    y, x = 5, 9
    block = fine[:, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
    np.testing.assert_allclose(found["activity"][:, y, x], block.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found["activity"].mean(), fine.mean(), rtol=1e-6)
    assert found["activity"].shape == (SLICE, SIZE, SIZE)


@pytest.mark.parametrize("name", ["sinogram", "osem", "fbp"])
@pytest.mark.parametrize(
    "change",
    [
        {"subject": "subject05"},
        {"seed": 4},
        {"labels_sha256": "1" * 64},
        {"pixel_mm": 2.1},
        {"arrays": {"slice_index": np.array([10, 12, 10, 13], np.int16)}},
        {"arrays": {"rotation_deg": np.array([0, 0, -7.5, -7.25], np.float32)}},
        {"arrays": {"rotation": np.zeros(4, np.uint8)}},
        {"arrays": {"draw": np.zeros(4, np.uint16)}},
        {"arrays": {"present": np.ones(4, np.uint8)}},
    ],
    ids=str,
)
def test_files_of_other_slices_are_refused(tmp_path, inputs, output, name, change):
    inputs[name] = write(tmp_path, name, **change)
    error = refusal(inputs, output)
    assert error.where == str(inputs[name])
    assert error.problem == f"does not hold the slices of {inputs['slices']}"
    assert f"run rule '{name}' again" in error.remedy


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("slices", "activity"), ("osem", "osem"), ("fbp", "fbp"), ("sinogram", "scale")],
)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_values_that_are_not_finite_are_refused(inputs, output, name, dataset, value):
    with h5py.File(inputs[name], "r+") as file:
        file[dataset][-1] = value
    error = refusal(inputs, output)
    assert error.where == str(inputs[name])
    assert f"dataset '/{dataset}'" in error.problem
    assert "non-finite values" in error.problem


@pytest.mark.parametrize(("name", "dataset"), sorted(set(SOURCES.values())))
def test_damaged_chunks_are_refused(inputs, output, name, dataset):
    with h5py.File(inputs[name]) as file:
        chunk = file[dataset].id.get_chunk_info(file[dataset].id.get_num_chunks() - 1)
    content = bytearray(inputs[name].read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0x10
    inputs[name].write_bytes(content)
    error = refusal(inputs, output)
    assert error.where == str(inputs[name])
    assert f"dataset '/{dataset}' is damaged" in error.problem
    assert f"run rule '{KINDS[name].rule}' again" in error.remedy


@pytest.mark.parametrize("name", KINDS)
def test_files_of_another_kind_are_refused(inputs, output, name):
    inputs[name] = inputs["osem" if name == "fbp" else "fbp"]
    assert f"not a '{KINDS[name].name}'" in refusal(inputs, output).problem


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_block_means_are_means_of_blocks(factor, size, count):
    images = np.random.default_rng(size).random((count, size * factor, size * factor))
    images = images.astype(np.float32)
    found = shard.block_mean(images, factor)
    assert found.dtype == np.float32
    for row in range(size):
        for column in range(size):
            block = images[:, row * factor :, column * factor :][:, :factor, :factor]
            np.testing.assert_allclose(found[:, row, column], block.mean(axis=(1, 2)), rtol=1e-5)
