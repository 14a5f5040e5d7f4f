"""The learner of a program, with as many loops mapped together as the memory of a device holds."""

import jax

from jaxloop.errors import RunError
from jaxloop.language import language_of
from jaxloop.learner import TransformerLearner
from jaxloop.loop import Learner
from jaxloop.population import device_memory_bytes
from jaxloop.programs import Program
from jaxloop.references import ReferenceLearner
from jaxloop.source import first_rows
from jaxloop.yardsticks import Yardsticks, probes_of

# What XLA plans is not all: its allocator leaves gaps, and results of one group wait while the next one begins.
_USABLE_SHARE = 0.8


def make_learner(program: Program, yardsticks: dict[int, Yardsticks]) -> Learner:
    """The learner of a program's loops.

    On accelerators all loops are mapped together unless `population.loops_per_device` says otherwise, or what XLA plans
    for them exceeds the memory of the device: then as many as fit.
    """
    if program.config.learner.name != "transformer":
        return ReferenceLearner(language_of(program.config.language))
    learner = TransformerLearner(program.config, len(program.loops))
    limit = device_memory_bytes()
    if program.config.population.loops_per_device or limit is None:
        return learner
    needed = needed_bytes(learner, program, yardsticks)
    fitting = int(learner.loops_per_device * _USABLE_SHARE * limit / needed)
    return learner if fitting >= learner.loops_per_device else _of_size(program, max(fitting, 1))


def needed_bytes(learner: TransformerLearner, program: Program, yardsticks: dict[int, Yardsticks]) -> int:
    """Memory that the loops of a program take on each device."""
    loop = program.loops[0]
    asked = probes_of(yardsticks, learner)(loop, 0)
    return learner.device_bytes(loop, first_rows(loop.config, loop.seed), list(asked.values()))


def half_as_many(program: Program, learner: Learner, error: jax.errors.JaxRuntimeError) -> Learner:
    """A learner that maps half as many loops together, after memory has run out.

    Raises:
      RunError: it was a single loop.
      JaxRuntimeError: memory has not run out; something else is wrong.
    """
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    if learner.loops_per_device == 1:
        raise RunError(
            "the device's memory does not hold a single loop; lower sample.batch_rows, train.batch_expressions or the "
            "model's size; what was measured before is kept"
        )
    return _of_size(program, learner.loops_per_device // 2)


def _of_size(program: Program, loops_per_device: int) -> TransformerLearner:
    population = program.config.population.model_copy(update={"loops_per_device": loops_per_device})
    return TransformerLearner(program.config.model_copy(update={"population": population}), len(program.loops))
