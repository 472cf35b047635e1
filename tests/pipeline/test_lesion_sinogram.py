import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.lesions import PIXEL_MM, SETTINGS, SIZE, write_slices
from pipeline.lesion_sinogram import coupled, lesion_sinogram
from pipeline.lesions import lesions
from pipeline.sinogram import sinogram
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import DOSE, LESION_SLICES, SINOGRAM
from pipeline.tomography.forward_model import ForwardModel, Simulation
from pipeline.tomography.geometry import Grid

SIMULATION = Simulation(
    prompts_per_slice=2e5,
    attenuation=True,
    psf_fwhm_mm=5.0,
    background_fraction=0.2,
    oversampling=1,
)
DRAWS = 40
MEANS = st.just(0.0) | st.floats(0.05, 60)


@given(st.integers(0, 100), MEANS, MEANS)
def test_coupled_counts_are_poisson_of_their_own_mean(seed, mean, other):
    rng = np.random.default_rng(seed)
    shape = (200, 200)
    counts = coupled(rng.poisson(mean, shape), np.full(shape, mean), np.full(shape, other), rng)
    # Mean and variance of 40,000 counts, within seven of their standard errors.
    assert abs(counts.mean() - other) <= 7 * np.sqrt(other / counts.size)
    assert abs(counts.var() - other) <= 7 * np.sqrt((other + 2 * other**2) / counts.size)


def test_counts_of_one_mean_stay_as_they_are_and_others_move_one_way():
    rng = np.random.default_rng(1)
    expected = rng.uniform(0, 50, (100, 100))
    counts = rng.poisson(expected)
    same = coupled(counts, expected, expected, rng)
    np.testing.assert_array_equal(same, counts)
    assert (coupled(counts, expected, 1.3 * expected, rng) >= counts).all()
    assert (coupled(counts, expected, 0.7 * expected, rng) <= counts).all()


@pytest.fixture(scope="module")
def projector(sparse, ring):
    return sparse(ring, Grid(SIZE, PIXEL_MM))


@pytest.fixture(scope="module")
def made(projector, tmp_path_factory):
    """The folder of a subject's sinograms, without lesions and with them at two doses."""
    folder = tmp_path_factory.mktemp("twins")
    plain = write_slices(folder / "slices.h5", attenuation=0.09)
    sinogram(plain, folder / "sinogram.h5", SIMULATION, projector)
    lesions(plain, folder / "lesions.h5", SETTINGS, DRAWS)
    for dose in (1.0, 0.05):
        output = folder / f"twins_{dose}.h5"
        files = folder / "lesions.h5", folder / "sinogram.h5"
        lesion_sinogram(*files, output, dose, SIMULATION, projector)
    return folder


def expected(made, projector, dose):
    """Means (slice, twin, view, radial), from the images as they are."""
    truth, _ = hdf5.read(made / "lesions.h5", LESION_SLICES)
    found, _ = hdf5.read(made / f"twins_{dose}.h5", SINOGRAM)
    model = ForwardModel(projector, SIMULATION.psf_fwhm_mm)
    lines = projector.sinograms([model.forward(projector.columns(truth["activity"]), 0)])
    means = found["scale"][:, None, None] * found["factors"] * lines + found["background"]
    return means.reshape(-1, DRAWS, 2, *means.shape[1:])[:, 0]


@pytest.mark.parametrize("dose", [1.0, 0.05])
def test_twins_are_poisson_counts_of_their_means(made, projector, dose):
    found, attributes = hdf5.read(made / f"twins_{dose}.h5", SINOGRAM)
    assert attributes.get(DOSE, 1.0) == dose
    means = expected(made, projector, dose)
    counts = found["prompts"].reshape(-1, DRAWS, *means.shape[1:]).astype(float)
    for twin in (0, 1):
        mean, drawn = means[:, twin], counts[:, :, twin]
        pull = (drawn.mean(axis=1) - mean) / np.sqrt(np.maximum(mean, 1e-9) / DRAWS)
        seen = mean > 0.05
        assert abs(pull[seen].mean()) < 5 / np.sqrt(seen.sum())
        assert pull[seen].std() == pytest.approx(1, abs=0.05)
        assert drawn.var(axis=1, ddof=1)[seen].sum() == pytest.approx(mean[seen].sum(), rel=0.01)


def test_lines_beside_all_lesions_have_the_same_counts(made, projector):
    means = expected(made, projector, 1.0)
    found, _ = hdf5.read(made / "twins_1.0.h5", SINOGRAM)
    counts = found["prompts"].reshape(-1, DRAWS, *means.shape[1:]).astype(int)
    change = counts[:, :, 1] - counts[:, :, 0]
    beside = np.abs(means[:, 1] - means[:, 0]) < 1e-6
    assert 0.05 < beside.mean() < 0.95
    assert not change.swapaxes(1, 0)[:, beside].any()
    # What lesions change, with noise of its own alone.
    assert change.mean(axis=1)[~beside].sum() == pytest.approx(
        (means[:, 1] - means[:, 0]).sum(), rel=0.05
    )


def test_scale_factors_and_background_are_those_of_the_subjects_sinograms(made):
    plain, _ = hdf5.read(made / "sinogram.h5", SINOGRAM)
    for dose in (1.0, 0.05):
        found, _ = hdf5.read(made / f"twins_{dose}.h5", SINOGRAM)
        for n in range(len(found["draw"])):
            same = plain["rotation"] == found["rotation"][n]
            (row,) = np.flatnonzero(same & (plain["slice_index"] == found["slice_index"][n]))
            np.testing.assert_array_equal(found["factors"][n], plain["factors"][row])
            for name in ("scale", "background"):
                wanted = np.float32(dose) * plain[name][row]
                np.testing.assert_allclose(found[name][n], wanted, rtol=1e-6)


def test_draws_and_doses_are_different(made):
    found, _ = hdf5.read(made / "twins_1.0.h5", SINOGRAM)
    assert len({counts.tobytes() for counts in found["prompts"]}) == len(found["prompts"])
    low, _ = hdf5.read(made / "twins_0.05.h5", SINOGRAM)
    # Not those of all counts thinned: of a thinned draw, half the bins of few counts would agree.
    both = np.stack([low["prompts"][0], found["prompts"][0]]).reshape(2, -1).astype(float)
    expected = found["prompts"][::2].reshape(-1, DRAWS, both.shape[1])[0].mean(axis=0)
    residuals = both - np.array([[0.05], [1.0]]) * expected
    assert abs(np.corrcoef(residuals)[0, 1]) < 0.1


def test_a_sinogram_without_the_slices_is_refused(made, projector, tmp_path):
    other = write_slices(tmp_path / "slices.h5", rotations=1, attenuation=0.09)
    sinogram(other, tmp_path / "sinogram.h5", SIMULATION, projector)
    output = tmp_path / "twins.h5"
    files = made / "lesions.h5", tmp_path / "sinogram.h5"
    with pytest.raises(InputError, match="lacks rotation 1, slice 12"):
        lesion_sinogram(*files, output, 1.0, SIMULATION, projector)
    assert not output.exists()
