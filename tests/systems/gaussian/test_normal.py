"""Distances of normal distributions in closed form, against integrals of their densities."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from jaxloop.systems.gaussian.normal import Normal, Tenths, kl_nats, log_prob, total_variation, wasserstein_2

PAIRS = [
    (Normal(0.0, 1.0), Normal(0.3, 0.8)),
    (Normal(0.3, 0.8), Normal(0.0, 1.0)),
    (Normal(0.0, 1.0), Normal(0.0, 0.1)),
    (Normal(0.0, 1.0), Normal(1.0, 1.0)),
    (Normal(2.0, 0.5), Normal(-1.0, 3.0)),
    (Normal(0.0, 1.0), Normal(1e-3, 1.0 + 1e-6)),
    (Normal(5.0, 1.0), Normal(5.0, 4.0)),
]


def integral(function, *normals):
    """Over all of the line that has mass, by trapezoids, which are exact to rounding for such functions."""
    low = min(one.mean - 40 * one.deviation for one in normals)
    high = max(one.mean + 40 * one.deviation for one in normals)
    points = np.linspace(low, high, 2_000_001)
    return integrate.trapezoid(function(points), points)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_distances_are_those_of_the_integrals(first, second):
    """A root of the wrong sign, a variance for a standard deviation, the two directions of a divergence exchanged."""

    def density(one):
        return lambda points: stats.norm.pdf(points, *one)

    def loss(points):
        return density(first)(points) * (stats.norm.logpdf(points, *first) - stats.norm.logpdf(points, *second))

    def difference(points):
        return np.abs(density(first)(points) - density(second)(points)) / 2

    assert kl_nats(first, second) == pytest.approx(integral(loss, first, second), rel=1e-6, abs=1e-12)
    assert total_variation(first, second) == pytest.approx(integral(difference, first, second), rel=1e-6, abs=1e-9)
    assert total_variation(second, first) == pytest.approx(total_variation(first, second), rel=1e-12)
    quantiles = (np.arange(200_000) + 0.5) / 200_000
    squares = (stats.norm.ppf(quantiles, *first) - stats.norm.ppf(quantiles, *second)) ** 2
    assert wasserstein_2(first, second) == pytest.approx(math.sqrt(squares.mean()), rel=1e-3)


def test_nearly_equal_ones_are_nearly_no_distance_apart():
    """Differences of numbers near 1 would lose all digits where a model is nearly right."""
    source, near = Normal(0.0, 1.0), Normal(0.0, 1.0 + 1e-9)
    assert kl_nats(near, source) == pytest.approx(1e-18, rel=1e-4)
    assert total_variation(near, source) == pytest.approx(2 * stats.norm.pdf(1) * 1e-9, rel=1e-4)
    assert kl_nats(source, source) == total_variation(source, source) == wasserstein_2(source, source) == 0


def test_distances_change_smoothly_where_the_widths_meet():
    """The quadratic becomes linear there: a branch that is off leaves a step."""
    source = Normal(0.0, 1.0)
    widths = 1 + np.array([-1e-5, -1e-9, -1e-12, -1e-13, 0.0, 1e-13, 1e-12, 1e-9, 1e-5])
    found = [total_variation(source, Normal(0.2, width)) for width in widths]
    np.testing.assert_allclose(found, math.erf(0.1 / math.sqrt(2)), rtol=1e-4)
    assert np.abs(np.diff(found[1:-1])).max() < 1e-9


def test_a_point_mass_is_as_far_as_can_be():
    """A loop whose variance comes to nothing must not end in a division by zero, but in what is true of it."""
    source, point = Normal(1.0, 2.0), Normal(1.5, 0.0)
    assert kl_nats(source, point) == kl_nats(point, source) == math.inf
    assert total_variation(point, source) == total_variation(source, point) == 1
    assert total_variation(point, point) == 0
    assert wasserstein_2(source, point) == math.hypot(0.5, 2)
    assert log_prob(np.array([1.5, 2.0]), *point).tolist() == [math.inf, -math.inf]
    shares = Tenths(source).shares(point)
    assert sum(shares) == 1
    assert shares[1] == 1, "0.25 standard deviations from the mean"


@pytest.mark.parametrize("model", [Normal(1.0, 2.0), Normal(0.5, 1.0), Normal(30.0, 0.1), Normal(1.0, 0.1)])
def test_tenths_hold_the_mass_of_the_model(model):
    """Tails that are lost in rounding, or the two sides of a tenth of which one is counted."""
    tenths = Tenths(Normal(1.0, 2.0))
    shares = tenths.shares(model)
    distance = 2 * stats.norm.ppf(0.5 + 0.05 * np.arange(11))
    law = stats.norm(*model)
    expected = [
        law.cdf(1 + far) - law.cdf(1 + near) + law.cdf(1 - near) - law.cdf(1 - far)
        for near, far in itertools.pairwise(distance)
    ]
    expected[-1] = law.sf(1 + distance[-2]) + law.cdf(1 - distance[-2])
    np.testing.assert_allclose(shares, expected, rtol=1e-9, atol=1e-15)
    assert shares[-1] > 0, "of the tails themselves, however small"


def test_rows_belong_to_the_tenth_of_their_density():
    """Catches an order from the least dense, and a border on one side only."""
    tenths = Tenths(Normal(1.0, 2.0))
    assert tenths.of(np.array([1.0, 1.2, 0.8, 100.0, -100.0])).tolist() == [0, 0, 0, 9, 9]
    points = np.random.default_rng(0).normal(1, 2, 100_000)
    np.testing.assert_allclose(np.bincount(tenths.of(points)) / 100_000, 0.1, atol=4e-3)


def test_log_density_is_that_of_scipy():
    """A constant that is missing cancels in divergences, and stands in cross entropies."""
    points = np.linspace(-5, 5, 11).astype(np.float32)
    np.testing.assert_allclose(log_prob(points, 0.3, 0.7), stats.norm.logpdf(points.astype(float), 0.3, 0.7))
    assert Normal(0.3, 0.7).entropy_nats == pytest.approx(stats.norm(0.3, 0.7).entropy())
