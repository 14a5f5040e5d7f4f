"""The learners of the Gaussian system: `moments`, and those beside it that tell what it adds.

    moments    the normal distribution of the training rows' mean and variance: a model that is well specified
    resample   an ideal memoriser: what it loses, finite samples alone lose
    oracle     the true source, whatever the training rows: what it loses, the temperature alone loses

Legend: N rows.
"""

import math

import numpy as np

from jaxloop.config.schema import Loop
from jaxloop.learners.reference.learner import Fit, ReferenceLearner, Resample
from jaxloop.systems.gaussian import normal
from jaxloop.systems.gaussian.normal import Normal
from jaxloop.systems.gaussian.settings import GaussianConfig
from jaxloop.systems.gaussian.source import draw, source_of


class Oracle:
    """The source itself."""

    def __init__(self, source: Normal):
        self._source = source

    def _tempered(self, temperature: float) -> Normal:
        return Normal(self._source.mean, math.sqrt(temperature) * self._source.deviation)

    def write(self, generator: np.random.Generator, rows: int, temperature: float) -> np.ndarray:
        """Draws of the source, its variance times the temperature."""
        return draw(self._tempered(temperature), generator, rows)

    def log_prob(self, points_N: np.ndarray, temperature: float) -> np.ndarray:
        """Log-density."""
        return normal.log_prob(points_N, *self._tempered(temperature))


def _resample(loop: Loop[GaussianConfig], training_N: np.ndarray) -> Resample:
    return Resample(training_N)


def _oracle(loop: Loop[GaussianConfig], training_N: np.ndarray) -> Oracle:
    return Oracle(source_of(loop.config))


FITS: dict[str, Fit[GaussianConfig]] = {"resample": _resample, "oracle": _oracle}


def reference_learner() -> ReferenceLearner[GaussianConfig]:
    """What fits each of the reference learners."""
    return ReferenceLearner(FITS)
