import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tomography.prior import BLOCK, PriorSettings, RelativeDifferencePrior

CPU = torch.device("cpu")
DIAGONAL = 1 / np.sqrt(2)


def prior(inside, gamma=2.0, epsilon=0.1):
    return RelativeDifferencePrior(PriorSettings(gamma, epsilon), np.asarray(inside, bool), CPU)


def round_view(size):
    """A field of view that is no rectangle, and whose edges have neighbours outside."""
    y, x = np.indices((size, size)) - (size - 1) / 2
    return x**2 + y**2 <= (size / 2) ** 2


def images(seed, pixels, slices, zeros=True):
    """Random images (pixel, slice) in double precision; a third of the pixels are 0."""
    rng = np.random.default_rng(seed)
    found = rng.uniform(0.2, 5, (pixels, slices))
    return torch.from_numpy(found * (rng.uniform(size=found.shape) > (1 / 3 if zeros else 0)))


def by_hand(inside, image, gamma, epsilon):
    """R by its definition, a pair at a time; image (y, x)."""
    total = 0.0
    for (y, x), a in np.ndenumerate(image):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            v, u = y + down, x + right
            if v < len(image) and 0 <= u < len(image) and inside[y, x] and inside[v, u]:
                b = image[v, u]
                weight = 1 / np.hypot(down, right)
                total += weight * (a - b) ** 2 / (a + b + gamma * abs(a - b) + epsilon)
    return total


@pytest.mark.parametrize("size", [5, 12, 19])
@pytest.mark.parametrize("block", [1, 50, BLOCK])  # of one line, of several, of all
def test_value_is_the_sum_over_pairs_in_the_field_of_view(monkeypatch, size, block):
    monkeypatch.setattr("pipeline.tomography.prior.BLOCK", block)
    inside = round_view(size)
    columns = images(1, inside.sum(), 2)
    for gamma, epsilon in ((0.0, 1e-3), (2.0, 0.5)):
        found = prior(inside, gamma, epsilon).value(columns)
        for row in range(2):
            image = np.zeros((size, size))
            image[inside] = columns[:, row]
            assert float(found[row]) == pytest.approx(by_hand(inside, image, gamma, epsilon))


@pytest.mark.parametrize(
    ("inside", "weight"),
    [([[1, 1], [0, 0]], 1), ([[1, 0], [1, 0]], 1), ([[0, 1], [1, 0]], DIAGONAL)],
)
def test_two_pixels_have_a_closed_form(inside, weight):
    a, b, gamma, epsilon = 3.0, 1.0, 2.0, 0.5
    both = prior(inside, gamma, epsilon)
    columns = torch.tensor([[a], [b]], dtype=torch.float64)
    common = a + b + gamma * (a - b) + epsilon
    assert float(both.value(columns)) == pytest.approx(weight * (a - b) ** 2 / common)
    by_a = (a - b) * (a + 3 * b + gamma * (a - b) + 2 * epsilon) / common**2
    by_b = -(a - b) * (3 * a + b + gamma * (a - b) + 2 * epsilon) / common**2
    np.testing.assert_allclose(both.gradient(columns)[:, 0], [weight * by_a, weight * by_b])
    # The second derivatives are 2 (2 b + epsilon)^2 / common^3, and so on; the sums of their rows:
    rows = 2 * weight * np.array([2 * b + epsilon, 2 * a + epsilon]) * 2 * (a + b + epsilon)
    np.testing.assert_allclose(both.curvature(columns)[:, 0], rows / common**3)


def test_constant_images_cost_nothing():
    inside = round_view(11)
    for level in (0.0, 3.0):
        columns = torch.full((int(inside.sum()), 1), level, dtype=torch.float64)
        assert float(prior(inside).value(columns)) == 0
        assert not prior(inside).gradient(columns).any()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 2.0, 10.0]))
def test_gradient_is_that_of_the_value(seed, gamma):
    inside = round_view(9)
    found = prior(inside, gamma, 0.3)
    columns, direction = (images(seed + n, inside.sum(), 3, zeros=n == 0) for n in (0, 1))
    step = 1e-6
    change = found.value(columns + step * direction) - found.value(columns - step * direction)
    expected = (found.gradient(columns) * direction).sum(dim=0)
    np.testing.assert_allclose(change / (2 * step), expected, rtol=1e-6, atol=1e-7)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 2.0]))
def test_curvature_is_at_least_the_hessian(seed, gamma):
    inside = round_view(4)
    found = prior(inside, gamma, 0.3)
    columns = images(seed, inside.sum(), 1)
    step = 1e-5
    pixels = np.eye(len(columns))[..., None]
    hessian = np.stack(
        [
            found.gradient(columns + step * one) - found.gradient(columns - step * one)
            for one in torch.from_numpy(pixels)
        ]
    )[..., 0] / (2 * step)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-4, atol=1e-4)
    lowest, *_ = np.linalg.eigvalsh(hessian)
    assert lowest > -1e-4  # convex
    bound = np.diag(found.curvature(columns)[:, 0].numpy())
    lowest, *_ = np.linalg.eigvalsh(bound - hessian)
    assert lowest > -1e-4


def test_value_is_homogeneous():
    inside = round_view(10)
    columns = images(3, inside.sum(), 2)
    values = [prior(inside, 2.0, 0.1 * unit).value(unit * columns) for unit in (1.0, 7.0)]
    np.testing.assert_allclose(values[1], 7 * values[0])


def test_slices_do_not_influence_each_other():
    inside = round_view(20)
    columns, found = images(4, inside.sum(), 5).float(), prior(inside)
    for name in ("value", "gradient", "curvature"):
        together = getattr(found, name)(columns)
        for row in range(5):
            alone = getattr(found, name)(columns[:, [row]])
            torch.testing.assert_close(together[..., [row]], alone)
    assert found.gradient(columns).dtype == torch.float32
