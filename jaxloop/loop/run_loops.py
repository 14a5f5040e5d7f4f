"""The loop: train a fresh model, let it write, measure what it wrote, train the next one on that.

It knows a source of real rows, a learner that is fitted to rows and writes rows, and measures of rows; it never looks
inside a row.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxloop.config.schema import Config, Loop
from jaxloop.errors import RunError
from jaxloop.loop import curation, memories
from jaxloop.loop.curators import Candidates
from jaxloop.loop.enrichment import aimed
from jaxloop.loop.interfaces import Learner, Record, Seconds, Source, State, Task, Written
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.rows import Rows, read_only

DIVERGED, NOTHING_PASSED = "diverged", "nothing passed"


class Ended(NamedTuple):
    """A loop that could not go on."""

    loop: Loop
    generation: int  # in which it ended
    why: str  # DIVERGED or NOTHING_PASSED


def next_carry(loop: Loop, state: State | None, source: Source) -> tuple[memories.Carry, int]:
    """The rows that train a loop's next generation, real ones first, then what the cycle says; and how many are fresh.

    A detector may let some of the fresh ones pass several times and others not at all; they are all counted once.
    """
    settings, fresh_rows = loop.config.cycle, 0
    if state is None:
        real = source.first_rows(loop.config, loop.seed)
        require_real(loop, "first_rows", real, settings.rows)
        carry = memories.first(settings, real)
    else:
        generation, like = state.generation + 1, state.carry.training.points

        def draw(count: int) -> np.ndarray:
            fresh = source.fresh_rows(loop.config, loop.seed, generation, count)
            require_real(loop, "fresh_rows", fresh, count, like)
            return fresh

        def draw_fresh(count: int, beside: np.ndarray) -> np.ndarray:
            nonlocal fresh_rows
            fresh_rows += count
            if settings.fresh_target == "random":
                return draw(count)
            return aimed(draw, lambda points: source.classes(loop.config, points), beside, count)

        def detect(rows: Rows) -> Rows:
            chance = functools.partial(host_generator, loop.seed, Purpose.DETECTION, generation)
            return curation.detected(loop.config.curation, rows, chance)

        chooser = host_generator(loop.seed, Purpose.CYCLE, generation)
        carry = memories.following(settings, state.carry, generation, state.sampled, draw_fresh, chooser, detect)
    return carry.sealed(), fresh_rows


def require_real(loop: Loop, method: str, rows: Any, count: int, like: np.ndarray | None = None) -> None:
    """Refuse what a source gives that are not as many rows as were asked for, or others than those before.

    Raises:
      RunError: they are not.
    """
    are_rows = isinstance(rows, np.ndarray) and rows.shape[:1] == (count,)
    if are_rows and (like is None or (rows.dtype, rows.shape[1:]) == (like.dtype, like.shape[1:])):
        return
    rows_like = "" if like is None else f" of {like.dtype} and shape {like.shape[1:]}, as the first ones are"
    raise RunError(
        f"system.name = {loop.config.system.name!r}: {method} must give an array of {count} rows{rows_like}, and gave "
        f"{_in_words(rows)}; what was measured before is kept"
    )


def _in_words(rows: Any) -> str:
    return f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__


def rows_to_write(config: Config) -> int:
    """How many rows a loop's model writes, so that the curator can choose n."""
    return curation.rows_to_write(config.cycle, config.curation)


def curated(task: Task, written: Written, source: Source) -> curation.Curated:
    """The n rows of what was written that may train the next generation.

    Raises:
      RunError: a check goes by probabilities, and the learner says none.
    """
    config = task.loop.config
    if "likelihood" in config.curation.names and config.curation.judge == "writer" and written.log_prob_N is None:
        raise RunError(
            f"learner.name = {config.learner.name!r}: curation.judge = 'writer' goes by the log-probability that it "
            "gives of each row, and it gives none; curation.judge = 'source' goes by the true one; what was measured "
            "before is kept"
        )
    candidates = Candidates(written.points, written.log_prob_N, lambda name, points: source.score(config, name, points))
    generator = functools.partial(host_generator, task.loop.seed, Purpose.CURATION, task.generation)
    return curation.curate(config.curation, candidates, config.cycle.rows, generator)


def require_rows(task: Task, written: Written) -> None:
    """Refuse what a learner gives back that are no rows like those that it was fitted to.

    Raises:
      RunError: they are not.
    """
    points, training, log_prob_N = written.points, task.training, written.log_prob_N
    expected = (task.count, *training.shape[1:]), training.dtype
    if not isinstance(points, np.ndarray) or (points.shape, points.dtype) != expected:
        raise RunError(
            f"learner.name = {task.loop.config.learner.name!r}: must write {expected[1]} of shape {expected[0]}, and "
            f"wrote {_in_words(points)}; what was measured before is kept"
        )
    if log_prob_N is not None and np.shape(log_prob_N) != (task.count,):
        raise RunError(
            f"learner.name = {task.loop.config.learner.name!r}: log_prob_N must have a number for each row, or be "
            "None; what was measured before is kept"
        )


def require_written(tasks: list[Task], finished: Any) -> tuple[list[Written], Seconds]:
    """Refuse what a learner gives back that is not what the loop asks for.

    Raises:
      RunError: it is not.
    """
    is_pair = isinstance(finished, tuple) and len(finished) == 2 and isinstance(finished[0], list)
    all_written = is_pair and len(finished[0]) == len(tasks) and all(isinstance(one, Written) for one in finished[0])
    if not all_written or not isinstance(finished[1], Seconds):
        raise RunError(
            f"learner.name = {tasks[0].loop.config.learner.name!r}: finish must give a list of one Written for each of "
            f"the {len(tasks)} tasks, and Seconds; what was measured before is kept"
        )
    return finished


def sealed(written: Written) -> Written:
    """What a learner wrote, read-only."""
    log_prob_N = None if written.log_prob_N is None else read_only(np.asarray(written.log_prob_N))
    return written._replace(points=read_only(written.points), log_prob_N=log_prob_N)


def run_loops(
    loops: list[Loop],
    states: dict[int, State],
    source: Source,
    learner: Learner,
    probes: Callable[[Loop, int], dict[str, object]],
    keep: Callable[[Record], None],
    watch: Callable[[list[Loop], int, float], None],
) -> list[Ended]:
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
      The loops that ended early: whose training diverged, or of whose rows none passed curation.
    """
    ended: dict[int, Ended] = {}
    unkept: list[Record] = []

    def keep_finished() -> None:
        while unkept:
            keep(unkept[0])
            unkept.pop(0)

    def generation_of(loop: Loop) -> int:
        return states[loop.index].generation + 1 if loop.index in states else 0

    def is_due(loop: Loop) -> bool:
        return generation_of(loop) < loop.config.cycle.generations and loop.index not in ended

    def has_nothing(loop: Loop) -> bool:
        """Whether nothing that its model wrote has passed, and nothing takes its place."""
        state = states.get(loop.index)
        return state is not None and not len(state.sampled) and loop.config.curation.shortfall == "repeat"

    try:
        while due := sorted(filter(is_due, loops), key=generation_of):
            for loop in filter(has_nothing, due):
                ended[loop.index] = Ended(loop, states[loop.index].generation, NOTHING_PASSED)
            group = [loop for loop in due if loop.index not in ended][: learner.places]
            if not group:
                break
            generations = [generation_of(loop) for loop in group]
            carries, fresh_rows = zip(
                *(next_carry(loop, states.get(loop.index), source) for loop in group), strict=True
            )
            tasks = [
                Task(loop, generation, carry.training.points, rows_to_write(loop.config), probes(loop, generation))
                for loop, generation, carry in zip(group, generations, carries, strict=True)
            ]
            started = learner.start(tasks)
            keep_finished()
            finished = learner.finish(started, functools.partial(watch, group, min(generations)))
            written_by_task, seconds = require_written(tasks, finished)
            for task, carry, fresh, written in zip(tasks, carries, fresh_rows, written_by_task, strict=True):
                if written.diverged:
                    ended[task.loop.index] = Ended(task.loop, task.generation, DIVERGED)
                    continue
                require_rows(task, written)
                written = sealed(written)
                passed = curated(task, written, source)
                states[task.loop.index] = State(task.generation, carry, read_only(passed.points))
                said = {**passed.columns, "human_rows": passed.columns["human_rows"] + fresh}
                unkept.append(Record(task.loop, states[task.loop.index], written, seconds, said))
        keep_finished()
    except BaseException:
        # Whatever breaks off, or may be gone on with: what is finished is kept.
        keep_finished()
        raise
    return list(ended.values())
