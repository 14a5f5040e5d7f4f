"""The loop: train a fresh model, let it write, measure what it wrote, train the next one on that.

It knows a source of real rows, a learner that is fitted to rows and writes rows, and measures of rows; it never looks
inside a row.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from jaxloop.config.schema import Config, Loop
from jaxloop.loop import memories
from jaxloop.loop.keys import Purpose, host_generator


class Source(Protocol):
    """Where real rows come from."""

    def first_rows(self, config: Config, seed: int) -> np.ndarray:
        """The rows (N, T) that train a loop's first generation."""

    def fresh_rows(self, config: Config, seed: int, generation: int, count: int) -> np.ndarray:
        """So many independent rows (N, T), drawn for a generation."""


class State(NamedTuple):
    """Where a loop stands: all that its next generation depends on, besides the seed."""

    generation: int  # the last one finished
    carry: memories.Carry  # what trained it
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


def next_carry(loop: Loop, state: State | None, source: Source) -> memories.Carry:
    """The rows that train a loop's next generation: real ones first, then what the cycle says."""
    settings = loop.config.cycle
    if state is None:
        return memories.first(settings, source.first_rows(loop.config, loop.seed))
    generation = state.generation + 1
    draw_fresh = functools.partial(source.fresh_rows, loop.config, loop.seed, generation)
    chooser = host_generator(loop.seed, Purpose.CYCLE, generation)
    return memories.following(settings, state.carry, generation, state.sampled_NxT, draw_fresh, chooser)


def run_loops(
    loops: list[Loop],
    states: dict[int, State],
    source: Source,
    learner: Learner,
    probes: Callable[[Loop, int], dict[str, object]],
    keep: Callable[[Record], None],
    watch: Callable[[list[Loop], int, float], None],
) -> list[tuple[Loop, int]]:
    """Run every loop to its last generation, all of them side by side, those that are behind first.

    Args:
      loops: the loops, alike in everything but their knobs and seeds.
      states: by index, where loops that were begun before stand; the others begin with real rows. Brought up to date
        with every generation, so that what breaks off can be gone on with.
      source: gives real rows.
      learner: is fitted to rows, and writes rows.
      probes: by name, what a loop's learner is asked for in a generation: see `Learner.probe`.
      keep: measures a finished generation and writes it to disk; called while the learner works on the next one.
      watch: called again and again while the learner works, with the loops, the generation of those that are behind,
        and the share of the work that is done.

    Returns:
      The loops whose training diverged, and in which generation: they have ended there.
    """
    diverged, unkept = {}, []

    def keep_finished() -> None:
        while unkept:
            keep(unkept[0])
            unkept.pop(0)

    def generation_of(loop: Loop) -> int:
        return states[loop.index].generation + 1 if loop.index in states else 0

    def is_due(loop: Loop) -> bool:
        return generation_of(loop) < loop.config.cycle.generations and loop.index not in diverged

    try:
        while due := sorted(filter(is_due, loops), key=generation_of):
            group = due[: learner.places]
            generations = [generation_of(loop) for loop in group]
            carries = [next_carry(loop, states.get(loop.index), source) for loop in group]
            training = [carry.training.points for carry in carries]
            started = learner.start(group, generations, training, list(map(probes, group, generations)))
            keep_finished()
            outcomes, seconds = learner.finish(started, functools.partial(watch, group, min(generations)))
            for loop, generation, carry, outcome in zip(group, generations, carries, outcomes, strict=True):
                if outcome.diverged:
                    diverged[loop.index] = loop, generation
                    continue
                states[loop.index] = State(generation, carry, outcome.sampled_NxT)
                unkept.append(Record(loop, states[loop.index], outcome, seconds))
        keep_finished()
    except BaseException:
        # Whatever breaks off, or may be gone on with: what is finished is kept.
        keep_finished()
        raise
    return list(diverged.values())
