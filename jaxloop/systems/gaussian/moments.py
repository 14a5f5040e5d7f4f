"""The learner `moments`: a normal distribution with the mean and the variance of the training rows.

A generation of all loops is one call of one program. In it the loops follow each other, so that each is computed by the
same operations on the same shapes, whoever stands beside it: its bits do not depend on that. It takes microseconds.

Legend: L loops, M training rows at most, N rows written.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.learners.keys import device_key
from jaxloop.learners.placement import Array
from jaxloop.loop.interfaces import Seconds, Task, Written
from jaxloop.loop.keys import Purpose
from jaxloop.loop.memories import memory_of
from jaxloop.systems.gaussian.normal import log_prob
from jaxloop.systems.gaussian.settings import GaussianConfig

DTYPE = np.dtype(np.float32)


class Work(NamedTuple):
    """What the program is to do, for each loop."""

    training_LxM: Array  # float32, padded
    training_rows_L: Array  # int32, how many of them there are
    lost_L: Array  # int32, degrees of freedom that the variance is divided without: 1 if it is unbiased
    widening_L: Array  # float32, of the standard deviation by the temperature
    seed_L: Array  # int32
    generation_L: Array  # int32


class Started(NamedTuple):
    """Work that is under way on the device."""

    tasks: Sequence[Task[GaussianConfig, np.ndarray]]
    found: tuple[jax.Array, jax.Array, jax.Array]  # see `_fit_and_write`
    begun_seconds: float


@functools.partial(jax.jit, static_argnums=0)
def _fit_and_write(count: int, loops: jax.Array, work: Work) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Fit each of the first loops and write rows: (L, N) rows, (L,) means and (L,) standard deviations."""
    places, most = work.training_LxM.shape

    def one(place: jax.Array, found: tuple[jax.Array, jax.Array, jax.Array]):
        of_loop = jax.tree.map(lambda leaf: leaf[place], work)
        is_row_M = jnp.arange(most) < of_loop.training_rows_L
        training_M, rows = of_loop.training_LxM, of_loop.training_rows_L.astype(jnp.float32)
        # From the first row, and then from the mean: squares of what lies far from 0 would cancel each other.
        first = training_M[0]
        mean = first + jnp.sum(jnp.where(is_row_M, training_M - first, 0.0)) / rows
        apart_M = jnp.where(is_row_M, training_M - mean, 0.0)
        # In units of the greatest, or the squares of what lies close together would be 0.
        unit = jnp.max(jnp.abs(apart_M))
        squares_M = jnp.square(apart_M / jnp.where(unit > 0, unit, 1.0))
        deviation = unit * jnp.sqrt(jnp.sum(squares_M) / (rows - of_loop.lost_L.astype(jnp.float32)))
        key = device_key(of_loop.seed_L, Purpose.SAMPLING, of_loop.generation_L)
        points_N = mean + of_loop.widening_L * deviation * jax.random.normal(key, (count,), jnp.float32)
        of_one = points_N, mean, deviation
        return jax.tree.map(lambda all_loops, this: all_loops.at[place].set(this), found, of_one)

    nothing = jnp.zeros((places, count)), jnp.zeros(places), jnp.zeros(places)
    return jax.lax.fori_loop(0, loops, one, nothing)


class MomentsLearner:
    """Fits normal distributions to rows, all loops of a program at once; see `loop.interfaces.Learner`."""

    def __init__(self, config: GaussianConfig, loop_count: int):
        """Make room for so many loops, with as many training rows as any generation has."""
        memory, generations = memory_of(config.cycle), config.cycle.generations
        self.places = min(config.population.loops_per_device or loop_count, loop_count)
        self._config, self._most_rows = config, max(map(memory.training_rows, range(generations)))

    def smaller(self) -> "MomentsLearner | None":
        """Half of the loops at once; None where it is one."""
        return MomentsLearner(self._config, self.places // 2) if self.places > 1 else None

    def probe(self, points: np.ndarray) -> np.ndarray:
        """The rows as they are."""
        return points

    def start(self, tasks: Sequence[Task[GaussianConfig, np.ndarray]]) -> Started:
        """Send all tasks to the device."""
        begun = time.perf_counter()
        training_LxM = np.zeros((self.places, self._most_rows), DTYPE)
        for place, task in enumerate(tasks):
            training_LxM[place, : len(task.training)] = task.training

        def of_tasks(dtype: type, values: list) -> np.ndarray:
            return np.array([*values, *[0] * (self.places - len(tasks))], dtype)

        configs = [task.loop.config for task in tasks]
        work = Work(
            training_LxM=training_LxM,
            training_rows_L=of_tasks(np.int32, [len(task.training) for task in tasks]),
            lost_L=of_tasks(np.int32, [int(config.learner.estimator == "unbiased") for config in configs]),
            widening_L=of_tasks(np.float32, [math.sqrt(config.sample.temperature) for config in configs]),
            seed_L=of_tasks(np.int32, [task.loop.seed for task in tasks]),
            generation_L=of_tasks(np.int32, [task.generation for task in tasks]),
        )
        return Started(tasks, _fit_and_write(tasks[0].count, np.int32(len(tasks)), work), begun)

    def finish(self, started: Started, watch: Callable[[float], None]) -> tuple[list[Written], Seconds]:
        """Fetch what was fitted and written, and ask for probabilities."""
        tasks, results, begun = started
        watch(0.0)
        points_LxN, mean_L, deviation_L = (np.asarray(result)[: len(tasks)] for result in results)
        fitted = time.perf_counter()
        mean_L, deviation_L = mean_L.astype(np.float64), deviation_L.astype(np.float64)
        widening_L = np.sqrt([task.loop.config.sample.temperature for task in tasks])
        log_prob_LxN = log_prob(points_LxN, mean_L[:, None], (widening_L * deviation_L)[:, None])
        written = [
            Written(
                points=points_LxN[place],
                log_prob_N=log_prob_LxN[place],
                probed={
                    name: np.stack([log_prob(points_P, mean, times * deviation) for times in (1.0, widening)])
                    for name, points_P in task.probes.items()
                },
                columns={"model_mean": mean, "model_standard_deviation": deviation},
                parameters={},
                diverged=not (math.isfinite(deviation) and math.isfinite(mean)),
            )
            for place, (task, mean, deviation, widening) in enumerate(
                zip(tasks, mean_L.tolist(), deviation_L.tolist(), widening_L.tolist(), strict=True)
            )
        ]
        names = dict.fromkeys(name for task in tasks for name in task.probes)
        return written, Seconds(fitted - begun, time.perf_counter() - fitted, dict.fromkeys(names, 0.0))
