import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from pipeline.baselines import MAP, OSEM_FILTER
from pipeline.classical import FilterSettings, counts_of, reconstruct
from pipeline.map import MapSettings, map_images
from pipeline.osem import SLICES_AT_A_TIME, OsemSettings
from pipeline.osem import reconstruct as osem_rule
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import OSEM, RECONSTRUCTION, SINOGRAM
from pipeline.tomography.forward_model import ForwardModel, Simulation, smoothed
from pipeline.tomography.geometry import Grid

pytestmark = pytest.mark.usefixtures("one_thread")

COARSE = Grid(24, 11.0)
SIMULATION = Simulation(1e5, True, 15.0, 0.1, 1)
FILTER = FilterSettings(2, 20.0)
SETTINGS = MapSettings(0.02, 2.0, 0.1, 2)


@pytest.fixture(scope="module")
def projector(sparse, ring):
    return sparse(ring, COARSE, 8)


@pytest.fixture(scope="module")
def sinogram(tmp_path_factory, projector, disc, write_sinogram):
    """More slices than are reconstructed together, of discs of different levels, with factors."""
    count = SLICES_AT_A_TIME + 3
    discs = np.linspace(50, 150, count, dtype=np.float32)[:, None, None] * disc(COARSE, 90)
    path = tmp_path_factory.mktemp("classical") / "subject04.h5"
    rotation = np.arange(count) // 10
    factors = np.exp(-projector.project(0.004 * disc(COARSE, 90)[None]))
    return write_sinogram(path, projector.project(discs), 0.05, factors, 3.0, rotation)


@pytest.fixture
def settings(tmp_path):
    """Settings as rule ``classical_settings`` writes them."""
    path = tmp_path / "settings.json"
    chosen = {OSEM_FILTER: FILTER, MAP: SETTINGS}
    path.write_text(json.dumps({name: {"chosen": asdict(of)} for name, of in chosen.items()}))
    return path


def made(tmp_path, name, sinogram, settings, projector):
    output = tmp_path / f"{name}.h5"
    reconstruct(name, sinogram, settings, output, SIMULATION, projector)
    return hdf5.read(output, RECONSTRUCTION)


@pytest.mark.parametrize("name", [OSEM_FILTER, MAP])
def test_the_file_is_like_a_networks_but_for_the_network(
    tmp_path, sinogram, settings, projector, name
):
    arrays, attributes = made(tmp_path, name, sinogram, settings, projector)
    measured, _ = hdf5.read(sinogram, SINOGRAM)
    np.testing.assert_array_equal(arrays["rotation"], measured["rotation"])
    np.testing.assert_array_equal(arrays["slice_index"], measured["slice_index"])
    assert arrays["image"].shape == (len(measured["rotation"]), 24, 24)
    assert (attributes["model"], attributes["subject"]) == (name, "subject04")
    assert (attributes["weights_sha256"], attributes["epoch"]) == ("", -1)
    assert np.isnan(attributes["activity_scale"])
    assert (attributes["projector"], attributes["device"]) == ("sparse", "cpu")
    chosen = {OSEM_FILTER: FILTER, MAP: SETTINGS}[name]
    assert json.loads(attributes["config"])[name] == asdict(chosen)


def test_filtered_osem_is_rule_osem_and_a_gaussian(tmp_path, sinogram, settings, projector):
    arrays, _ = made(tmp_path, OSEM_FILTER, sinogram, settings, projector)
    osem_rule(sinogram, tmp_path / "osem.h5", OsemSettings(2, 8), SIMULATION, projector)
    plain = hdf5.read(tmp_path / "osem.h5", OSEM)[0]["osem"]
    expected = projector.images(smoothed(projector.columns(plain), 20.0, projector))
    np.testing.assert_allclose(arrays["image"], expected, rtol=1e-5, atol=1e-4)
    # What it spreads over is no more than what was there.
    assert arrays["image"].sum() == pytest.approx(plain.sum(), rel=1e-2)
    assert arrays["image"].std() < plain.std()


def test_no_filter_changes_nothing(projector):
    image = torch.rand(len(projector.columns(np.zeros((1, 24, 24), np.float32))), 2)
    torch.testing.assert_close(smoothed(image, 0.0, projector), image)


def test_map_is_of_activity(tmp_path, sinogram, settings, projector):
    arrays, _ = made(tmp_path, MAP, sinogram, settings, projector)
    measured, _ = hdf5.read(sinogram, SINOGRAM)

    def subsets(name):
        return [projector.lors(measured[name][:2], subset) for subset in range(8)]

    scaled = [0.05 * part for part in subsets("factors")]
    model = ForwardModel(projector, 15.0, scaled)
    *_, found = map_images(model, subsets("prompts"), subsets("background"), SETTINGS)
    expected = projector.images(found.image)
    np.testing.assert_allclose(arrays["image"][:2], expected, rtol=1e-4, atol=1e-3)
    middle = arrays["image"][:, 10:14, 10:14].mean(axis=(1, 2))
    levels = np.linspace(50, 150, len(middle))
    np.testing.assert_allclose(middle, levels, rtol=0.1)


def test_factors_of_one_are_left_out(tmp_path, projector, disc, write_sinogram):
    trues = projector.project(100 * disc(COARSE, 90)[None])
    for factors, needed in ((1.0, False), (0.5, True)):
        path = write_sinogram(tmp_path / "sinogram.h5", trues, 0.05, factors)
        with hdf5.opened(path, SINOGRAM) as file:
            counts = counts_of(file, np.s_[:], ForwardModel(projector, 0.0))
        assert (counts.factors is not None) == needed
        expected = counts.of_activity.forward(projector.columns(100 * disc(COARSE, 90)[None]), 0)
        torch.testing.assert_close(expected, counts.prompts[0], rtol=0, atol=0.51)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"MAP": 1}', '{"MAP": {"chosen": {"beta": 1, "other": 2}}}']
)
def test_damaged_settings_are_refused(tmp_path, sinogram, projector, text):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(InputError, match="holds no settings of MAP"):
        reconstruct(MAP, sinogram, path, tmp_path / "map.h5", SIMULATION, projector)
    assert not (tmp_path / "map.h5").exists()


def test_another_scanners_sinogram_is_refused(tmp_path, settings, projector, write_sinogram):
    path = write_sinogram(tmp_path / "sinogram.h5", np.ones((1, 64, 61)), 1.0)
    with pytest.raises(InputError, match="has \\(64, 61\\) for \\(64, 63\\)"):
        reconstruct(MAP, path, settings, tmp_path / "map.h5", SIMULATION, projector)
