"""Reference learners: what a loop loses whose learner is understood, under the same cycles and seeds.

A reference learner makes a distribution over rows of its training rows, on the host and in milliseconds. Which there
are is the system's affair; one of them does for rows of any kind, an ideal memoriser.

Legend: N rows, P rows of a probe, U different rows.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol

import numpy as np

from jaxloop.config.schema import Loop
from jaxloop.loop.interfaces import AskedConfig, Seconds, Task, Written
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.rows import unique_rows


class Fitted(Protocol):
    """A distribution over rows."""

    def write(self, generator: np.random.Generator, rows: int, temperature: float, /) -> np.ndarray:
        """So many rows, (N, ...)."""
        ...

    def log_prob(self, points: np.ndarray, temperature: float, /) -> np.ndarray:
        """Log-probability of each row as it is written at this temperature, (N,) nats."""
        ...


# The distribution that a loop's learner makes of its training rows.
Fit = Callable[[Loop[AskedConfig], np.ndarray], Fitted]


class Resample:
    """The empirical distribution of the training rows, which are of any dtype and shape.

    It draws the next rows from the training rows with replacement, and so is the Wright-Fisher process of population
    genetics (Wright 1931): what it loses, finite samples alone lose. It has no choices that a temperature could be
    applied to.
    """

    def __init__(self, training: np.ndarray):
        self._training = training
        points_U, _, counts_U = unique_rows(training)
        log_share_U = np.log(counts_U / len(training)).tolist()
        self._log_share = {row.tobytes(): log_share for row, log_share in zip(points_U, log_share_U, strict=True)}

    def write(self, generator: np.random.Generator, rows: int, temperature: float) -> np.ndarray:
        """Rows drawn with replacement; the temperature has no say."""
        return self._training[generator.integers(len(self._training), size=rows)]

    def log_prob(self, points: np.ndarray, temperature: float) -> np.ndarray:
        """Log-share of each row among the training rows, minus infinity for one that is not there."""
        return np.array([self._log_share.get(row.tobytes(), -math.inf) for row in points])


class ReferenceLearner(Generic[AskedConfig]):
    """Fits reference learners on the host; see `loop.interfaces.Learner`.

    Args:
      fits: by the name that a config has for a learner (`learner.name`), what fits it.
      columns: what a learner of the system says of itself, where there is nothing of that kind to say.
    """

    # So many generations are computed before they are measured and kept.
    places = 8

    def __init__(self, fits: Mapping[str, Fit[AskedConfig]], columns: Mapping[str, float] | None = None):
        self._fits, self._columns = fits, dict(columns or {})

    def smaller(self) -> None:
        """None: one loop after the other is computed."""
        return None

    def probe(self, points: np.ndarray) -> np.ndarray:
        """The rows as they are."""
        return points

    def start(self, tasks: Sequence[Task[AskedConfig, np.ndarray]]) -> Sequence[Task[AskedConfig, np.ndarray]]:
        """Note what is to be done: it takes milliseconds."""
        return tasks

    def finish(
        self, started: Sequence[Task[AskedConfig, np.ndarray]], watch: Callable[[float], None]
    ) -> tuple[list[Written], Seconds]:
        """Do it."""
        written, seconds = [], []
        for place, task in enumerate(started):
            watch(place / len(started))
            of_task, spent = self._generation(task)
            written.append(of_task)
            seconds.append(spent)
        probes = {
            name: math.fsum(spent.probes.get(name, 0.0) for spent in seconds) for one in seconds for name in one.probes
        }
        return written, Seconds(sum(one.train for one in seconds), sum(one.sample for one in seconds), probes)

    def _generation(self, task: Task[AskedConfig, np.ndarray]) -> tuple[Written, Seconds]:
        config, temperature = task.loop.config, task.loop.config.sample.temperature
        times = [time.perf_counter()]
        fitted = self._fits[config.learner.name](task.loop, task.training)
        times.append(time.perf_counter())
        generator = host_generator(task.loop.seed, Purpose.SAMPLING, task.generation)
        points = fitted.write(generator, task.count, temperature)
        log_prob_N = fitted.log_prob(points, temperature)
        times.append(time.perf_counter())
        probed, probe_seconds = {}, {}
        for name, points_P in task.probes.items():
            probed[name] = np.stack([fitted.log_prob(points_P, 1.0), fitted.log_prob(points_P, temperature)])
            times.append(time.perf_counter())
            probe_seconds[name] = times[-1] - times[-2]
        seconds = Seconds(times[1] - times[0], times[2] - times[1], probe_seconds)
        return Written(points, log_prob_N, probed, dict(self._columns), {}, False), seconds
