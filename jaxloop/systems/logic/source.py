"""Where a loop's real rows come from: its first data set, fresh rows, and the held-out rows that it is measured on.

Legend: N rows, T tokens a row, L levels of probability.
"""

import functools

import numpy as np

from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.systems.logic import census
from jaxloop.systems.logic.language import Language, language_of
from jaxloop.systems.logic.settings import LogicConfig

_TYPICAL_ROWS = 2000


def first_rows(config: LogicConfig, seed: int) -> np.ndarray:
    """The first data set, (N, T) uint8: drawn from the most probable expressions that hold `cycle.first_mass_share`.

    Where the border falls among expressions of one probability, each of them keeps the same part of its probability.
    """
    language, share = language_of(config.language), config.cycle.first_mass_share
    generator, width = host_generator(seed, Purpose.REAL_ROWS), config.model.context_tokens
    if share == 1:
        return language.draw(generator, config.cycle.rows, width)
    border_nats, border_share = _border(language, share)
    parts, missing = [], config.cycle.rows
    while missing > 0:
        tokens_NxT = language.draw(generator, 2 * config.cycle.rows, width)
        above_N = language.log_prob(tokens_NxT) - border_nats
        at_border_N = np.abs(above_N) < census.LEVEL_TOLERANCE_NATS
        kept_N = np.where(at_border_N, generator.random(len(above_N)) < border_share, above_N > 0)
        parts.append(tokens_NxT[kept_N][:missing])
        missing -= len(parts[-1])
    return np.concatenate(parts)


@functools.cache
def _border(language: Language, mass_share: float) -> tuple[float, float]:
    """Least log-probability (nats) among the most probable expressions of so much mass, and which part of it counts."""
    log_prob_L, mass_L = census.probability_levels(language)
    begins_L = np.cumsum(mass_L) - mass_L
    border = np.flatnonzero(begins_L < mass_share)[-1]
    # A level may have less mass than the rounding of what lies before it.
    return float(log_prob_L[border]), min(float((mass_share - begins_L[border]) / mass_L[border]), 1.0)


def fresh_rows(config: LogicConfig, seed: int, generation: int, count: int) -> np.ndarray:
    """So many rows of the whole language, (N, T) uint8, drawn for a generation."""
    generator = host_generator(seed, Purpose.FRESH_ROWS, generation)
    return language_of(config.language).draw(generator, count, config.model.context_tokens)


def typical_rows(config: LogicConfig) -> np.ndarray:
    """Rows of the whole language, (N, T) uint8, the same in every run: what a learner lays out its rows for."""
    rows = max(_TYPICAL_ROWS, config.train.batch_expressions)
    return language_of(config.language).draw(np.random.default_rng(0), rows, config.model.context_tokens)


def held_out_rows(config: LogicConfig, seed: int) -> np.ndarray:
    """Rows of the whole language, (N, T) uint8, that no model trains on."""
    generator = host_generator(seed, Purpose.HELD_OUT_ROWS)
    return language_of(config.language).draw(generator, config.measure.held_out_rows, config.model.context_tokens)
