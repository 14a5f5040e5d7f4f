"""Small trials of what a run does: a few steps of its programs, and its measures on a few rows.

Legend: N rows, B bytes of a row.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxloop.config.schema import Config, Loop
from jaxloop.layout import KINDS
from jaxloop.loop import memories
from jaxloop.loop.interfaces import Estimate, ModelLearner, Program, Record, State, Task
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.memories import memory_of
from jaxloop.loop.rows import join, unique_rows
from jaxloop.loop.run_loops import next_carry, rows_to_write
from jaxloop.runs.folder import RunFolder
from jaxloop.runs.measuring import kept_of, probes_of
from jaxloop.systems.interfaces import Measures, System
from jaxloop.systems.registry import learner_of

_REPEATS = 3
_PAIRS_ROWS = 5000
_KEPT_GENERATIONS, _WHOLE_ROWS = 24, 100
_FEW_TOGETHER, _MANY_TOGETHER = 4, 40
# Of the generations that are followed, and of all their rows together.
_MOST_GENERATIONS, _MOST_ROWS = 60, 1_000_000


def model_trial(program: Program, system: System, learner: ModelLearner, measures: dict[int, Measures]) -> Estimate:
    """Compile a program, and time a few steps of its first loops with their real rows."""
    computed, probes = program.loops[: learner.places], probes_of(measures, learner)
    tasks = [
        Task(loop, 0, system.first_rows(loop.config, loop.seed), rows_to_write(loop.config), probes(loop, 0))
        for loop in computed
    ]
    # Validation rows grow with the training rows, on average to so many times those of generation 0.
    memory, generations = memory_of(program.config.cycle), range(program.config.cycle.generations)
    mean_rows = np.mean([memory.training_rows(generation) for generation in generations])
    asked = [probes(computed[0], generation) for generation in generations]
    due = {name: float(np.mean([name in names for names in asked])) for name in tasks[0].probes}
    return learner.estimate(tasks, due, float(mean_rows / memory.training_rows(0)))


def _seconds(act: Callable[[], object], repeats: int = _REPEATS) -> float:
    """How long something takes, at the quickest."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        act()
        taken.append(time.perf_counter() - begun)
    return min(taken)


class HostCost(NamedTuple):
    """What the host has to do with so many rows, in a generation of a loop or once."""

    learn_seconds: float  # the learner with as many training rows
    write_seconds: float
    probe_seconds: float  # the same with as many rows of each probe
    measure_seconds: float  # all but distances of pairs
    training_seconds: float  # the same of the training rows
    keep_seconds: float  # a generation by itself
    keep_more_seconds: float  # each of those that are written with it
    prepare_seconds: float  # twice as many real rows, of each seed
    sample_bytes: float
    table_bytes: float


class HostTrial(NamedTuple):
    """A generation of a loop as the host has it, with fewer rows than the run's."""

    rows: int
    cost: HostCost
    often_share: float  # of the seconds of measuring, what is measured in every generation
    keep_growth_seconds: float  # so much more is kept with every generation
    files: int  # of a loop, beside one for each generation


class WholeTrial(NamedTuple):
    """What is to be done with all rows that there are, in a generation of a loop or once."""

    begin_seconds: float
    probe_seconds: float  # a learner on the host
    measure_seconds: float


class _Small:
    """The first generation of a loop with fewer rows, and a learner of milliseconds."""

    def __init__(self, loop: Loop, system: System, rows: int, with_whole: bool):
        config = system.smaller(system.stand_in(loop.config), rows, with_whole)
        self.system, self.trains = system, system.trains(loop.config)
        self.loop = loop._replace(config=config)
        self.measures = system.measures(config)
        self.carry, _ = next_carry(self.loop, None, system)
        learner = learner_of(system, config, 1)
        self._probes = self.measures.probes(learner)
        task = Task(self.loop, 0, self.carry.training.points, rows_to_write(config), self._probes(self.loop, 0))
        (written,), self.seconds = learner.finish(learner.start([task]), lambda share: None)
        if self.trains:  # What a model writes is about as different as what the source does.
            written = written._replace(points=system.fresh_rows(config, loop.seed, 0, task.count))
        passed = written.points[: config.cycle.rows]
        self.record = Record(self.loop, State(0, self.carry, passed), written, self.seconds)

    def without(self, *probes: str) -> Record:
        """The record without the answers to these probes."""
        written = self.record.written
        probed = {name: nats for name, nats in written.probed.items() if name not in probes}
        return self.record._replace(written=written._replace(probed=probed))

    def usual(self) -> Record:
        """The record of a generation in which only that is due which is due in every one."""
        asked = self._probes(self.loop, 1)
        record = self.without(*(name for name in self.record.written.probed if name not in asked))
        return record._replace(state=record.state._replace(generation=1))

    def trained_on_more(self) -> Record:
        """The record with every training row twice."""
        training = join([self.carry.training, self.carry.training])
        return self.record._replace(state=self.record.state._replace(carry=self.carry._replace(training=training)))

    def tables(self, record: Record) -> dict[str, list[dict]]:
        """All that is measured."""
        return kept_of(record, self.measures, self.system)[1]


def host_trial(loop: Loop, system: System, rows: int) -> HostTrial:
    """Do once with so many rows what the host does in a generation of this loop, but for enumerating all rows."""
    small = _Small(loop, system, rows, False)
    record, pairwise = small.record, system.pairwise()
    arrays, tables = kept_of(record, small.measures, system)  # measures may be compiled for each number of rows
    spent = min(
        (_Small(loop, system, rows, False).seconds for _ in range(_REPEATS)), key=lambda one: one.train + one.sample
    )

    # Of what grows with pairs: the samples, those of them that are right, and the training rows.
    of_samples = _seconds(lambda: pairwise(record.written.points)) if pairwise else 0.0
    of_training = _seconds(lambda: pairwise(small.carry.training.points)) if pairwise else 0.0
    everything, usual, with_more = (
        _seconds(lambda one=one: small.tables(one)) - 2 * of_samples - of_training
        for one in (record, small.usual(), small.trained_on_more())
    )
    trained = max(with_more - everything, 0.0)
    measure_seconds = max(everything - trained, 1e-4)

    generations, seconds = min(loop.config.cycle.generations, _KEPT_GENERATIONS), []
    with tempfile.TemporaryDirectory(prefix="jaxloop_plan_") as temporary:
        path = Path(temporary) / "run"
        with RunFolder(path, small.loop.config, "plan") as folder:
            folder.restore(small.loop, small.measures.tail_rows, lambda message: None)
            for generation in range(generations):
                later = record._replace(state=record.state._replace(generation=generation))
                rows_of = {name: [row | {"generation": generation} for row in table] for name, table in tables.items()}
                folder.save(later, arrays, rows_of)
                seconds.append(_seconds(folder.flush, 1))
        sizes = {kind: [file.stat().st_size for file in path.glob(f"{kind}/**/*") if file.is_file()] for kind in KINDS}
        with RunFolder(Path(temporary) / "together", small.loop.config, "plan") as folder:
            folder.restore(small.loop, small.measures.tail_rows, lambda message: None)
            together = []
            # The first one is written when it comes; then some, and then many.
            for begin, end in itertools.pairwise((0, 1, 1 + _FEW_TOGETHER, 1 + _FEW_TOGETHER + _MANY_TOGETHER)):
                for generation in range(begin, end):
                    later = record._replace(state=record.state._replace(generation=generation))
                    folder.save(later, arrays, tables)
                together.append(_seconds(folder.flush, 1))
    growth = max(float(np.polyfit(range(generations), seconds, 1)[0]), 0.0) if generations > 2 else 0.0
    cost = HostCost(
        learn_seconds=0 if small.trains else spent.train,
        write_seconds=0 if small.trains else spent.sample,
        probe_seconds=0 if small.trains else sum(spent.probes.values()),
        measure_seconds=measure_seconds,
        training_seconds=trained,
        keep_seconds=max(float(np.mean(seconds)) - growth * (generations - 1) / 2, 0),
        keep_more_seconds=max(together[2] - together[1], 0) / (_MANY_TOGETHER - _FEW_TOGETHER),
        prepare_seconds=_seconds(lambda: small.measures.prepare(loop.seed + 1), 1),
        sample_bytes=sum(sizes["samples"]) / generations,
        # Tables stand once more in those of all loops; seals grow as tables do.
        table_bytes=(2 * sum(sizes["tables"]) + sum(sizes["seals"])) / generations,
    )
    often_share = min(max(usual - trained, 0) / measure_seconds, 1.0)
    return HostTrial(rows, cost, often_share, growth, sum(map(len, sizes.values())) - generations)


def whole_trial(loop: Loop, system: System) -> WholeTrial:
    """Do once what is to be done with all rows that there are, where these are few enough to be enumerated."""
    begun = time.perf_counter()
    small, without = (_Small(loop, system, _WHOLE_ROWS, with_whole) for with_whole in (True, False))
    extra = small.seconds.probes.keys() - without.seconds.probes.keys()
    probe_seconds = sum(small.seconds.probes[name] for name in extra)
    begin_seconds = time.perf_counter() - begun - probe_seconds
    of_all, of_few = (_seconds(lambda one=one: small.tables(one)) for one in (small.record, small.without(*extra)))
    return WholeTrial(begin_seconds, 0 if small.trains else probe_seconds, max(of_all - of_few, 0))


def pair_seconds(config: Config, system: System) -> float:
    """Seconds of the distance of one pair of rows of the source; 0 where no pairs are compared."""
    pairwise = system.pairwise()
    if pairwise is None:
        return 0.0
    drawn = system.fresh_rows(config, 0, 0, _PAIRS_ROWS)
    different = len(unique_rows(drawn)[0])
    return _seconds(lambda: pairwise(drawn)) / (different**2 / 2)


def pair_counts(loop: Loop, system: System) -> tuple[float, float]:
    """Pairs of different rows, of all generations of a loop together: of samples, and of training rows.

    What a memoriser writes is followed with numbers for rows; of any other learner it is not known beforehand, and
    taken to be as different as what the source writes, the most of what is likely.
    """
    config, cycle = loop.config, loop.config.cycle
    generations = min(cycle.generations, _MOST_GENERATIONS)
    in_all = sum(memory_of(cycle).training_rows(generation) for generation in range(generations))
    rows = min(cycle.rows, max(cycle.rows * _MOST_ROWS // in_all, 10))
    less = cycle.model_copy(update={"rows": rows})
    config = config.model_copy(update={"cycle": less})
    most, more = system.different_rows(config), cycle.rows / rows
    width = system.row_format(config).bytes
    factors_T = np.random.default_rng(0).integers(2**63, size=width, dtype=np.uint64) * 2 + 1

    def numbers(points: np.ndarray) -> np.ndarray:
        """A number for each row, (N, 1), the same for equal ones."""
        bytes_NxB = np.ascontiguousarray(points).view(np.uint8).reshape(len(points), width)
        return (bytes_NxB.astype(np.uint64) + np.uint64(1)) @ factors_T[:, None]

    def pairs(numbers_Nx1: np.ndarray) -> float:
        return min(len(np.unique(numbers_Nx1)) * more, most) ** 2 / 2

    chance = host_generator(loop.seed, Purpose.CYCLE)
    samples = training = last_samples = last_training = 0.0
    carry = memories.first(less, numbers(system.first_rows(config, loop.seed)))
    written_Nx1 = np.empty((0, 1), np.uint64)
    for generation in range(generations):
        if generation:

            def fresh(count: int, beside: np.ndarray, generation=generation) -> np.ndarray:
                return numbers(system.fresh_rows(config, loop.seed, generation, count))

            carry = memories.following(less, carry, generation, written_Nx1, fresh, chance)
        trained_Nx1 = carry.training.points
        if config.learner.name == "resample":
            written_Nx1 = trained_Nx1[chance.integers(len(trained_Nx1), size=rows)]
        else:
            written_Nx1 = numbers(system.fresh_rows(config, loop.seed + 1, generation, rows))
        last_samples, last_training = pairs(written_Nx1), pairs(trained_Nx1)
        samples, training = samples + last_samples, training + last_training
    left = cycle.generations - generations
    return samples + left * last_samples, training + left * last_training
