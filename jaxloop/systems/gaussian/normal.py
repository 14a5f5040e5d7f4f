"""Normal distributions: densities, and the exact distances of one from another.

A standard deviation of 0 is a point mass: it has no density, and is infinitely far from any normal distribution where
that is measured by one.

Legend: N rows, G classes.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import special

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Normal(NamedTuple):
    """A normal distribution on the line."""

    mean: float
    deviation: float  # standard deviation

    @property
    def entropy_nats(self) -> float:
        """Differential entropy, in nats."""
        return _HALF_LOG_TWO_PI + 0.5 + math.log(self.deviation) if self.deviation else -math.inf

    def below(self, point: float) -> float:
        """Mass below a point."""
        if self.deviation:
            return 0.5 * math.erfc((self.mean - point) / (self.deviation * math.sqrt(2)))
        return float(self.mean < point)


def log_prob(points_N: np.ndarray, mean, deviation) -> np.ndarray:
    """Log-density of rows, in nats, (N,) float64; means and standard deviations are numbers or broadcast."""
    with np.errstate(divide="ignore", invalid="ignore"):
        score_N = (points_N.astype(np.float64) - mean) / deviation
        log_prob_N = -0.5 * score_N**2 - _HALF_LOG_TWO_PI - np.log(deviation)
    is_point_N = np.isnan(log_prob_N)
    if is_point_N.any():
        return np.where(is_point_N, np.where(points_N == mean, math.inf, -math.inf), log_prob_N)
    return log_prob_N


def kl_nats(first: Normal, second: Normal) -> float:
    """KL(first, second): what is lost by one who takes the second for the first, in nats."""
    if not (first.deviation and second.deviation):
        return math.inf
    log_ratio = math.log(first.deviation) - math.log(second.deviation)
    score = (first.mean - second.mean) / second.deviation
    # As one minus, so that nearly equal ones do not cancel.
    return 0.5 * (math.expm1(2 * log_ratio) - 2 * log_ratio + score * score)


def wasserstein_2(first: Normal, second: Normal) -> float:
    """Wasserstein-2 distance, in the unit of the rows."""
    return math.hypot(first.mean - second.mean, first.deviation - second.deviation)


def total_variation(first: Normal, second: Normal) -> float:
    """Half of the integral of the difference of the densities: between the points where these are equal."""
    if not (first.deviation and second.deviation):
        return float(first != second)
    # With the wider one as the measure: the narrower one is at least as dense between two roots.
    narrow, wide = sorted((first, second), key=lambda one: one.deviation)
    shift, width = (narrow.mean - wide.mean) / wide.deviation, narrow.deviation / wide.deviation
    spread = 1 - width * width
    if spread < 1e-12:  # Equally wide: they cross half way.
        return math.erf(abs(shift) / (2 * math.sqrt(2)))
    # With z from the narrow mean, in wide deviations, as equally dense as each other where
    # spread z^2 - 2 shift width^2 z - width^2 (shift^2 - 2 log width) = 0.
    half, square = shift * width * width, width * width * (shift * shift - 2 * math.log(width))
    root = math.sqrt(half * half + spread * square)
    # Neither of them as a difference of numbers that are nearly equal.
    far = (half + math.copysign(root, half)) / spread
    near = -square / (spread * far) if far else 0.0
    low, high = sorted((far, near))
    return _mass(low / width, high / width) - _mass(low + shift, high + shift)


def _mass(low: float, high: float) -> float:
    """Mass of the standard normal distribution between two points, from that side where nothing cancels."""
    if low > 0:
        low, high = -high, -low
    return 0.5 * (math.erfc(-high / math.sqrt(2)) - math.erfc(-low / math.sqrt(2)))


class Tenths:
    """The tenths of a normal distribution by density: 1 is the densest, around the mean, 10 the two tails."""

    count = 10
    labels = tuple(str(tenth) for tenth in range(1, count + 1))

    def __init__(self, source: Normal):
        """Find their borders: a tenth lies where the distance from the mean has its share."""
        self._source = source
        distance_G = source.deviation * special.ndtri(0.5 + 0.5 * np.arange(1, self.count) / self.count)
        self._border_G = distance_G
        self._borders = [
            (source.mean - distance, source.mean + distance) for distance in [0.0, *distance_G.tolist(), math.inf]
        ]

    def of(self, points_N: np.ndarray) -> np.ndarray:
        """The tenth of each row from 0, (N,)."""
        return np.searchsorted(self._border_G, np.abs(points_N - self._source.mean))

    def shares(self, model: Normal) -> list[float]:
        """The mass of a model in each tenth."""
        inside = [model.below(high) - model.below(low) for low, high in self._borders]
        shares = [wider - narrower for narrower, wider in itertools.pairwise(inside)]
        # The tails by themselves, for they may be far smaller than the rounding of all the rest.
        low, high = self._borders[-2]
        shares[-1] = model.below(low) + Normal(-model.mean, model.deviation).below(-high)
        return shares
