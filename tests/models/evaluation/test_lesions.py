from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest

from helpers.lesions import PIXEL_MM, SETTINGS, SIZE, head, write_images, write_twins
from models.dataset import Scales
from models.evaluation.lesion_measures import EXCEEDED, relative_noise
from models.evaluation.lesions import COLUMNS, lesion_metrics, lesion_slices
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import LESION_SLICES, SHARD
from pipeline.tomography.geometry import Grid

DRAWS, DEVIATION, SAMPLES = 40, 8.0, 3
SMALLEST_MM = SETTINGS.diameter_mm[0]
SCALES = Scales(100.0, 128.0)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A subject's lesions and their shard."""
    return write_twins(tmp_path_factory.mktemp("twins"), DRAWS)


@pytest.fixture(scope="module")
def table(twins, tmp_path_factory):
    """Lines of three models: truth with noise, paler without noise, and samples of the truth."""
    slices, shard = twins
    folder = tmp_path_factory.mktemp("table")
    truth = hdf5.read(shard, SHARD, ["activity"])[0]["activity"][:, None]
    rng = np.random.default_rng(4)
    noise = DEVIATION * rng.normal(size=truth.shape)
    samples = DEVIATION * rng.normal(size=(len(truth), SAMPLES, *truth.shape[2:]))
    trained = {"weights_sha256": "1" * 64, "activity_scale": 128.0}
    images = {
        "OSEM-filter": write_images(folder / "a.h5", shard, "OSEM-filter", truth + noise),
        "Pale": write_images(folder / "b.h5", shard, "Pale", 0.7 * truth, **trained),
        "Drawn": write_images(folder / "c.h5", shard, "Drawn", truth + samples, **trained),
    }
    output = folder / "lesions.csv.gz"
    files = {model: [path] for model, path in images.items()}
    lesion_metrics([shard], [slices], files, SCALES, SMALLEST_MM, output)
    return pd.read_csv(output)


def test_antithetic_samples_are_averaged_in_whole_pairs(twins, tmp_path):
    slices, shard = twins
    truth = hdf5.read(shard, SHARD, ["activity"])[0]["activity"][:, None]
    samples = truth + np.zeros((len(truth), 6, *truth.shape[2:]))
    facts = {"weights_sha256": "1" * 64, "activity_scale": 128.0, "antithetic": 1}
    files = {
        "OSEM-filter": [write_images(tmp_path / "a.h5", shard, "OSEM-filter", truth)],
        "Drawn": [write_images(tmp_path / "b.h5", shard, "Drawn", samples, **facts)],
    }
    lesion_metrics([shard], [slices], files, SCALES, SMALLEST_MM, tmp_path / "l.csv.gz")
    table = pd.read_csv(tmp_path / "l.csv.gz")
    assert table.loc[table["model"] == "Drawn", "samples"].unique().tolist() == [1, 2, 4, 6]


def test_there_is_a_line_a_lesion_model_and_number_of_samples(twins, table):
    assert list(table.columns) == list(COLUMNS)
    lesions, _ = hdf5.read(twins[0], LESION_SLICES)
    count = len(lesions["lesion_number"])
    assert count == 2 * SETTINGS.per_volume * SETTINGS.per_slice
    sizes = table.groupby(["model", "samples"]).size()
    assert sizes.to_dict() == dict.fromkeys(
        [("OSEM-filter", 1), ("Pale", 1), *(("Drawn", n) for n in range(1, SAMPLES + 1))], count
    )
    one = table[table["model"] == "Pale"].reset_index(drop=True)
    assert (one["kind"] == np.where(lesions["lesion_contrast"] > 1, "hot", "cold")).all()
    assert (one["tissue"] == np.where(lesions["lesion_tissue"] == 2, "GM", "WM")).all()
    np.testing.assert_allclose(one["diameter_mm"], lesions["lesion_diameter_mm"], rtol=1e-5)
    assert {*one["subject"], *one["dose"]} == {"subject04", 0.05}


def test_images_of_less_contrast_recover_less(table):
    pale = table[table["model"] == "Pale"]
    np.testing.assert_allclose(pale["difference"], 0.7 * pale["true_difference"], rtol=1e-4)
    assert (pale["true_difference"] > 0).all()  # of cold ones negated
    assert not pale["variance"].any()
    # Nothing but the lesion differs.
    assert (pale["auc"] == 1).all()
    # 30 % are missing, which is more than the noise of OSEM + filter after smoothing.
    assert (pale["false_structure"] > 0.1).all()


def test_noise_is_that_of_the_images_and_falls_with_samples(table):
    alone = table[(table["model"] == "Drawn") & (table["samples"] == 1)]
    # In a few pixels, of 40 draws.
    assert alone["variance"].mean() == pytest.approx(DEVIATION**2, rel=0.1)
    means = table[table["model"] == "Drawn"].groupby("samples")[["variance", "level"]].mean()
    noise = relative_noise(means["variance"], means["level"]) * np.sqrt(means.index)
    np.testing.assert_allclose(noise, noise.iloc[0], rtol=0.1)
    differences = table[table["model"] == "Drawn"].groupby("samples")["difference"].mean()
    wanted = table["true_difference"].mean()
    assert differences.to_numpy() == pytest.approx(wanted, rel=0.15)


def test_the_threshold_is_that_of_filtered_osem(table):
    assert table["threshold"].nunique() == 1
    filtered = table[table["model"] == "OSEM-filter"]
    slices = filtered.drop_duplicates(["rotation", "slice_index"])
    assert slices["false_structure"].mean() == pytest.approx(EXCEEDED, abs=1e-4)
    # Means of samples have less noise than one image of the same.
    mean = table[(table["model"] == "Drawn") & (table["samples"] == SAMPLES)]
    assert mean["false_structure"].max() < EXCEEDED / 10


def test_a_ring_is_brain_of_no_lesion(twins):
    slices, shard = twins
    grid = Grid(SIZE, PIXEL_MM)
    brain = np.isin(head()[0], (2, 3))
    with hdf5.opened(shard, SHARD) as one, hdf5.opened(slices, LESION_SLICES) as other:
        truth = one["activity"][:]
        for found in lesion_slices(one, other):
            assert found.rows.shape == (DRAWS, 2)
            changed = found.truth[0] != found.truth[1]
            np.testing.assert_array_equal(truth[found.rows[3, 1]], found.truth[1])
            np.testing.assert_array_equal(found.brain, brain)
            assert len(found.lesions) == SETTINGS.per_slice
            for lesion in found.lesions:
                assert not (lesion.ring & changed).any()
                assert not (lesion.ring & ~brain).any()
                assert (lesion.disc <= changed).all()
                y, x = np.nonzero(lesion.ring)
                middle_y, middle_x = (axis.mean() for axis in np.nonzero(lesion.disc))
                far = np.hypot(y - middle_y, x - middle_x) * grid.pixel_mm
                assert far.max() < lesion.facts["diameter_mm"] / 2 + 10 + 1.5 * PIXEL_MM


def test_other_slices_and_models_are_refused(twins, tmp_path):
    slices, shard = twins
    truth = hdf5.read(shard, SHARD, ["activity"])[0]["activity"][:, None]
    image = write_images(tmp_path / "a.h5", shard, "MAP", truth)
    output = tmp_path / "lesions.csv.gz"
    files = {"OSEM-filter": [image]}
    with pytest.raises(InputError, match="is by MAP, not by OSEM-filter"):
        lesion_metrics([shard], [slices], files, SCALES, SMALLEST_MM, output)
    image = write_images(tmp_path / "b.h5", shard, "OSEM-filter", truth)
    with h5py.File(image, "r+") as file:
        file["draw"][:] = file["draw"][:][::-1]
    with pytest.raises(InputError, match="was made of other slices"):
        lesion_metrics([shard], [slices], {"OSEM-filter": [image]}, SCALES, SMALLEST_MM, output)
    (tmp_path / "other").mkdir()
    other, _ = write_twins(tmp_path / "other", DRAWS, replace(SETTINGS, per_volume=1))
    image = write_images(tmp_path / "c.h5", shard, "OSEM-filter", truth)
    with pytest.raises(InputError, match="has other slices than"):
        lesion_metrics([shard], [other], {"OSEM-filter": [image]}, SCALES, SMALLEST_MM, output)
    assert not output.exists()
