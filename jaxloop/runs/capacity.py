"""The learner of a program, with as many loops at once as memory holds, and what is done where it runs out."""

import contextlib
from collections.abc import Iterator
from typing import cast

import jax

from jaxloop.config.schema import Config
from jaxloop.errors import RunError
from jaxloop.learners.placement import device_memory_bytes, on_cpu
from jaxloop.loop.interfaces import Learner, ModelLearner, Program, Task
from jaxloop.loop.run_loops import rows_to_write
from jaxloop.runs import costs
from jaxloop.runs.measuring import probes_of
from jaxloop.systems.interfaces import Measures, System
from jaxloop.systems.registry import learner_of

# What XLA plans is not all: its allocator leaves gaps, and results of one group wait while the next one begins.
_USABLE_SHARE = 0.8


def make_learner(program: Program, system: System, measures: dict[int, Measures]) -> Learner:
    """The learner of a program's loops; a `ModelLearner` as large as memory allows."""
    if system.trains(program.config):
        return make_model_learner(program, system, measures)
    return learner_of(system, program.config, len(program.loops))


def make_model_learner(program: Program, system: System, measures: dict[int, Measures]) -> ModelLearner:
    """The learner of a program's loops, where the system says that it is a `ModelLearner`.

    On a CPU one model is trained on each core, or on fewer where the memory that is free holds no more. On accelerators
    all loops are mapped together, or as many as fit by what XLA plans for them. `population.loops_per_device` has the
    last word.
    """
    config, loop_count = program.config, len(program.loops)

    def learner_for(config: Config, loop_count: int) -> ModelLearner:
        return cast(ModelLearner, learner_of(system, config, loop_count))

    chosen, limit = config.population.loops_per_device, device_memory_bytes()
    if limit is None and on_cpu() and not chosen:
        return learner_for(config, min(loop_count, costs.fitting_places(program, system)))
    learner = learner_for(config, loop_count)
    if limit is None or chosen:
        return learner
    needed = needed_bytes(learner, program, system, measures)
    fitting = int(learner.loops_per_device * _USABLE_SHARE * limit / needed)
    if fitting >= learner.loops_per_device:
        return learner
    population = config.population.model_copy(update={"loops_per_device": max(fitting, 1)})
    return learner_for(config.model_copy(update={"population": population}), loop_count)


def needed_bytes(learner: ModelLearner, program: Program, system: System, measures: dict[int, Measures]) -> int:
    """Memory that the loops of a program take on each device."""
    loop = program.loops[0]
    asked = probes_of(measures, learner)(loop, 0)
    rows = system.first_rows(loop.config, loop.seed)
    return learner.device_bytes(Task(loop, 0, rows, rows_to_write(loop.config), asked))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory has run out: NumPy's and Python's own, or XLA's, on a CPU as elsewhere."""
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return isinstance(error, MemoryError)
    # On a CPU the JAX of 2025 calls it an internal error.
    return any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "Out of memory"))


@contextlib.contextmanager
def memory_in_words() -> Iterator[None]:
    """Say in one line that memory has run out, where nothing can be done about it.

    Raises:
      RunError: it has.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not ran_out(error):
            raise
        raise RunError(
            "memory ran out; `--plan` says what the run needs, and which settings to lower (cycle.rows, for rows that "
            "are measured); what was measured before is kept"
        ) from error


def half_as_many(learner: Learner, error: Exception) -> Learner:
    """A learner that computes half as many loops at once, after memory has run out.

    Raises:
      RunError: it cannot be fewer.
      Exception: the error, where memory has not run out; something else is wrong.
    """
    if not ran_out(error):
        raise error
    smaller = learner.smaller()
    if smaller is None:
        lower = getattr(learner, "lower", "cycle.rows")
        raise RunError(
            f"the device's memory does not hold a single loop; lower {lower}; what was measured before is kept"
        ) from error
    return smaller
