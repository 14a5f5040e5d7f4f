"""What a run would cost on this machine: its programs are compiled and a few of their steps are timed; nothing is run.

What is compiled here stays in the cache, so the run itself need not compile it again.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxloop.config import Config, Loop, loops
from jaxloop.cycles import rows_of_generation
from jaxloop.learner import TransformerLearner
from jaxloop.learners import make_learner, needed_bytes
from jaxloop.loop import Learner
from jaxloop.population import keep_compiled_programs, use_all_cores
from jaxloop.programs import Program, programs
from jaxloop.source import first_rows
from jaxloop.train import looks
from jaxloop.yardsticks import Yardsticks, probes_of, yardsticks_of

_TRIAL_SECONDS = 0.5


class ProgramPlan(NamedTuple):
    """What is expected of one program."""

    program: Program
    parameters: int  # of a model; 0 for a reference learner
    loops_at_once: int
    compile_seconds: float
    generation_seconds: float  # of as many loops as are computed at once
    seconds: float  # of all generations of all loops
    device_bytes: int  # on each device; 0 for a reference learner


def plan(config: Config, say: Callable[[str], None]) -> list[ProgramPlan]:
    """Compile every program of a run and time it, in the order in which they would be run.

    Args:
      config: the run.
      say: is told what is going on.
    """
    use_all_cores()
    keep_compiled_programs()
    all_loops = loops(config)
    yardsticks = yardsticks_of(all_loops)
    found = []
    for place, program in enumerate(programs(all_loops), start=1):
        say(f"program {place}: compiling, and timing a few steps")
        found.append(_plan_of(program, yardsticks))
    return found


def _plan_of(program: Program, yardsticks: dict[int, Yardsticks]) -> ProgramPlan:
    begun = time.perf_counter()
    learner = make_learner(program, yardsticks)
    at_once = min(learner.places, len(program.loops))
    rounds = math.ceil(sum(loop.config.cycle.generations for loop in program.loops) / at_once)
    if isinstance(learner, TransformerLearner):
        needed = needed_bytes(learner, program, yardsticks)
        trial = _Trial(program, learner, yardsticks)
        compiled = time.perf_counter()
        seconds = trial.generation_seconds()
        return ProgramPlan(program, trial.parameters, at_once, compiled - begun, seconds, rounds * seconds, needed)
    seconds = _reference_seconds(program.loops[:at_once], learner, yardsticks)
    return ProgramPlan(program, 0, at_once, 0.0, seconds, rounds * seconds, 0)


def _reference_seconds(computed: list[Loop], learner: Learner, yardsticks: dict[int, Yardsticks]) -> float:
    """Seconds of a generation of loops whose learner takes next to nothing."""
    begun = time.perf_counter()
    rows = [first_rows(loop.config, loop.seed) for loop in computed]
    asked = probes_of(yardsticks, learner)
    probes = [asked(loop, 0) for loop in computed]
    learner.finish(learner.start(computed, [0] * len(computed), rows, probes), lambda share: None)
    return time.perf_counter() - begun


class _Trial:
    """A program's first loops with their real rows, and models that have taken a few steps."""

    def __init__(self, program: Program, learner: TransformerLearner, yardsticks: dict[int, Yardsticks]):
        """Compile everything, and run it once with nothing to do."""
        self._learner, self._train = learner, program.config.train
        computed = program.loops[: learner.places]
        rows = [first_rows(loop.config, loop.seed) for loop in computed]
        self._group = learner.put(
            [learner.inputs(loop, 0, of_loop) for loop, of_loop in zip(computed, rows, strict=True)]
        )
        probes = probes_of(yardsticks, learner)
        self._probes = [list(probes(loop, 0).values()) for loop in computed]
        self._state = learner.begin(self._group.inputs)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.parameters)) // learner.places
        # Validation rows grow with the training rows, on average to so many times those of generation 0.
        cycle = program.config.cycle
        mean_rows = np.mean([rows_of_generation(cycle, generation) for generation in range(cycle.generations)])
        self._growth = float(mean_rows / rows_of_generation(cycle, 0))
        self._train_steps(0)
        self._sample()
        self._score()

    def generation_seconds(self) -> float:
        """Seconds to train, sample and score all of them once."""
        one = self._train_steps(1)
        count = int(np.clip(_TRIAL_SECONDS / max(one, 1e-4), 1, self._train.steps - 1)) if self._train.steps > 1 else 0
        step = (self._train_steps(1 + count) - one) / count if count else one
        # A call that takes a step looks as well.
        step = min(max(step, 0.0), one)
        look = (one - step) * self._growth
        return self._train.steps * step + looks(self._train) * look + self._sample() + self._score()

    def _train_steps(self, count: int) -> float:
        """Seconds of the last so many steps, and of a look, if there are any."""
        step = self._state.step
        self._state = self._state._replace(
            step=jax.device_put(np.full_like(step, self._train.steps - count), step.sharding)
        )
        jax.block_until_ready(self._state)
        begun = time.perf_counter()
        self._state, _ = self._learner.train(self._state, self._group.inputs, self._group.active)
        jax.block_until_ready(self._state)
        return time.perf_counter() - begun

    def _sample(self) -> float:
        begun = time.perf_counter()
        self._learner.sample_rows(self._state.best_parameters, self._group)
        return time.perf_counter() - begun

    def _score(self) -> float:
        begun = time.perf_counter()
        for of_one_name in zip(*self._probes, strict=True):
            self._learner.score_rows(self._state.best_parameters, self._group, list(of_one_name))
        return time.perf_counter() - begun
