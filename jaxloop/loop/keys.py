"""Where every random number comes from: a loop's seed, a named purpose, and the generation.

Nothing else enters, so loops that share a seed share their randomness as far as they draw alike (their difference is a
paired difference; another number of rows is other rows), and a loop that is resumed, or run beside others, draws what
it would have drawn.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream of random numbers is for. The numbers are part of every result: never renumber."""

    REAL_ROWS = 0
    FRESH_ROWS = 1
    HELD_OUT_ROWS = 2
    CYCLE = 3
    VALIDATION_SPLIT = 4
    BATCH_ORDER = 5
    PARAMETERS = 6
    DROPOUT = 7
    SAMPLING = 8
    CURATION = 9
    DETECTION = 10


def host_generator(seed: int, purpose: Purpose, generation: int = 0) -> np.random.Generator:
    """A fresh NumPy generator for one purpose of one generation."""
    return np.random.default_rng([seed, purpose, generation])
