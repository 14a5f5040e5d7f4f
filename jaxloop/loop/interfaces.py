"""What the loop asks of its source and its learner, and what it hands on.

Legend: N rows, P rows that are probed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol

import numpy as np
from typing_extensions import TypeVar

from jaxloop.config.schema import Config, Loop, SomeConfig
from jaxloop.loop.memories import Carry

AskedConfig = TypeVar("AskedConfig", bound=Config, default=Config, contravariant=True)
Probe = TypeVar("Probe", default=Any)  # rows as a learner wants to have them
Started = TypeVar("Started", default=Any)  # work that a learner has under way


class Source(Protocol):
    """Where real rows come from, and what is known of rows."""

    def first_rows(self, config: Config, seed: int) -> np.ndarray:
        """The n rows (n, ...) that train a loop's first generation."""
        ...

    def fresh_rows(self, config: Config, seed: int, generation: int, count: int) -> np.ndarray:
        """So many independent rows (count, ...), drawn for a generation."""
        ...

    def score(self, config: Config, name: str, points: np.ndarray) -> np.ndarray:
        """What is known of rows, a number of each (N,), by its name: see `systems.interfaces.System.score`."""
        ...

    def classes(self, config: Config, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The class of each row (N,), and the share of each class in the source (G,)."""
        ...


class State(NamedTuple):
    """Where a loop stands: all that its next generation depends on, besides the seed."""

    generation: int  # the last one finished
    carry: Carry  # what trained it
    sampled: np.ndarray  # (n, ...), what its model wrote


class Task(NamedTuple, Generic[SomeConfig, Probe]):
    """What a learner is to do for one loop in one generation."""

    loop: Loop[SomeConfig]
    generation: int
    training: np.ndarray  # (N, ...), the rows that it is fitted to; read-only
    count: int  # rows to write
    probes: Mapping[str, Probe]  # by name, rows whose probability is asked for, as `Learner.probe` made them


class Written(NamedTuple):
    """What a learner gives back for one task."""

    points: np.ndarray  # (count, ...), all rows that were started, finished
    log_prob_N: np.ndarray | None  # nats, of each under the distribution that wrote it; None: there is no density
    probed: dict[str, np.ndarray]  # of each probe, (2, P) nats: plain, and with the sampling temperature applied
    columns: dict[str, float]  # what the learner says of itself
    parameters: dict  # nested, of arrays; empty where there is nothing to keep
    diverged: bool  # training came to nothing: there is nothing to go on with


class Seconds(NamedTuple):
    """How long a learner took, for all tasks that it did beside each other."""

    train: float
    sample: float
    probes: dict[str, float]


class Learner(Protocol[AskedConfig, Probe, Started]):
    """What is fitted to rows, and writes rows."""

    places: int  # how many tasks it takes at once

    def smaller(self) -> "Learner[AskedConfig, Probe, Started] | None":
        """A learner of the same loops that takes half as many tasks, where memory has run out; None: it cannot."""
        ...

    def probe(self, points: np.ndarray, /) -> Probe:
        """Rows whose probability will be asked for, as the learner wants to have them."""
        ...

    def start(self, tasks: Sequence[Task[AskedConfig, Probe]]) -> Started:
        """Set the work of these tasks going, and return at once; probes of one name have as many rows in all."""
        ...

    def finish(self, started: Started, watch: Callable[[float], None]) -> tuple[list[Written], Seconds]:
        """Wait for it; calls `watch` again and again with the share of it that is done."""
        ...


class ModelLearner(Learner[AskedConfig, Probe, Started], Protocol):
    """A learner whose models are trained by programs that are compiled for devices."""

    loops_per_device: int  # mapped together
    lower: str  # which settings, where a single loop does not fit into memory
    hints: Sequence[str]  # what would use the devices better

    def device_bytes(self, task: Task[AskedConfig, Probe]) -> int:
        """Memory that the greediest of the programs takes on each device, with what lies there beside it."""
        ...

    def estimate(self, tasks: Sequence[Task[AskedConfig, Probe]], due: dict[str, float], growth: float) -> "Estimate":
        """Compile the programs, and time a few of their steps.

        Args:
          tasks: of generation 0 of the first loops, at most `places`.
          due: of each probe, the share of the generations in which it is asked for.
          growth: to so many times those of generation 0 the training rows grow, in the mean.
        """
        ...


class Record(NamedTuple, Generic[SomeConfig]):
    """One finished generation of one loop, as it is measured and kept; its arrays are read-only."""

    loop: Loop[SomeConfig]
    state: State
    written: Written
    seconds: Seconds
    curated: Mapping[str, float] = {}  # what is said of curation, by column of metrics.csv


class Program(NamedTuple):
    """What a learner compiles once, for all loops that share it."""

    config: Config  # of the first of them: what decides the program is the same in all
    loops: list[Loop]


class Part(NamedTuple):
    """Some of the memory that a run needs."""

    bytes: float
    what: str
    remedy: str  # which settings make it less
    machine_share: float = 1.0  # of what lies on a device how much is the machine's


class Estimate(NamedTuple):
    """What a learner's work costs, as it was tried on this machine."""

    parameters: int  # of a model
    generation_seconds: float  # of as many loops as it takes at once
    device_bytes: int  # on each device
    timing_seconds: float  # that were spent on timing, and not on compiling
