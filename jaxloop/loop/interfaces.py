"""What the loop asks of its source and its learner, and what it hands on.

Legend: N rows, P rows that are probed.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from jaxloop.config.schema import Config, Loop
from jaxloop.loop.memories import Carry


class Source(Protocol):
    """Where real rows come from."""

    def first_rows(self, config: Config, seed: int) -> np.ndarray:
        """The rows (N, T) that train a loop's first generation."""

    def fresh_rows(self, config: Config, seed: int, generation: int, count: int) -> np.ndarray:
        """So many independent rows (N, T), drawn for a generation."""


class State(NamedTuple):
    """Where a loop stands: all that its next generation depends on, besides the seed."""

    generation: int  # the last one finished
    carry: Carry  # what trained it
    sampled_NxT: np.ndarray  # what its model wrote


class Outcome(NamedTuple):
    """What one loop's learner gives back for one generation."""

    sampled_NxT: np.ndarray  # uint8, all n rows that were started, finished
    sampled_log_prob_N: np.ndarray  # nats, of each under the distribution that wrote it
    probed: dict[str, np.ndarray]  # of each probe, (2, P) nats: plain, and with the sampling temperature applied
    columns: dict[str, float]  # what the learner says of itself
    parameters: dict
    diverged: bool  # training came to nothing: there is nothing to go on with


class Seconds(NamedTuple):
    """How long a learner took, for all loops that it computed beside each other."""

    train: float
    sample: float
    probes: dict[str, float]


class Learner(Protocol):
    """What is fitted to rows, and writes rows."""

    places: int  # how many loops it takes at once

    def smaller(self) -> "Learner | None":
        """A learner of the same loops that computes half as many at once, where memory has run out; None: it cannot."""

    def probe(self, tokens_NxT: np.ndarray) -> object:
        """Rows whose probability will be asked for, as the learner wants to have them."""

    def start(
        self, loops: list[Loop], generations: list[int], training: list[np.ndarray], probes: list[dict[str, object]]
    ) -> object:
        """Set the work of a generation of each loop going, and return at once."""

    def finish(self, started: object, watch: Callable[[float], None]) -> tuple[list[Outcome], Seconds]:
        """Wait for it; calls `watch` again and again with the share of it that is done."""


class Record(NamedTuple):
    """One finished generation of one loop, as it is measured and kept."""

    loop: Loop
    state: State
    outcome: Outcome
    seconds: Seconds
