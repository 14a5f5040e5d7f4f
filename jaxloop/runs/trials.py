"""Small trials of what a run does: a few steps of its programs, and its measures on a few rows.

Legend: N rows, T tokens a row.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxloop.config.schema import Config, Loop
from jaxloop.layout import KINDS
from jaxloop.learners.transformer.learner import TransformerLearner
from jaxloop.learners.transformer.sample import Batches
from jaxloop.learners.transformer.train import looks
from jaxloop.loop import memories
from jaxloop.loop.interfaces import Record, State
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.memories import memory_of
from jaxloop.loop.rows import unique_rows
from jaxloop.loop.run_loops import next_carry
from jaxloop.runs import runner
from jaxloop.runs.costs import expression_count
from jaxloop.runs.folder import RunFolder
from jaxloop.runs.programs import Program
from jaxloop.systems.logic import measures, source
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.learners import reference_learner
from jaxloop.systems.logic.yardsticks import REAL, WHOLE, Yardsticks, probes_of

_TRAINING_SECONDS = 0.5
_REPEATS = 3
_PAIRS_ROWS = 5000
_KEPT_GENERATIONS, _WHOLE_ROWS = 24, 100
# Of the generations that are followed, and of all their rows together.
_MOST_GENERATIONS, _MOST_ROWS = 60, 1_000_000


class DeviceTrial:
    """A program's first loops with their real rows, and models that have taken a few steps."""

    def __init__(self, program: Program, learner: TransformerLearner, yardsticks: dict[int, Yardsticks]):
        """Compile everything, and run it once with nothing to do."""
        self._learner, self._train = learner, program.config.train
        computed = program.loops[: learner.places]
        rows = [source.first_rows(loop.config, loop.seed) for loop in computed]
        self._group = learner.put(
            [learner.inputs(loop, 0, of_loop) for loop, of_loop in zip(computed, rows, strict=True)]
        )
        probes = probes_of(yardsticks, learner)
        self._probes = [probes(loop, 0) for loop in computed]
        self._state = learner.begin(self._group.inputs)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.parameters)) // learner.places
        # Validation rows grow with the training rows, on average to so many times those of generation 0.
        cycle = program.config.cycle
        generations = range(cycle.generations)
        mean_rows = np.mean([memory_of(cycle).training_rows(generation) for generation in generations])
        self._growth = float(mean_rows / memory_of(cycle).training_rows(0))
        # Of each probe, the share of the generations in which it is asked for.
        asked = [probes(computed[0], generation) for generation in generations]
        self._due = {name: float(np.mean([name in names for names in asked])) for name in self._probes[0]}
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
        few = jax.device_put(np.minimum(count, batches), count.sharding)
        group = self._group._replace(batches=Batches(first, few))
        return _seconds(lambda: self._learner.sample_rows(self._state.best_parameters, group), 1)

    def _score(self, active: np.ndarray | jax.Array) -> float:
        """Seconds to score every probe as often as it is asked for, in the places that are active."""
        group = self._group._replace(active=jax.device_put(active, self._group.active.sharding))

        def score(name: str) -> None:
            self._learner.score_rows(self._state.best_parameters, group, [of_loop[name] for of_loop in self._probes])

        return sum(share * _seconds(lambda name=name: score(name), 1) for name, share in self._due.items())


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

    learn_seconds: float  # a reference learner with as many training rows
    write_seconds: float
    probe_seconds: float  # a reference learner with twice as many real rows
    measure_seconds: float  # all but distances of pairs
    training_seconds: float  # the same of the training rows
    keep_seconds: float
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
    """What is to be done with the whole of a language, in a generation of a loop or once."""

    begin_seconds: float
    probe_seconds: float  # a reference learner
    measure_seconds: float


class _Small:
    """The first generation of a loop with fewer rows; a memoriser stands for models."""

    def __init__(self, loop: Loop, rows: int, enumerate_every_generations: int):
        measure = {"held_out_rows": rows, "enumerate_every_generations": enumerate_every_generations}
        config = loop.config.model_copy(
            update={
                "cycle": loop.config.cycle.model_copy(update={"rows": rows}),
                "measure": loop.config.measure.model_copy(update=measure),
            }
        )
        self.trains = config.learner.name == "transformer"
        if self.trains:
            config = config.model_copy(update={"learner": config.learner.model_copy(update={"name": "resample"})})
        self.loop = loop._replace(config=config)
        self.yardsticks = Yardsticks(config)
        self.carry = next_carry(self.loop, None, source)
        learner = reference_learner()
        self._probes = self.yardsticks.probes(learner)
        started = learner.start([self.loop], [0], [self.carry.training.points], [self._probes(self.loop, 0)])
        (outcome,), self.seconds = learner.finish(started, lambda share: None)
        if self.trains:  # What a model writes is about as different as what the source does.
            outcome = outcome._replace(sampled_NxT=self.carry.training.points)
        self.record = Record(self.loop, State(0, self.carry, outcome.sampled_NxT), outcome, self.seconds)

    def without(self, *probes: str) -> Record:
        """The record without the answers to these probes."""
        outcome = self.record.outcome
        probed = {name: nats for name, nats in outcome.probed.items() if name not in probes}
        return self.record._replace(outcome=outcome._replace(probed=probed))

    def usual(self) -> Record:
        """The record of a generation in which only that is due which is due in every one."""
        asked = self._probes(self.loop, 1)
        record = self.without(*(name for name in self.record.outcome.probed if name not in asked))
        return record._replace(state=record.state._replace(generation=1))


def host_trial(loop: Loop, rows: int) -> HostTrial:
    """Do once with so many rows what the host does in a generation of this loop, but for the whole language."""
    small = _Small(loop, rows, 0)
    record, yardsticks, training = small.record, small.yardsticks, small.carry.training
    judgement, tables = runner.tables_of(record, yardsticks)  # the judge is compiled for each number of rows
    spent = min((_Small(loop, rows, 0).seconds for _ in range(_REPEATS)), key=lambda one: one.train + one.sample)

    of_samples = _seconds(lambda: measures.diversity(record.state.sampled_NxT))
    of_training = _seconds(lambda: measures.diversity(training.points))
    trained = _seconds(lambda: measures.measure_training(record.state.sampled_NxT, training)) - of_training
    everything, usual = (
        _seconds(lambda one=one: runner.tables_of(one, yardsticks)) - 2 * of_samples - of_training - trained
        for one in (record, small.usual())
    )
    measure_seconds = max(everything, 1e-4)

    generations, seconds = min(loop.config.cycle.generations, _KEPT_GENERATIONS), []
    with tempfile.TemporaryDirectory(prefix="jaxloop_plan_") as temporary:
        path = Path(temporary) / "run"
        with RunFolder(path, small.loop.config, "plan") as folder:
            folder.restore(small.loop, yardsticks.tail_rows, lambda message: None)
            for generation in range(generations):
                later = record._replace(state=record.state._replace(generation=generation))
                rows_of = {name: [row | {"generation": generation} for row in table] for name, table in tables.items()}
                seconds.append(_seconds(lambda one=later, rows_of=rows_of: folder.save(one, judgement, rows_of), 1))
        sizes = {kind: [file.stat().st_size for file in path.glob(f"{kind}/**/*") if file.is_file()] for kind in KINDS}
    growth = max(float(np.polyfit(range(generations), seconds, 1)[0]), 0.0) if generations > 2 else 0.0
    cost = HostCost(
        learn_seconds=0 if small.trains else spent.train,
        write_seconds=0 if small.trains else spent.sample,
        probe_seconds=0 if small.trains else spent.probes.get(REAL, 0.0),
        measure_seconds=measure_seconds,
        training_seconds=max(trained, 0),
        keep_seconds=max(float(np.mean(seconds)) - growth * (generations - 1) / 2, 0),
        prepare_seconds=_seconds(lambda: yardsticks.real_rows(loop.seed + 1), 1),
        sample_bytes=sum(sizes["samples"]) / generations,
        # Tables stand once more in those of all loops; seals grow as tables do.
        table_bytes=(2 * sum(sizes["tables"]) + sum(sizes["seals"])) / generations,
    )
    often_share = min(max(usual, 0) / measure_seconds, 1.0)
    return HostTrial(rows, cost, often_share, growth, sum(map(len, sizes.values())) - generations)


def whole_trial(loop: Loop) -> WholeTrial:
    """Do once what is to be done with the whole of a language that is small enough for it."""
    begun = time.perf_counter()
    small = _Small(loop, _WHOLE_ROWS, 1)
    probe_seconds = small.seconds.probes[WHOLE]
    begin_seconds = time.perf_counter() - begun - probe_seconds
    with_whole, without = (
        _seconds(lambda one=one: runner.tables_of(one, small.yardsticks))
        for one in (small.record, small.without(WHOLE))
    )
    return WholeTrial(begin_seconds, 0 if small.trains else probe_seconds, max(with_whole - without, 0))


def pair_seconds(config: Config) -> float:
    """Seconds of the distance of one pair of expressions of the language."""
    drawn_NxT = language_of(config.language).draw(np.random.default_rng(0), _PAIRS_ROWS)
    different = len(unique_rows(drawn_NxT)[0])
    return _seconds(lambda: measures.diversity(drawn_NxT)) / (different**2 / 2)


def pair_counts(loop: Loop) -> tuple[float, float]:
    """Pairs of different rows, of all generations of a loop together: of samples, and of training rows.

    What a memoriser writes is followed with numbers for expressions; of any other learner it is not known beforehand,
    and taken to be as different as what the source writes, the most of what is likely.
    """
    config, cycle = loop.config, loop.config.cycle
    generations = min(cycle.generations, _MOST_GENERATIONS)
    in_all = sum(memory_of(cycle).training_rows(generation) for generation in range(generations))
    rows = min(cycle.rows, max(cycle.rows * _MOST_ROWS // in_all, 10))
    less = cycle.model_copy(update={"rows": rows})
    config = config.model_copy(update={"cycle": less})
    most, more = expression_count(config.language), cycle.rows / rows
    factors_T = np.random.default_rng(0).integers(2**63, size=config.model.context_tokens, dtype=np.uint64) * 2 + 1

    def numbers(tokens_NxT: np.ndarray) -> np.ndarray:
        """A number for each row, (N, 1), the same for equal ones."""
        return (tokens_NxT.astype(np.uint64) + np.uint64(1)) @ factors_T[:, None]

    def pairs(numbers_Nx1: np.ndarray) -> float:
        return min(len(np.unique(numbers_Nx1)) * more, most) ** 2 / 2

    chance = host_generator(loop.seed, Purpose.CYCLE)
    samples = training = last_samples = last_training = 0.0
    carry = written_Nx1 = None
    for generation in range(generations):
        if carry is None:
            carry = memories.first(less, numbers(source.first_rows(config, loop.seed)))
        else:

            def fresh(count: int, generation=generation) -> np.ndarray:
                return numbers(source.fresh_rows(config, loop.seed, generation, count))

            carry = memories.following(less, carry, generation, written_Nx1, fresh, chance)
        trained_Nx1 = carry.training.points
        if config.learner.name == "resample":
            written_Nx1 = trained_Nx1[chance.integers(len(trained_Nx1), size=rows)]
        else:
            written_Nx1 = numbers(source.fresh_rows(config, loop.seed + 1, generation, rows))
        last_samples, last_training = pairs(written_Nx1), pairs(trained_Nx1)
        samples, training = samples + last_samples, training + last_training
    left = cycle.generations - generations
    return samples + left * last_samples, training + left * last_training
