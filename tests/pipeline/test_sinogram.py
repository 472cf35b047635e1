from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sinogram import (
    attenuation_factors,
    poisson_counts,
    sinogram,
    uniform_background,
    volume_scale,
)
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SINOGRAM
from pipeline.tomography.forward_model import ForwardModel, Simulation
from pipeline.tomography.geometry import field_of_view

pytestmark = pytest.mark.usefixtures("one_thread")

SIMULATION = Simulation(
    prompts_per_slice=2e5,
    attenuation=False,
    psf_fwhm_mm=0.0,
    background_fraction=0.0,
    oversampling=1,
)


@pytest.fixture(scope="module")
def projector(sparse, ring, grid):
    return sparse(ring, grid, 2)


@pytest.fixture(scope="module")
def volume(grid, disc):
    """Four slices with 1, 2, 3 and 4 times the activity."""
    head = 16 * disc(grid, 90) + 112 * disc(grid, 30, (20, -25))
    return head * np.array([1, 2, 3, 4], np.float32)[:, None, None]


@pytest.fixture(scope="module")
def water(grid, disc, volume):
    return np.broadcast_to(np.float32(0.096) * disc(grid, 90), volume.shape)


@pytest.fixture
def acquire(tmp_path, write_slices, projector):
    def run(activity, mu=None, rotation=None, seed=1, **changes):
        slices = write_slices(tmp_path / "slices.h5", activity, mu, rotation, seed=seed)
        sinogram(slices, tmp_path / "sinogram.h5", replace(SIMULATION, **changes), projector)
        return hdf5.read(tmp_path / "sinogram.h5", SINOGRAM)[0]

    return run


def expected_prompts(arrays, activity, projector, psf_fwhm_mm=0.0):
    model, columns = ForwardModel(projector, psf_fwhm_mm), projector.columns(activity)
    line_integrals = projector.sinograms(
        [model.forward(columns, subset) for subset in range(projector.subsets)]
    )
    scale = arrays["scale"][:, None, None]
    return scale * arrays["factors"] * line_integrals + arrays["background"]


@pytest.mark.parametrize("fraction", [0.0, 0.3])
@pytest.mark.parametrize("attenuation", [False, True])
def test_slices_have_the_wanted_prompts_on_average(acquire, volume, water, fraction, attenuation):
    arrays = acquire(volume, water, attenuation=attenuation, background_fraction=fraction)
    prompts = arrays["prompts"]
    assert prompts.dtype == np.uint32
    total = SIMULATION.prompts_per_slice * len(volume)
    assert abs(prompts.sum(dtype=np.int64) - total) < 4 * np.sqrt(total)
    # Background is the same part of each slice's prompts.
    background = arrays["background"].sum(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(
        background / prompts.sum(axis=(1, 2), dtype=np.float64), fraction, atol=0.01
    )


def test_slices_of_a_volume_keep_their_relative_activity(acquire, volume):
    arrays = acquire(volume)
    totals = arrays["prompts"].sum(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(totals / totals.sum(), [0.1, 0.2, 0.3, 0.4], rtol=0.02)
    assert len(np.unique(arrays["scale"])) == 1


def test_each_rotation_is_scaled_by_itself(acquire, volume):
    arrays = acquire(volume, rotation=[0, 0, 1, 1])
    totals = arrays["prompts"].sum(axis=(1, 2), dtype=np.float64).reshape(2, 2)
    np.testing.assert_allclose(totals.mean(axis=1), SIMULATION.prompts_per_slice, rtol=0.01)
    np.testing.assert_allclose(totals[:, 1] / totals[:, 0], [2, 4 / 3], rtol=0.03)
    np.testing.assert_array_equal(arrays["rotation"], [0, 0, 1, 1])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"background_fraction": 0.2},
        {"attenuation": True},
        {"psf_fwhm_mm": 9.0},
        {"attenuation": True, "background_fraction": 0.2, "psf_fwhm_mm": 9.0},
    ],
)
def test_prompts_are_poisson_counts_of_what_the_file_says(
    acquire, volume, water, projector, changes
):
    arrays = acquire(volume, water, **changes)
    expected = expected_prompts(arrays, volume, projector, changes.get("psf_fwhm_mm", 0.0))
    counted = expected > 5
    assert counted.sum() > 5000
    # (k - m)^2 / m has mean 1 and variance 2 + 1 / m: Poisson, neither more noise nor less.
    surplus = (arrays["prompts"] - expected)[counted]
    chi_squared = (surplus**2 / expected[counted]).mean()
    assert abs(chi_squared - 1) < 4 * np.sqrt(2.2 / counted.sum())
    assert abs(surplus.sum()) < 4 * np.sqrt(expected.sum())
    assert not arrays["prompts"][expected == 0].any()


def test_the_mean_of_many_draws_equals_their_variance():
    expected = np.array([[0.5, 3.0], [40.0, 1000.0]])
    draws = np.stack([poisson_counts(expected, 1, "subject04", 0, n) for n in range(4000)])
    mean, variance = draws.mean(axis=0), draws.var(axis=0)
    assert (np.abs(mean - expected) < 4 * np.sqrt(expected / 4000)).all()
    # The variance of a sample's variance is m (1 + 2 m) / n for Poisson counts.
    assert (np.abs(variance - expected) < 4 * np.sqrt(expected * (1 + 2 * expected) / 4000)).all()


@given(
    seed=st.integers(0, 2**31),
    rotation=st.integers(0, 255),
    index=st.integers(0, 2000),
)
@settings(deadline=None, max_examples=30)
def test_a_draw_belongs_to_its_seed_subject_rotation_and_slice(seed, rotation, index):
    expected = np.full((10, 10), 100.0)
    key = {"seed": seed, "subject": "subject04", "rotation": rotation, "slice_index": index}
    first = poisson_counts(expected, **key)
    np.testing.assert_array_equal(first, poisson_counts(expected, **key))
    for change in (
        {"seed": seed + 1},
        {"subject": "subject05"},
        {"rotation": rotation + 1},
        {"slice_index": index + 1},
        {"rotation": index, "slice_index": rotation} if index != rotation else {"seed": seed + 1},
    ):
        assert not np.array_equal(first, poisson_counts(expected, **{**key, **change}))


def test_slices_of_one_activity_get_different_noise(acquire, volume):
    prompts = acquire(volume[[1, 1, 1, 1]], rotation=[0, 0, 1, 1])["prompts"]
    assert len(np.unique(prompts.reshape(4, -1), axis=0)) == 4


def test_a_rotation_is_counted_the_same_alone_and_after_another(acquire, volume):
    together = acquire(volume, rotation=[0, 0, 1, 1])
    alone = acquire(volume[2:], rotation=[1, 1])
    for name, array in alone.items():
        np.testing.assert_array_equal(array, together[name][2:])


def test_the_same_settings_give_the_same_counts_and_another_seed_others(acquire, volume):
    first, again, other = acquire(volume), acquire(volume), acquire(volume, seed=2)
    np.testing.assert_array_equal(first["prompts"], again["prompts"])
    assert not np.array_equal(first["prompts"], other["prompts"])
    np.testing.assert_array_equal(first["scale"], other["scale"])


def test_attenuation_takes_counts_away_as_the_exponential_of_the_path(acquire, volume, water, ring):
    plain = acquire(volume, water)
    attenuated = acquire(volume, water, attenuation=True)
    assert (plain["factors"] == 1).all()
    factors = attenuated["factors"][0]
    assert factors.max() == 1
    # Through the middle: 18 cm of water.
    middle = factors[:, ring.radial_bins // 2]
    np.testing.assert_allclose(middle, np.exp(-0.096 * 18), rtol=0.03)
    # Activity in the middle loses most, so as many prompts ask for a larger scale.
    assert 3 < attenuated["scale"][0] / plain["scale"][0] < 6


def test_attenuation_by_nothing_is_refused(acquire, volume):
    with pytest.raises(InputError, match="subject04 has no attenuation map"):
        acquire(volume, attenuation=True)


def test_twice_the_attenuation_squares_the_factors(projector, water):
    once = attenuation_factors(projector, np.ascontiguousarray(water[:1]))
    twice = attenuation_factors(projector, 2 * water[:1])
    np.testing.assert_allclose(twice, once**2, rtol=1e-4)


@given(st.floats(1, 1e9), st.sampled_from([0.0, 0.001, 0.2, 0.9]), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_scale_and_background_add_up_to_the_wanted_prompts(prompts, fraction, seed):
    trues = np.random.default_rng(seed).random((3, 4, 5), dtype=np.float32) + np.float32(0.01)
    scale = volume_scale(trues, prompts, fraction)
    scaled = trues.astype(np.float64) * scale
    every = np.ones(scaled.shape[1:], bool)
    background = uniform_background(scaled, fraction, every).sum(axis=(1, 2), dtype=np.float64)
    assert (scaled.sum() + background.sum()) / 3 == pytest.approx(prompts, rel=1e-5)
    np.testing.assert_allclose(
        background, fraction * (scaled.sum(axis=(1, 2)) + background), rtol=1e-5
    )


def test_the_field_of_view_holds_the_test_object(ring, grid, volume):
    assert not volume[:, ~field_of_view(ring, grid)].any()
