"""The loop: train a fresh model, let it write, measure what it wrote, train the next one on that.

It knows a source of real rows, a learner that is fitted to rows and writes rows, and measures of rows; it never looks
inside a row.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from jaxloop import cycles
from jaxloop.config import Loop
from jaxloop.errors import RunError
from jaxloop.keys import Purpose, host_generator


class Source(Protocol):
    """Where real rows come from."""

    def draw(self, generator: np.random.Generator, rows: int) -> np.ndarray:
        """Independent rows (N, T)."""


class State(NamedTuple):
    """Where a loop stands: all that its next generation depends on, besides the seed."""

    generation: int  # the last one finished
    carry: cycles.Carry  # what trained it
    sampled_NxT: np.ndarray  # what its model wrote


class Record(NamedTuple):
    """One finished generation of one loop, as it is measured and kept."""

    loop: Loop
    state: State
    outcome: object  # what the learner says beside the samples
    train_seconds: float  # of all loops that were trained beside it
    sample_seconds: float


def next_carry(loop: Loop, state: State | None, source: Source) -> cycles.Carry:
    """The rows that train a loop's next generation: real ones first, then what the cycle says."""
    settings = loop.config.cycle
    if state is None:
        return cycles.first(settings, source.draw(host_generator(loop.seed, Purpose.REAL_ROWS), settings.rows))
    generation = state.generation + 1

    def draw_fresh(rows: int) -> np.ndarray:
        return source.draw(host_generator(loop.seed, Purpose.FRESH_ROWS, generation), rows)

    chooser = host_generator(loop.seed, Purpose.CYCLE, generation)
    return cycles.following(settings, state.carry, generation, state.sampled_NxT, draw_fresh, chooser)


def run_loops(
    loops: list[Loop],
    states: dict[int, State],
    source: Source,
    learner,
    keep: Callable[[Record], None],
    watch: Callable[[list[Loop], int, float], None],
) -> None:
    """Run every loop to its last generation, all of them side by side.

    Args:
      loops: the loops, alike in everything but their knobs and seeds.
      states: by index, where loops that were begun before stand; the others begin with real rows.
      source: gives real rows.
      learner: gives `places`, `start` and `finish`; see `learner.TransformerLearner`.
      keep: measures a finished generation and writes it to disk; called while the learner works on the next one.
      watch: called again and again while the learner works, with the loops, the generation, and the share of the
        training that is done.

    Raises:
      RunError: training diverged in some loops; all others have been run to their end.
    """
    states = dict(states)
    held_out = {
        loop.seed: source.draw(host_generator(loop.seed, Purpose.HELD_OUT_ROWS), loop.config.measure.held_out_rows)
        for loop in loops
    }
    diverged, unkept = [], []

    def keep_finished() -> None:
        while unkept:
            keep(unkept[0])
            unkept.pop(0)

    def is_due(loop: Loop, generation: int) -> bool:
        reached = states[loop.index].generation if loop.index in states else -1
        return reached == generation - 1 and loop not in [failed for failed, _ in diverged]

    try:
        for generation in range(loops[0].config.cycle.generations):
            due = [loop for loop in loops if is_due(loop, generation)]
            for first in range(0, len(due), learner.places):
                group = due[first : first + learner.places]
                carries = [next_carry(loop, states.get(loop.index), source) for loop in group]
                training = [carry.training.tokens_NxT for carry in carries]
                started = learner.start(group, generation, training, [held_out[loop.seed] for loop in group])
                keep_finished()
                outcomes, *seconds = learner.finish(started, functools.partial(watch, group, generation))
                for loop, carry, outcome in zip(group, carries, outcomes, strict=True):
                    if outcome.diverged:
                        diverged.append((loop, generation))
                        continue
                    states[loop.index] = State(generation, carry, outcome.sampled_NxT)
                    unkept.append(Record(loop, states[loop.index], outcome, *seconds))
        keep_finished()
    except KeyboardInterrupt:
        keep_finished()
        raise
    if diverged:
        where = ", ".join(f"loop {loop.index} in generation {generation}" for loop, generation in diverged[:5])
        rate = diverged[0][0].config.train.learning_rate
        raise RunError(
            f"training diverged, the loss became not a number: {where}{', ...' if len(diverged) > 5 else ''}; "
            f"lower train.learning_rate (there {rate:g}); what was measured before is kept"
        )
