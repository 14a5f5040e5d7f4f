"""Where a loop's real rows come from: its first data set, and fresh rows.

Legend: N rows.
"""

import numpy as np

from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.systems.gaussian.moments import DTYPE
from jaxloop.systems.gaussian.normal import Normal
from jaxloop.systems.gaussian.settings import GaussianConfig


def source_of(config: GaussianConfig) -> Normal:
    """The source."""
    return Normal(config.system.mean, config.system.standard_deviation)


def draw(normal: Normal, generator: np.random.Generator, rows: int) -> np.ndarray:
    """So many rows of a normal distribution, (N,) float32."""
    return (normal.mean + normal.deviation * generator.standard_normal(rows)).astype(DTYPE)


def first_rows(config: GaussianConfig, seed: int) -> np.ndarray:
    """The first data set, (N,) float32."""
    return draw(source_of(config), host_generator(seed, Purpose.REAL_ROWS), config.cycle.rows)


def fresh_rows(config: GaussianConfig, seed: int, generation: int, count: int) -> np.ndarray:
    """So many rows, (N,) float32, drawn for a generation."""
    if not count:  # As in most runs, and a generator takes as long as a fit.
        return np.empty(0, DTYPE)
    return draw(source_of(config), host_generator(seed, Purpose.FRESH_ROWS, generation), count)
