import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage import hdf5
from pipeline.storage.kinds import DOSE, SINOGRAM, SLICE_IDENTITY
from pipeline.thin import thin, thinned
from pipeline.tomography.physics import dose_of

SHAPE = (3, 8, 15)
FACTS = {
    **{"seed": 3, "subject": "subject04", "source": "brainweb", "labels_sha256": "0" * 64},
    **{"pixel_mm": 2.0, "slice_mm": 3.0, "orientation": "LPS", "projector": "sparse"},
    **{"geometry": "{}", "attenuation": True, "psf_fwhm_mm": 4.5, "background_fraction": 0.25},
}


@pytest.fixture
def full(tmp_path):
    rng = np.random.default_rng(1)
    arrays = {
        "prompts": rng.poisson(400, SHAPE).astype(np.uint32),
        "factors": rng.random(SHAPE, np.float32),
        "background": 100 * rng.random(SHAPE, np.float32),
        "scale": np.array([2, 2, 3], np.float32),
        "rotation": np.array([0, 0, 1], np.uint8),
        "rotation_deg": np.array([0, 0, 7.5], np.float32),
        "slice_index": np.array([10, 12, 10], np.int16),
    }
    hdf5.write(tmp_path / "full.h5", SINOGRAM, arrays, hdf5.provenance({}, **FACTS))
    return tmp_path / "full.h5"


def test_counts_are_those_of_a_lower_dose(full, tmp_path):
    thin(full, tmp_path / "low.h5", 0.05)
    before, _ = hdf5.read(full, SINOGRAM)
    after, attributes = hdf5.read(tmp_path / "low.h5", SINOGRAM)
    assert attributes[DOSE] == 0.05
    assert {name: attributes[name] for name in FACTS} == FACTS
    for name in ("scale", "background"):
        np.testing.assert_allclose(after[name], 0.05 * before[name], rtol=1e-6)
    for name in ("factors", *SLICE_IDENTITY):
        np.testing.assert_array_equal(after[name], before[name], strict=True)
    assert (after["prompts"] <= before["prompts"]).all()
    with h5py.File(full) as one, h5py.File(tmp_path / "low.h5") as other:
        assert (dose_of(one), dose_of(other)) == (1.0, 0.05)


@given(st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_thinned_poisson_count_is_a_poisson_count(dose, seed):
    rng = np.random.default_rng(seed)
    counts = thinned(rng.poisson(50, (100, 200)), dose, seed, "subject04", 0, 10)
    # Mean and variance of 20,000 counts, within five of their standard errors.
    mean = 50 * dose
    assert abs(counts.mean() - mean) < 5 * np.sqrt(mean / counts.size)
    error = np.sqrt((mean + 2 * mean**2) / counts.size)
    assert abs(counts.var() - mean) < 5 * error


def test_a_draw_belongs_to_its_slice_and_dose_alone():
    prompts = np.full((20, 20), 100, np.uint32)
    key = {"dose": 0.2, "seed": 3, "subject": "subject04", "rotation": 0, "slice_index": 10}
    first = thinned(prompts, **key)
    np.testing.assert_array_equal(thinned(prompts, **key), first, strict=True)
    assert first.dtype == np.uint32
    for change in ({"dose": 0.21}, {"seed": 4}, {"rotation": 1}, {"slice_index": 11}):
        assert (thinned(prompts, **{**key, **change}) != first).any()
