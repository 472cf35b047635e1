import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.optimize
import torch

from pipeline.map import OSEM_ITERATIONS, PASSES, MapSettings, map_images
from pipeline.osem import osem
from pipeline.tomography.forward_model import ForwardModel
from pipeline.tomography.geometry import Grid, field_of_view
from pipeline.tomography.projectors import SparseProjector
from pipeline.tomography.scanners import Ring
from pipeline.tomography.system_matrix import system_matrices

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_RING = Ring(blocks=8, crystals_per_block=8, radius_mm=200, pitch_mm=20.7, radial_trim=16)
"""64 end points, 32 views, 31 radial bins."""

SMALL = Grid(16, 14.0)
SUBSETS = 4
SCALE = 0.02
PHYSICS = ("plain", "background", "everything")


@pytest.fixture
def double() -> Iterator[None]:
    """Let torch compute in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def small_projector() -> SparseProjector:
    """A projector whose matrices are of torch's type."""
    kind = torch.tensor(0.0).numpy().dtype
    both = system_matrices(SMALL_RING, SMALL, SUBSETS)
    forward, back = ([matrix.astype(kind) for matrix in matrices] for matrices in both)
    return SparseProjector(SMALL_RING, SMALL, forward, back, torch.device("cpu"))


def head(disc, slices=1):
    """Discs of 100 with a hot and a cold spot, of different sizes (slice, y, x)."""
    spots = 60 * disc(SMALL, 20, (40, 20)) - 70 * disc(SMALL, 25, (-30, -35))
    return np.stack([100 * disc(SMALL, 95 - 12 * n) + spots * (n < 2) for n in range(slices)])


def measured(model, activity, level, seed=1):
    """Poisson counts of images with a background, and the background: one (lor, slice) a subset."""
    rng, kind = np.random.default_rng(seed), torch.get_default_dtype()
    columns = model.projector.columns(activity).to(kind)
    trues = [model.forward(columns, subset) for subset in range(model.projector.subsets)]
    prompts = [torch.from_numpy(rng.poisson((part + level).numpy())).to(kind) for part in trues]
    return prompts, [torch.full_like(part, level) for part in prompts]


def case(disc, physics, slices=1):
    """Model, prompts and background: plain, with a background, or with all that is modelled."""
    projector, kind = small_projector(), torch.get_default_dtype()
    factors = [torch.full((1, slices), SCALE, dtype=kind) for _ in range(SUBSETS)]
    fwhm_mm = 0.0
    if physics == "everything":
        rng, lors = np.random.default_rng(3), SMALL_RING.views // SUBSETS * SMALL_RING.radial_bins
        factors = [
            torch.from_numpy(
                SCALE * rng.uniform(0.2, 1, (lors, slices)) * (rng.uniform(size=(lors, 1)) > 0.2)
            ).to(kind)
            for _ in range(SUBSETS)
        ]
        fwhm_mm = 20.0 if kind == torch.float32 else 0.0  # the blurring is of single precision
    model = ForwardModel(projector, fwhm_mm, factors)
    level = 0.0 if physics == "plain" else 2.0
    return model, *measured(model, head(disc, slices), level)


def dense(model, row):
    """The model of one slice as a matrix (lor, pixel) in double precision."""
    pixels = int(field_of_view(SMALL_RING, SMALL).sum())
    one = ForwardModel.times(model, [part[:, [row]] for part in model._factors])
    eye = torch.eye(pixels)
    parts = [one.forward(eye, subset) for subset in range(SUBSETS)]
    return torch.cat(parts).double().numpy()


def neighbours():
    """Pairs of neighbouring pixels in the field of view, and one over their distances."""
    inside = field_of_view(SMALL_RING, SMALL)
    places = np.argwhere(inside)
    first, second, weights = [], [], []
    for j, k in itertools.combinations(range(len(places)), 2):
        y, x = np.abs(places[j] - places[k])
        if max(y, x) == 1:
            first.append(j)
            second.append(k)
            weights.append(1 / np.hypot(y, x))
    return np.array(first), np.array(second), np.array(weights)


def least(matrix, counts, background, settings):
    """The MAP image by SciPy's L-BFGS-B, of objective and gradient as they stand in papers."""
    first, second, weights = neighbours()

    def phi(image):
        expected = np.maximum(matrix @ image + background, 1e-12)
        value = (expected - scipy.special.xlogy(counts, expected)).sum()
        gradient = matrix.T @ (1 - counts / expected)
        a, b = image[first], image[second]
        common = a + b + settings.gamma * np.abs(a - b) + settings.epsilon
        value += settings.beta * (weights * (a - b) ** 2 / common).sum()
        rest = settings.gamma * np.abs(a - b) + 2 * settings.epsilon
        factor = settings.beta * weights * (a - b) / common**2
        np.add.at(gradient, first, factor * (a + 3 * b + rest))
        np.subtract.at(gradient, second, factor * (3 * a + b + rest))
        return value, gradient

    pixels = matrix.shape[1]
    image = np.full(pixels, counts.sum() / matrix.sum())
    for _ in range(5):  # it gives up early
        found = scipy.optimize.minimize(
            phi,
            image,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, None)] * pixels,
            options={"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-9, "maxcor": 50},
        )
        image = found.x
    return image


def off(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("physics", PHYSICS)
@pytest.mark.parametrize("beta", [0.01, 0.3])
def test_the_image_is_that_of_lbfgs(double, disc, physics, beta):
    model, prompts, background = case(disc, physics)
    settings = MapSettings(beta, 2.0, 0.1, 100)
    *_, found = map_images(model, prompts, background, settings)
    counts, level = (torch.cat(parts).numpy()[:, 0] for parts in (prompts, background))
    expected = least(dense(model, 0), counts, level, settings)
    assert (found.image >= 0).all()
    # At beta 0.3 it is 1e-7 or less.
    assert off(found.image.numpy()[:, 0], expected) < 1e-4


@pytest.mark.parametrize("physics", PHYSICS)
def test_single_precision_is_enough(disc, physics):
    model, prompts, background = case(disc, physics, slices=2)
    settings = MapSettings(0.05, 2.0, 0.1, 60)
    *_, found = map_images(model, prompts, background, settings)
    for row in range(2):
        counts, level = (torch.cat(parts).numpy()[:, row] for parts in (prompts, background))
        expected = least(dense(model, row), counts.astype(float), level.astype(float), settings)
        # 2e-4 to 5e-4, where it stays: the rounding of so many terms.
        assert off(found.image.numpy()[:, row], expected) < 1e-3


@pytest.mark.parametrize("physics", PHYSICS)
@pytest.mark.parametrize("beta", [0.0, 0.01, 0.3])
def test_phi_falls_at_every_pass(disc, physics, beta):
    model, prompts, background = case(disc, physics, slices=3)
    settings = MapSettings(beta, 2.0, 0.1, 12)
    found = [each.phi for each in map_images(model, prompts, background, settings)]
    assert len(found) == 13
    falls = -np.diff(torch.stack(found).numpy(), axis=0)
    assert (falls >= 0).all()
    assert (falls[:5] > 0).all()


@pytest.mark.parametrize("level", [0.0, 2.0])
def test_the_image_is_within_a_thousandth_after_thirty_passes(disc, ring, grid, sparse, level):
    """Counts as a twentieth of the small study's; beta about its best there."""
    projector = sparse(ring, grid, 8)
    model = ForwardModel(projector, 0.0, [torch.full((1, 2), 0.002)] * 8)
    spots = 60 * disc(grid, 20, (40, 20)) - 70 * disc(grid, 25, (-30, -35))
    activity = np.stack([100 * disc(grid, 95) + spots, 100 * disc(grid, 80) + spots])
    prompts, background = measured(model, activity, level)
    settings = MapSettings(0.03, 2.0, 0.1, 40)
    images = [each.image for each in map_images(model, prompts, background, settings)]
    passes = OSEM_ITERATIONS + 1 + 9 * PASSES
    assert passes == 30
    distances = (images[9] - images[-1]).norm(dim=0) / images[-1].norm(dim=0)
    assert (distances < 1e-3).all()
    assert ((images[4] - images[-1]).norm(dim=0) / images[-1].norm(dim=0) < 5e-3).all()


def test_slices_do_not_influence_each_other(disc):
    model, prompts, background = case(disc, "everything", slices=3)
    settings = MapSettings(0.05, 2.0, 0.1, 8)
    *_, together = map_images(model, prompts, background, settings)
    for row in range(3):
        alone = [[part[:, [row]] for part in parts] for parts in (prompts, background)]
        one = model.times([part[:, [row]] for part in model._factors])
        *_, found = map_images(one, *alone, settings)
        assert off(found.image.numpy()[:, 0], together.image.numpy()[:, row]) < 1e-4
        assert float(found.phi[0]) == pytest.approx(float(together.phi[row]), rel=1e-5)


def test_no_counts_give_an_empty_image(disc):
    model, prompts, background = case(disc, "plain", slices=2)
    for part in prompts:
        part[:, 1] = 0
    *_, found = map_images(model, prompts, background, MapSettings(0.05, 2.0, 0.1, 3))
    assert torch.isfinite(found.image).all()
    assert (found.image[:, 0] > 0).any()
    assert not found.image[:, 1].any()


def test_beta_and_epsilon_are_of_activity(double, disc):
    """Another unit of activity changes the image's unit, and nothing else."""
    model, prompts, background = case(disc, "background")
    *_, one = map_images(model, prompts, background, MapSettings(0.05, 2.0, 0.1, 60))
    finer = model.times([part / 8 for part in model._factors])
    *_, other = map_images(finer, prompts, background, MapSettings(0.05 / 8, 2.0, 0.8, 60))
    assert off(other.image.numpy() / 8, one.image.numpy()) < 1e-4


def test_without_the_prior_the_likelihood_alone_decides(double, disc):
    model, prompts, background = case(disc, "background")
    *_, found = map_images(model, prompts, background, MapSettings(0.0, 2.0, 0.1, 30))
    expected = [model.forward(found.image, n) + background[n] for n in range(SUBSETS)]
    *_, likely = osem(model, prompts, background, 60)
    other = [model.forward(likely, n) + background[n] for n in range(SUBSETS)]

    def lost(means):
        pairs = zip(means, prompts, strict=True)
        return sum(float((mean - torch.xlogy(part, mean)).sum()) for mean, part in pairs)

    assert lost(expected) < lost(other)
