"""What a system is: a world that a loop may be about, with its source, its learners and its measures.

A system of one's own is a class like `System`, and its settings: see jaxloop/README.md.

Legend: N rows.
"""

import abc
import math
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple

import numpy as np
from typing_extensions import TypeVar

from jaxloop.analysis.columns import Columns
from jaxloop.config.schema import Config, Loop
from jaxloop.errors import InputError
from jaxloop.loop.interfaces import AskedConfig, Learner, Part, Record

OwnConfig = TypeVar("OwnConfig", bound=Config, default=Config)


class RowFormat(NamedTuple):
    """How the rows of a system are stored."""

    name: str  # of their array in a file of samples
    dtype: np.dtype
    shape: tuple[int, ...]  # of one row

    @property
    def bytes(self) -> int:
        """Size of a row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Measured(NamedTuple):
    """What is measured of one generation of one loop, as rows of the run folder's tables."""

    columns: dict[str, float]  # of metrics.csv
    tails: list[dict]  # rows of tails.csv, without their place
    of_samples: dict[str, np.ndarray]  # what is kept of each sample beside it, (N,)


class ModelCost(NamedTuple):
    """What is known beforehand of models that are trained by compiled programs."""

    weights: int  # numbers in a model
    parts: list[Part]  # memory that one loop takes of its device, or on a CPU of the memory of all
    shared_parts: list[Part]  # of the machine's memory, for all loops together


def missing_mass(class_N: np.ndarray, source_share_G: np.ndarray) -> np.ndarray:
    """How much is missing of the class of each row, in nats: log(source's share / rows' share); (N,).

    Args:
      class_N: the class of each row; negative where it belongs to none, of which nothing is missing.
      source_share_G: the mass of each class under the source.
    """
    inside_N = class_N >= 0
    share_G = np.bincount(class_N[inside_N], minlength=len(source_share_G)) / max(len(class_N), 1)
    with np.errstate(divide="ignore"):
        missing_G = np.log(np.divide(source_share_G, share_G, out=np.ones(len(share_G)), where=share_G > 0))
    return np.where(inside_N, missing_G[np.where(inside_N, class_N, 0)], -np.inf)


class Measures(abc.ABC, Generic[AskedConfig]):
    """The measures of loops that are measured alike."""

    def prepare(self, seed: int) -> None:
        """Make what all generations of a seed share, before it is asked for."""
        return

    def probes(self, learner: Learner[Any, Any, Any]) -> Callable[[Loop, int], dict[str, Any]]:
        """Build the function that says what a learner is asked for, for a loop and a generation."""
        return lambda loop, generation: {}

    def tail_rows(self, generation: int) -> int:
        """How many rows of tails.csv a generation has."""
        return 0

    @abc.abstractmethod
    def measure(self, record: Record[AskedConfig]) -> Measured:
        """Measure one generation of one loop; not a number in a column where something is not due."""


class System(abc.ABC, Generic[OwnConfig]):
    """A world that a loop may be about. No method changes anything, and none is asked before it is needed."""

    columns: Columns  # of metrics.csv

    @abc.abstractmethod
    def row_format(self, config: OwnConfig) -> RowFormat:
        """How rows are stored."""

    def kept_of_samples(self, config: OwnConfig) -> dict[str, np.dtype]:
        """What is stored of each sample beside it, by name its dtype; `log_prob` where there is a density (nats)."""
        return {}

    @abc.abstractmethod
    def first_rows(self, config: OwnConfig, seed: int) -> np.ndarray:
        """The n real rows (n, ...) that train a loop's first generation."""

    @abc.abstractmethod
    def fresh_rows(self, config: OwnConfig, seed: int, generation: int, count: int) -> np.ndarray:
        """So many independent rows (count, ...), drawn for a generation."""

    def score(self, config: OwnConfig, name: str, points: np.ndarray) -> np.ndarray:
        """What checks and rewards go by: of each row a number, (N,) float64.

        Args:
          config: of the loop.
          name: "truth", 1 or 0; "source", nats under the source, minus infinity outside; "length"; "depth"; "balance",
            the logarithm of the source's mass of the row's class less that of these rows' share of it.
          points: (N, ...).

        Raises:
          InputError: this is not known of the system's rows.
        """
        if name == "balance":
            return missing_mass(*self.classes(config, points))
        raise InputError(
            f"system.name = {config.system.name!r}: nobody knows the {name} of its rows; choose another check"
        )

    def classes(self, config: OwnConfig, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The class of each row, (N,), negative for what is none of the source's, and the source's shares, (G,).

        Raises:
          InputError: the system's rows have no classes.
        """
        raise InputError(f"system.name = {config.system.name!r}: nobody has divided its rows into classes")

    @abc.abstractmethod
    def learner(self, config: OwnConfig, loop_count: int) -> Learner[OwnConfig, Any, Any]:
        """What is fitted to the rows of so many loops that are alike in all but their knobs and seeds."""

    @abc.abstractmethod
    def measures(self, config: OwnConfig) -> Measures[OwnConfig]:
        """The measures of loops of these settings.

        Raises:
          InputError: what is asked for cannot be measured.
        """

    def measured_alike(self, config: OwnConfig) -> Hashable:
        """What loops have in common that share their measures."""
        return config.measure, config.cycle.rows

    @abc.abstractmethod
    def texts(self, points: np.ndarray) -> list[str]:
        """Rows as a reader would write them; readers of a run do not ask a system of one's own."""

    def results_depend_on(self, config: OwnConfig) -> dict[str, str]:
        """What the last bits of results depend on, beside the settings and the machine."""
        return {}

    def against_divergence(self, config: OwnConfig) -> str:
        """What to do where training came to nothing."""
        return "look at what the training rows are"

    def judged(self, samples: dict[str, np.ndarray]) -> list[str]:
        """What the judge says of each sample, in a word; empty: there is none. Readers do not ask one's own system."""
        return []

    def top_rows(self, samples: dict[str, np.ndarray]) -> list[dict]:
        """The most frequent samples, of all that is stored of a generation's: rows of top_samples.csv."""
        return []

    def parameter_shapes(self, config: OwnConfig) -> dict:
        """The parameters that the learner gives back, as `jax.ShapeDtypeStruct`; empty where it gives none."""
        return {}

    def expected(self, config: OwnConfig) -> dict[str, np.ndarray]:
        """Closed forms: of columns by name the mean over seeds in each generation, (G,), where it is known."""
        return {}

    # What a plan asks, so that a run that cannot fit is refused before it begins.

    def trains(self, config: OwnConfig) -> bool:
        """Whether the learner is a `ModelLearner`; another one takes milliseconds, and is tried instead."""
        return False

    def training_operations(self, config: OwnConfig) -> float:
        """About how many floating-point operations it takes to train all models of a loop."""
        return 0.0

    def model_cost(self, config: OwnConfig) -> ModelCost:
        """What the models of a loop cost, where the learner is a `ModelLearner`."""
        raise NotImplementedError

    def stand_in(self, config: OwnConfig) -> OwnConfig:
        """The same loop with a learner of milliseconds, so that what the host does can be tried."""
        return config

    def smaller(self, config: OwnConfig, rows: int, with_whole: bool) -> OwnConfig:
        """The same loop with so many rows, and all rows that there are enumerated or not."""
        return config.model_copy(update={"cycle": config.cycle.model_copy(update={"rows": rows})})

    def different_rows(self, config: OwnConfig) -> float:
        """How many different rows there are at most."""
        return math.inf

    def held_out_rows(self, config: OwnConfig) -> int:
        """Real rows that no model trains on, and all are measured with."""
        return 0

    def drawn_rows(self, config: OwnConfig) -> int:
        """Rows that are drawn at once for the first real data, where these are more than they have."""
        return 0

    def learnt_rows(self, config: OwnConfig, training_rows: int) -> int:
        """Of so many training rows, how many are at work at once on the host while they are learnt."""
        return training_rows

    def whole_rows(self, config: OwnConfig) -> int:
        """How many rows are enumerated, where all that there are are."""
        return 0

    def tail_classes(self, config: OwnConfig) -> int:
        """Rows of tails.csv of a generation, at most."""
        return 0

    def working_bytes(self, config: OwnConfig, rows: int) -> float:
        """Memory for so many rows while they are measured, or learnt on the host."""
        return rows * (25 * self.row_format(config).bytes + 150)

    def drawing_bytes(self, config: OwnConfig, rows: int) -> float:
        """Memory for drawing so many rows, beside that of the rows."""
        return 0.0

    def pairwise(self) -> Callable[[np.ndarray], float] | None:
        """The measure of rows that grows with the pairs of different ones, if there is one."""
        return None

    def probed_every(self, config: OwnConfig) -> int:
        """Every how many generations the learner is asked for probabilities of real rows; 0: never."""
        return 1

    def whole_every(self, config: OwnConfig) -> int:
        """Every how many generations all rows that there are are enumerated; 0: never."""
        return 0

    def rare(self, config: OwnConfig) -> tuple[int, ...]:
        """Every how many generations something is measured beside what is measured in all; 0: never."""
        return ()
