import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from pipeline.baselines import MAP, OSEM_FILTER
from pipeline.classical import reconstruct
from pipeline.classical_settings import ClassicalSettings, choose
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION, SHARD, SINOGRAM
from pipeline.tomography.forward_model import Simulation
from pipeline.tomography.geometry import Grid

pytestmark = pytest.mark.usefixtures("one_thread")

COARSE = Grid(24, 11.0)
SIMULATION = Simulation(1e5, False, 0.0, 0.0, 1)
SETTINGS = ClassicalSettings(
    slices=3,
    osem_iterations=3,
    filter_mm=[0, 15, 60],
    betas=[2, 40, 1000],
    gamma=2.0,
    epsilon=1e-3,
    map_iterations=2,
)


@pytest.fixture(scope="module")
def projector(sparse, ring):
    return sparse(ring, COARSE, 8)


@pytest.fixture
def subject(tmp_path, projector, disc, write_sinogram):
    """Write sinogram, with noise, and shard of some slices of discs with a hot spot."""

    def write(name, count, unit=1.0, bright=1.0):
        images = [
            100 * disc(COARSE, 70 + 5 * n) + 60 * disc(COARSE, 25, (30, n)) for n in range(count)
        ]
        truth = np.stack(images).astype(np.float32)
        counts = np.random.default_rng(count).poisson(0.01 * projector.project(truth))
        sinogram = write_sinogram(
            tmp_path / f"{name}.sinogram.h5", unit * counts / 0.01, 0.01 / unit
        )
        arrays, _ = hdf5.read(sinogram, SINOGRAM)
        assert (arrays["prompts"] == counts).all()
        kept = {key: arrays[key] for key in ("rotation", "rotation_deg", "slice_index", "scale")}
        kept |= {"sinogram": arrays["prompts"], "activity": np.float32(bright * unit) * truth}
        kept |= {"osem": truth, "fbp": truth}
        shard = tmp_path / f"{name}.shard.h5"
        hdf5.write(shard, SHARD, kept, hdf5.provenance({}, subject=name))
        return sinogram, shard

    return write


def chosen_of(tmp_path, subjects, projector, settings=SETTINGS):
    output = tmp_path / "settings.json"
    choose(*zip(*subjects, strict=True), output, settings, SIMULATION, projector)
    return json.loads(output.read_text())


def test_the_best_of_all_is_chosen(tmp_path, subject, projector, caplog):
    sinogram, shard = subject("subject18", 3)
    with caplog.at_level(logging.INFO):
        found = chosen_of(tmp_path, [(sinogram, shard)], projector)
    assert len(found[OSEM_FILTER]["curve"]) == 9
    assert len(found[MAP]["curve"]) == 3
    truth = hdf5.read(shard, SHARD, ["activity"])[0]["activity"].astype(float)
    assert found["range"] == truth.max()
    assert found["level"] == pytest.approx((truth**2).sum() / truth.sum())
    for name in (OSEM_FILTER, MAP):
        best = max(found[name]["curve"], key=lambda point: point["psnr_db"])
        assert best.items() <= {**found[name]["chosen"], "psnr_db": found[name]["psnr_db"]}.items()
        # And what is said of it is what the rule reconstructs with it.
        settings, output = tmp_path / "settings.json", tmp_path / "image.h5"
        reconstruct(name, sinogram, settings, output, SIMULATION, projector)
        image = hdf5.read(output, RECONSTRUCTION)[0]["image"]
        errors = ((image - truth) ** 2).mean(axis=(1, 2))
        psnr_db = 10 * np.log10(truth.max() ** 2 / errors).mean()
        assert psnr_db == pytest.approx(found[name]["psnr_db"], abs=1e-3)
    assert found[MAP]["chosen"]["beta"] == pytest.approx(40 / found["level"])
    assert found[MAP]["chosen"]["epsilon"] == pytest.approx(1e-3 * found["level"])
    assert found[MAP]["at_end"] == []
    assert "best of 9" in caplog.text


def test_a_choice_at_an_end_is_said_so(tmp_path, subject, projector, caplog):
    settings = replace(SETTINGS, osem_iterations=1, filter_mm=[0, 3], betas=[0.01, 0.1])
    found = chosen_of(tmp_path, [subject("subject18", 2)], projector, settings)
    assert "iterations" in found[OSEM_FILTER]["at_end"]
    assert found[MAP]["at_end"] == ["beta"]
    assert "MAP: beta is at an end of what was compared" in caplog.text


def test_slices_are_spread_over_all_subjects(tmp_path, subject, projector):
    subjects = [subject("subject18", 2), subject("subject20", 4)]
    few = replace(SETTINGS, osem_iterations=1, filter_mm=[0], betas=[2], map_iterations=1)
    # 0, 2 (or 3) and 5 of six: the first, one in the middle and the last.
    assert chosen_of(tmp_path, subjects, projector, few)["slices"] == 3
    every = chosen_of(tmp_path, subjects, projector, replace(few, slices=100))
    assert every["slices"] == 6
    alone = [chosen_of(tmp_path, [each], projector, replace(few, slices=9)) for each in subjects]
    # Data ranges differ.
    mean = sum(
        n * (one[OSEM_FILTER]["psnr_db"] + 20 * np.log10(every["range"] / one["range"]))
        for n, one in zip((2, 4), alone, strict=True)
    )
    assert every[OSEM_FILTER]["psnr_db"] == pytest.approx(mean / 6, abs=1e-3)


def test_another_unit_of_activity_chooses_the_same(tmp_path, subject, projector):
    plain = chosen_of(tmp_path, [subject("subject18", 2)], projector)
    other = chosen_of(tmp_path, [subject("subject20", 2, unit=1e4)], projector)
    for name in (OSEM_FILTER, MAP):
        np.testing.assert_allclose(
            *([point["psnr_db"] for point in one[name]["curve"]] for one in (plain, other)),
            atol=2e-3,
        )
    assert other["level"] == pytest.approx(1e4 * plain["level"])


def test_files_of_other_slices_are_refused(tmp_path, subject, projector):
    (sinogram, _), (_, shard) = subject("subject18", 2), subject("subject20", 3)
    with pytest.raises(InputError, match="has other slices than"):
        chosen_of(tmp_path, [(sinogram, shard)], projector)


def test_slices_without_activity_are_refused(tmp_path, subject, projector):
    with pytest.raises(InputError, match="have no activity"):
        chosen_of(tmp_path, [subject("subject18", 2, bright=0.0)], projector)
