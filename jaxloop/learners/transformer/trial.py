"""A few steps of a transformer's programs, timed: what a generation takes on this machine."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxloop.learners.transformer.sample import Batches
from jaxloop.learners.transformer.score import Probe
from jaxloop.learners.transformer.settings import TransformerConfig
from jaxloop.learners.transformer.train import looks
from jaxloop.loop.interfaces import Task

if TYPE_CHECKING:
    from jaxloop.learners.transformer.learner import TransformerLearner

_TRAINING_SECONDS = 0.5


class Trial:
    """The first tasks of a learner, and models that have taken a few steps."""

    def __init__(
        self,
        learner: "TransformerLearner",
        tasks: Sequence[Task[TransformerConfig, Probe]],
        due: dict[str, float],
        growth: float,
    ):
        """Compile everything, and run it once with nothing to do; see `TransformerLearner.estimate`."""
        self._learner, self._train = learner, learner.train_settings
        self._group = learner.put([learner.inputs(task.loop, task.generation, task.training) for task in tasks])
        self._probes = [task.probes for task in tasks]
        self._state = learner.begin(self._group.inputs)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.parameters)) // learner.places
        self._due, self._growth = due, growth
        self._train_steps(0)
        self._sample(0)
        self._score(np.zeros_like(self._group.active))

    def generation_seconds(self) -> float:
        """Seconds to train, sample and score all of them once."""
        one = self._train_steps(1)
        count = (
            int(np.clip(_TRAINING_SECONDS / max(one, 1e-4), 1, self._train.steps - 1)) if self._train.steps > 1 else 0
        )
        step = (self._train_steps(1 + count) - one) / count if count else one
        # A call that takes a step looks as well.
        step = min(max(step, 0.0), one)
        look = (one - step) * self._growth
        batches = int(np.max(self._group.batches.count))
        sample = batches * self._sample(1)
        return self._train.steps * step + looks(self._train) * look + sample + self._score(self._group.active)

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

    def _sample(self, batches: int) -> float:
        """Seconds to sample so many batches in each place that samples."""
        first, count = self._group.batches
        few = jax.device_put(np.minimum(count, batches), self._group.active.sharding)
        group = self._group._replace(batches=Batches(first, few))
        begun = time.perf_counter()
        self._learner.sample_rows(self._state.best_parameters, group)
        return time.perf_counter() - begun

    def _score(self, active: np.ndarray | jax.Array) -> float:
        """Seconds to score every probe as often as it is asked for, in the places that are active."""
        group = self._group._replace(active=jax.device_put(active, self._group.active.sharding))

        seconds = 0.0
        for name, share in self._due.items():
            begun = time.perf_counter()
            self._learner.score_rows(self._state.best_parameters, group, [of_loop[name] for of_loop in self._probes])
            seconds += share * (time.perf_counter() - begun)
        return seconds
