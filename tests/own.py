"""Parts of one's own, as somebody would write them who knows jaxloop/README.md: no other file knows of them."""

import numpy as np
from pydantic import Field

from jaxloop.analysis.columns import DIVERSITY, SUMMED, TRAINING_DIVERSITY, Column, Columns
from jaxloop.config.schema import Config, LearnerSettings, SystemSettings
from jaxloop.loop.curation import Curator
from jaxloop.loop.interfaces import Seconds, Written
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.memories import Carry, Memory
from jaxloop.loop.rows import join
from jaxloop.systems.interfaces import Measured, Measures, RowFormat, System


class KeepThree(Memory):
    """The first three training rows stay for ever."""

    def next(self, carry, generation, sampled, new, generator):
        return Carry(join([carry.training.take(slice(3)), new(self.rows - 3)]), carry.archive)


class Mislaid(Memory):
    """Says that it has n rows, and has three less from generation 2 on."""

    def next(self, carry, generation, sampled, new, generator):
        return Carry(new(self.rows - 3 * (generation == 2)), carry.archive)


class HalfAgain(Curator):
    """Half as many rows again are written, and the last n of them train."""

    oversample = 1.5

    def choose(self, points, count, generator):
        return np.arange(len(points) - count, len(points))


class NoPlaces(Curator):
    """Gives rows where places are asked for."""

    def choose(self, points, count, generator):
        return points[:count]


class FirstToken:
    """A measure: what the first column of the samples is, in the mean."""

    columns = (Column("first_number", "mean of the first number of each sample", 0.0, role=SUMMED),)

    def measure(self, record):
        return {"first_number": float(record.written.points.reshape(len(record.written.points), -1)[:, 0].mean())}


class Undeclared:
    """A measure that gives another column than it declares."""

    columns = FirstToken.columns

    def measure(self, record):
        return {"another": 1.0}


class Copies:
    """A learner: copies of its training rows, and no density."""

    places = 3

    def __init__(self, config, loop_count):
        pass

    def smaller(self):
        return None

    def probe(self, points):
        return points

    def start(self, tasks):
        return tasks

    def finish(self, started, watch):
        watch(0.5)
        written = []
        for task in started:
            generator = host_generator(task.loop.seed, Purpose.SAMPLING, task.generation)
            points = task.training[generator.integers(len(task.training), size=task.count)]
            probed = {name: np.full((2, len(asked)), -1.0) for name, asked in task.probes.items()}
            written.append(Written(points, np.full(task.count, -1.0), probed, {}, {}, False))
        return written, Seconds(0.0, 0.0, {})


class Breaks(Copies):
    """A learner that fails in generation 2."""

    def finish(self, started, watch):
        if any(task.generation == 2 for task in started):
            raise ZeroDivisionError("there was a nought")
        return super().finish(started, watch)


class Lost(Copies):
    """A learner that comes to nothing in generation 2."""

    def finish(self, started, watch):
        written, seconds = super().finish(started, watch)
        pairs = zip(written, started, strict=True)
        return [one._replace(diverged=task.generation == 2) for one, task in pairs], seconds


class WrongShape(Copies):
    """A learner that writes rows of another dtype."""

    def finish(self, started, watch):
        written, seconds = super().finish(started, watch)
        return [one._replace(points=one.points.astype(np.float16)) for one in written], seconds


class Seeds(Copies):
    """A learner that gives columns which are the loop's own."""

    def finish(self, started, watch):
        written, seconds = super().finish(started, watch)
        return [one._replace(columns={"seed": 99}) for one in written], seconds


class Late(Copies):
    """A learner that gives one column more from generation 2 on."""

    def finish(self, started, watch):
        written, seconds = super().finish(started, watch)
        late = {"late": 1.0} if started[0].generation > 1 else {}
        return [one._replace(columns=late) for one in written], seconds


class Unknown(Copies):
    """A learner without a density, where the system keeps one."""

    def finish(self, started, watch):
        written, seconds = super().finish(started, watch)
        return [one._replace(log_prob_N=None) for one in written], seconds


class Fewer(Copies):
    """A learner that forgets a task."""

    def finish(self, started, watch):
        written, seconds = super().finish(started, watch)
        return written[1:], seconds


class Parameters(Copies):
    """A learner with parameters that nobody could restore."""

    def finish(self, started, watch):
        written, seconds = super().finish(started, watch)
        return [one._replace(parameters={"weights": np.ones(3)}) for one in written], seconds


class Quits(Copies):
    """A learner that ends the process."""

    def start(self, tasks):
        raise SystemExit(0)


class Unmade(Memory):
    """Cannot be made."""

    def __init__(self, settings):
        raise KeyError("nothing")


class Many(Memory):
    """Has a number of rows that is none."""

    def training_rows(self, generation):
        return "many"


class Endless(Curator):
    """Wants more rows than there may be."""

    oversample = 1e9


class TheSeed(FirstToken):
    """A measure whose column is the loop's own."""

    columns = (Column("seed", "of the loop"),)


class DiceSettings(SystemSettings):
    """Two dice."""

    name: str = "own:DiceConfig"
    sides: int = Field(6, ge=2, le=100, description="of each die")


class DiceLearnerSettings(LearnerSettings):
    """Who is fitted."""

    name: str = "copies"


class Dice(System):
    """Rows of two dice."""

    columns = Columns(
        (
            Column("diversity", "different throws", 0.0, role=DIVERSITY),
            Column("training_diversity", "of the training rows", 0.0, role=TRAINING_DIVERSITY),
            Column("mean_sum", "of both dice", 0.0, role=SUMMED),
        )
    )

    def row_format(self, config):
        return RowFormat("throws", np.dtype(np.int16), (2,))

    def _throw(self, config, generator, count):
        return generator.integers(1, config.system.sides + 1, size=(count, 2)).astype(np.int16)

    def first_rows(self, config, seed):
        return self._throw(config, host_generator(seed, Purpose.REAL_ROWS), config.cycle.rows)

    def fresh_rows(self, config, seed, generation, count):
        return self._throw(config, host_generator(seed, Purpose.FRESH_ROWS, generation), count)

    def learner(self, config, loop_count):
        return NoDensity(config, loop_count)

    def measures(self, config):
        return Throws()

    def texts(self, points):
        return [f"{one}+{other}" for one, other in points]


class NoDensity(Copies):
    """Copies whose probability nobody knows."""

    def finish(self, started, watch):
        written, seconds = super().finish(started, watch)
        return [one._replace(log_prob_N=None) for one in written], seconds


class Throws(Measures):
    """How many different throws there are."""

    def measure(self, record):
        points = record.written.points
        columns = {
            "diversity": float(len(np.unique(points, axis=0))),
            "training_diversity": float(len(np.unique(record.state.carry.training.points, axis=0))),
            "mean_sum": float(points.sum(axis=1).mean()),
        }
        return Measured(columns, [], {})


class DiceConfig(Config):
    """A run about dice."""

    system_class = Dice

    system: DiceSettings = DiceSettings()
    learner: DiceLearnerSettings = DiceLearnerSettings()
