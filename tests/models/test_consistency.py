"""Data consistency: what EM steps with the measured counts do to samples."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_models import NETWORK, SAMPLING, job, own_settings
from helpers.small_models import settings as small_settings
from helpers.trainings import run
from models.consistency import Measurements, pulled
from models.dataset import SliceKey
from models.evaluation.metrics_table import CONSISTENCY
from models.evaluation.sweep import sweep
from models.methods.cdpm import CDPM
from models.reconstruct import Reconstructor, reconstruct
from models.settings import Consistency, Sweep
from pipeline import fbp, osem, shard
from pipeline.fbp import FbpSettings
from pipeline.osem import OsemSettings
from pipeline.sinogram import sinogram
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION, SINOGRAM
from pipeline.tomography.forward_model import ForwardModel, Simulation
from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.scanners import Ring

pytestmark = pytest.mark.usefixtures("one_thread")

RING, GRID = Ring(8, 8, 200.0, 20.7, 16, gaps=[3]), Grid(32, 8.0)
SIMULATION = Simulation(1e5, True, 10.0, 0.2, 1)
INSIDE = field_of_view(RING, GRID)
SLICES, SUBSETS = 5, 4
ACTIVITY = 150.0
ONE, OFF = Consistency(1, 1.0, 0.0), Consistency(0, 1.0, 0.0)


def sampled(**changes):
    return replace(SAMPLING, **changes)


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_slices, sparse, disc):
    """A shard of heads with gaps, attenuation and background, and a cDPM that was trained on it."""
    folder = tmp_path_factory.mktemp("study")
    parts = {name: folder / f"{name}.h5" for name in ("slices", "sinogram", "osem", "fbp")}
    sizes = np.linspace(40, 70, SLICES)
    head = np.stack([30 * disc(GRID, 2 * mm) + 90 * disc(GRID, mm / 2, (15, -20)) for mm in sizes])
    water = np.float32(0.096) * np.stack([disc(GRID, 90)] * SLICES)
    write_slices(parts["slices"], head, water, pixel_mm=GRID.pixel_mm)
    projector = sparse(RING, GRID, SUBSETS)
    sinogram(parts["slices"], parts["sinogram"], SIMULATION, projector)
    osem.reconstruct(parts["sinogram"], parts["osem"], OsemSettings(2, 4), SIMULATION, projector)
    fbp.reconstruct(parts["sinogram"], parts["fbp"], FbpSettings("hann", 1.0), RING, GRID)
    shard.build(**parts, output=folder / "shard.h5", split="train")
    config = small_settings(network={**small_settings()["network"], "size": GRID.size})
    config["methods"]["cDPM"]["conditioning"] = ["sinogram", "fbp"]
    weights = run(folder, ([folder / "shard.h5"], []), "cDPM", "cDPM", config=config)
    return folder, config, weights, folder / "shard.h5"


@pytest.fixture(scope="module")
def measured(study, sparse):
    plain = ForwardModel(sparse(RING, GRID, SUBSETS), SIMULATION.psf_fwhm_mm)
    return Measurements([study[0] / "sinogram.h5"], plain)


@pytest.fixture(scope="module")
def counts(measured):
    return measured.counts([(0, row) for row in range(SLICES)])


@pytest.fixture
def samples(study, measured):
    """Reconstruct slices of the shard."""
    _, config, weights, path = study
    model = Reconstructor(weights, None, job(config, "cDPM"), threads=1)

    def made(indices=range(SLICES), measured=measured, **changes):
        return model.samples(model.slices([path]), indices, sampled(**changes), measured)

    return made


def likelihood(counts, images):
    """Poisson log-likelihood of images (N, y, x) of activity, (N,)."""
    columns = counts.model.projector.columns(images.astype(np.float32)).clamp_min(0)
    total = np.zeros(len(images))
    for subset in range(SUBSETS):
        expected = counts.model.forward(columns, subset) + counts.background[subset]
        expected = expected.clamp_min(1e-9).double()
        found = counts.prompts[subset] * expected.log() - expected
        total += found.sum(dim=0).numpy()
    return total


def random_images(seed, count=SLICES):
    """Images around 0.3, of which some pixels are negative and some 0."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0.3, 0.3, (count, 1, GRID.size, GRID.size)).astype(np.float32)
    images[rng.random(images.shape) < 0.1] = 0
    return torch.from_numpy(images)


# --- one pull ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(sparse):
    """Line integrals of the blurred image, (lor, pixel) in float64."""
    model = ForwardModel(sparse(RING, GRID, 1), SIMULATION.psf_fwhm_mm)
    return model.forward(torch.eye(int(INSIDE.sum())), 0).numpy().astype(np.float64)


def closed_form(study, dense, images, steps):
    """EM of images (N, y, x) of activity in float64, with dense matrices."""
    arrays, _ = hdf5.read(study[0] / "sinogram.h5", SINOGRAM)
    found = []
    for row, image in enumerate(images):
        counts, factors, background = (
            arrays[name][row].ravel().astype(np.float64)
            for name in ("prompts", "factors", "background")
        )
        matrix = factors[:, None] * dense * float(arrays["scale"][row])
        x = np.maximum(image[INSIDE].astype(np.float64), 0)
        for _ in range(steps):
            expected = matrix @ x + background
            ratio = np.divide(counts, expected, out=np.zeros_like(counts), where=expected > 0)
            x = x * (matrix.T @ ratio) / matrix.sum(axis=0)
        found.append(x)
    return np.stack(found)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_pull_is_em_in_double_precision(study, dense, counts, steps):
    """With gaps, attenuation, background, blurring, subsets and each slice's own scale."""
    images = random_images(1)
    after = pulled(images, counts, Consistency(steps, 1.0, 0.0), ACTIVITY)
    expected = closed_form(study, dense, ACTIVITY * images[:, 0].numpy(), steps)
    found = ACTIVITY * after[:, 0].numpy()[:, INSIDE]
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    assert np.abs(found - expected).max() < 1e-4 * expected.max()


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 1, width=16),
    st.integers(1, 3),
    st.sampled_from([1.0, 150.0]),
)
@settings(deadline=None, max_examples=10)
def test_strength_is_a_part_of_the_way(counts, seed, strength, steps, activity):
    images = random_images(seed)
    whole = pulled(images, counts, Consistency(steps, 1.0, 0.0), activity)
    part = pulled(images, counts, Consistency(steps, strength, 0.0), activity)
    expected = images + strength * (whole - images)
    torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5 * float(whole.max()))


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_what_counts_say_nothing_about_stays_and_0_stays_0(counts, seed):
    images = random_images(seed)
    after = pulled(images, counts, ONE, ACTIVITY)
    outside = ~torch.from_numpy(INSIDE)
    assert torch.equal(after[..., outside], images[..., outside])
    inside = images[..., ~outside]
    assert (after[..., ~outside][inside <= 0] == 0).all()
    assert (after[..., ~outside] >= 0).all()


def test_pixels_that_nothing_counts_keep_their_estimate(counts):
    """Of a slice without any factor all do; its neighbours are pulled."""
    model = counts.model
    factors = [part.clone() for part in model._factors]
    for part in factors:
        part[:, 2] = 0
    images = random_images(3)
    after = pulled(images, counts._replace(model=model.times(factors)), ONE, ACTIVITY)
    assert torch.equal(after[2], images[2])
    assert not torch.allclose(after[1], images[1], atol=1e-2)


@given(st.integers(0, 2**32 - 1), st.permutations(range(SLICES)), st.integers(1, SLICES))
@settings(deadline=None, max_examples=10)
def test_neither_the_batch_nor_its_order_matters(measured, counts, seed, order, count):
    images, chosen = random_images(seed), order[:count]
    together = pulled(images, counts, ONE, ACTIVITY)
    own = measured.counts([(0, row) for row in chosen])
    alone = pulled(images[chosen], own, ONE, ACTIVITY)
    torch.testing.assert_close(alone, together[chosen], rtol=1e-5, atol=1e-6)


def test_a_pull_raises_the_likelihood(counts):
    images = random_images(5).clamp_min(0)
    values = [likelihood(counts, ACTIVITY * images[:, 0].numpy())]
    for _ in range(5):
        images = pulled(images, counts, ONE, ACTIVITY)
        values.append(likelihood(counts, ACTIVITY * images[:, 0].numpy()))
    assert (np.diff(values, axis=0) > 0).all()


def test_sixteen_bits_of_networks_are_not_those_of_em(measured, counts):
    images = random_images(7)
    correct = measured.consistent([(0, row) for row in range(SLICES)], ONE, ACTIVITY)
    with torch.autocast("cpu", torch.bfloat16):
        found = correct(images, 0.0)
    assert torch.equal(found, pulled(images, counts, ONE, ACTIVITY))


# --- samples -------------------------------------------------------------------------------------


def test_samples_explain_the_counts_better(samples, counts):
    plain, one, three = (
        likelihood(counts, samples(consistency=Consistency(steps, 1.0, 0.0))[:, 0])
        for steps in (0, 1, 3)
    )
    assert (one > plain + 100).all()
    assert (three > one).all()


@pytest.mark.parametrize("off", [OFF, Consistency(5, 0.0, 0.0)])
def test_without_it_nothing_changes_and_nothing_is_read(samples, off):
    plain = samples(consistency=OFF)
    missing = Measurements(["nowhere.h5"], None)
    assert np.array_equal(samples(consistency=off, measured=missing), plain)
    assert np.array_equal(samples(consistency=off, measured=None), plain)
    with pytest.raises(TypeError, match="cDPM needs the measured counts"):
        samples(consistency=ONE, measured=None)


def test_images_depend_neither_on_their_batch_nor_on_their_order(samples):
    found = samples(consistency=ONE)
    tolerance = 1e-4 * found.max()
    assert np.allclose(samples(consistency=ONE, batch_size=5), found, atol=tolerance)
    assert np.allclose(samples([4, 0, 2], consistency=ONE), found[[4, 0, 2]], atol=tolerance)
    assert np.array_equal(samples(consistency=ONE, samples=2)[:, :1], found)


def test_steps_before_the_start_have_none():
    """Of 4 steps, at 0, 1/4, 1/2 and 3/4 of the way."""
    torch.manual_seed(0)
    method = CDPM(NETWORK, own_settings("cDPM"))
    seen = []

    def correct(images, done):
        seen.append(done)
        return images

    inputs = torch.rand(2, 1, NETWORK.size, NETWORK.size)
    keys = [SliceKey("subject04", 0, n) for n in range(2)]
    found = method.predict(inputs, keys, sampled(samples=2), 0, correct)
    assert seen == [0, 0.25, 0.5, 0.75] * 2
    torch.testing.assert_close(found, method.predict(inputs, keys, sampled(samples=2), 0))


@pytest.mark.parametrize(("start", "count"), [(0.0, 4), (0.25, 3), (0.5, 2), (0.6, 1), (0.75, 1)])
def test_the_start_is_a_part_of_the_steps(measured, start, count):
    correct = measured.consistent([(0, 0)], Consistency(1, 1.0, start), ACTIVITY)
    images = random_images(0, 1)
    changed = [not torch.equal(correct(images, n / 4), images) for n in range(4)]
    assert changed == [False] * (4 - count) + [True] * count


def test_differences_are_corrected_as_whole_images():
    """Images in [0, 1] units are what is corrected, whatever networks give."""
    seen = []

    def correct(images, done):
        seen.append(images)
        return torch.full_like(images, 0.75)

    inputs = torch.rand(2, 2, NETWORK.size, NETWORK.size)
    keys = [SliceKey("subject04", 0, n) for n in range(2)]
    one_step = sampled(steps=1, eta=0.0, guidance=0.0)
    for residual in (False, True):
        torch.manual_seed(0)
        own = own_settings("cDPM", conditioning=["sinogram", "fbp"], residual=residual)
        method = CDPM(NETWORK, own)
        with torch.no_grad():
            plain = method.reconstruct(inputs, keys, one_step, 0)
            found = method.reconstruct(inputs, keys, one_step, 0, correct)
        # A single step of ddim gives its estimate of x_0.
        torch.testing.assert_close(seen[-1], plain, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found, torch.full_like(found, 0.75), rtol=1e-4, atol=1e-4)


# --- files ---------------------------------------------------------------------------------------


def test_files_say_what_was_used(study, measured, tmp_path):
    _, config, weights, path = study
    for steps in (0, 2):
        used = {"steps": steps, "strength": 0.5, "start": 0.25}
        own = config | {"sampling": config["sampling"] | {"consistency": used}}
        output = tmp_path / f"{steps}.h5"
        reconstruct(weights, path, output, job(own, "cDPM"), None, 1, measured)
        _, attributes = hdf5.read(output, RECONSTRUCTION)
        said = [attributes[name] for name in CONSISTENCY]
        assert said == ([2, 0.5, 0.25] if steps else [0, 0, 0])


def test_a_sweep_measures_each_shard_with_its_own_counts(study, measured, tmp_path):
    _, config, weights, path = study
    varied = Sweep(["cDPM"], SLICES, [{"consistency": {"steps": n}} for n in (0, 1)])
    both = Measurements(measured.paths * 2, measured._plain)
    output = tmp_path / "s.csv"
    sweep([weights], [path, path], output, job(config, "cDPM"), varied, None, 1, both)
    table = pd.read_csv(output)
    assert sorted(table["consistency_steps"].unique()) == [0, 1]
    psnr = table[(table["metric"] == "psnr_db") & (table["reference"] == "truth")]
    means = psnr.groupby("consistency_steps")["value"].agg(["mean", "size"])
    assert means["size"].tolist() == [2 * SLICES] * 2
    assert means["mean"][1] > means["mean"][0] + 1


def test_sinograms_of_others_are_refused(study, measured, tmp_path):
    folder, config, weights, path = study
    arrays, attributes = hdf5.read(folder / "sinogram.h5", SINOGRAM)
    facts = {n: v for n, v in attributes.items() if n not in ("schema_version", "kind", "rule")}
    model = Reconstructor(weights, None, job(config, "cDPM"), threads=1)
    slices = model.slices([path])
    changes = {
        "subject": ({}, {"subject": "subject05"}),
        "dose": ({}, {"dose": 0.5}),
        "slices": ({"slice_index": arrays["slice_index"] + 1}, {}),
    }
    for name, (others, told) in changes.items():
        own = tmp_path / f"{name}.h5"
        hdf5.write(own, SINOGRAM, arrays | others, facts | told)
        with pytest.raises(InputError, match="is not the measurement of"):
            model.samples(
                slices, [0], sampled(consistency=ONE), Measurements([own], measured._plain)
            )
    shape = {n: arrays[n][:, :, :-1] for n in ("prompts", "factors", "background")}
    hdf5.write(tmp_path / "shape.h5", SINOGRAM, arrays | shape, facts)
    with pytest.raises(InputError, match="shape"):
        Measurements([tmp_path / "shape.h5"], measured._plain).counts([(0, 0)])
