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

from jaxloop import cycles, metrics, runner, source
from jaxloop.config import Config, Loop
from jaxloop.costs import expression_count
from jaxloop.cycles import rows_of_generation
from jaxloop.keys import Purpose, host_generator
from jaxloop.language import language_of
from jaxloop.learner import TransformerLearner
from jaxloop.loop import Record, State, next_carry
from jaxloop.programs import Program
from jaxloop.references import ReferenceLearner
from jaxloop.store import RunFolder
from jaxloop.train import looks
from jaxloop.vocabulary import unique_rows
from jaxloop.yardsticks import REAL, WHOLE, Yardsticks, probes_of

_TRAINING_SECONDS = 0.5
_PAIRS_ROWS = 5000
_KEPT_GENERATIONS = 24
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
        mean_rows = np.mean([rows_of_generation(cycle, generation) for generation in generations])
        self._growth = float(mean_rows / rows_of_generation(cycle, 0))
        # Of each probe, the share of the generations in which it is asked for.
        asked = [probes(computed[0], generation) for generation in generations]
        self._due = {name: float(np.mean([name in names for names in asked])) for name in self._probes[0]}
        self._train_steps(0)
        self._sample()
        self._score()

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
        return _seconds(lambda: self._learner.sample_rows(self._state.best_parameters, self._group))

    def _score(self) -> float:
        """Seconds to score every probe as often as it is asked for."""
        return sum(
            share
            * _seconds(
                lambda name=name: self._learner.score_rows(
                    self._state.best_parameters, self._group, [of_loop[name] for of_loop in self._probes]
                )
            )
            for name, share in self._due.items()
        )


def _seconds(act: Callable[[], object], repeats: int = 1) -> float:
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
    measure_seconds: float  # all but distances of pairs, where all of it is due
    training_seconds: float  # the same of the training rows
    keep_seconds: float
    prepare_seconds: float  # real rows, of each seed
    sample_bytes: float
    table_bytes: float


class HostTrial(NamedTuple):
    """A generation of a loop as the host has it, with fewer rows than the run's."""

    rows: int
    cost: HostCost
    often_share: float  # of the seconds of measuring, what is measured in every generation
    keep_growth_seconds: float  # so much more is kept with every generation
    whole_seconds: float  # a reference learner with the whole language, where that is due
    begin_seconds: float  # what all seeds share
    files: int  # of a loop, beside one for each generation


def host_trial(loop: Loop, rows: int) -> HostTrial:
    """Do once with so many rows what the host does in a generation of this loop; models are not trained."""
    config = loop.config.model_copy(
        update={
            "cycle": loop.config.cycle.model_copy(update={"rows": rows}),
            "measure": loop.config.measure.model_copy(update={"held_out_rows": rows}),
        }
    )
    trains = config.learner.name == "transformer"
    if trains:
        config = config.model_copy(update={"learner": config.learner.model_copy(update={"name": "resample"})})
    loop = loop._replace(config=config)
    begun = time.perf_counter()
    yardsticks = Yardsticks(config)
    begin_seconds = time.perf_counter() - begun
    prepare_seconds = _seconds(lambda: yardsticks.real_rows(loop.seed))

    learner, carry = ReferenceLearner(language_of(config.language)), next_carry(loop, None, source)
    probes = yardsticks.probes(learner)
    real_NxT = carry.training.tokens_NxT
    (outcome,), spent = learner.finish(learner.start([loop], [0], [real_NxT], [probes(loop, 0)]), lambda share: None)
    if trains:  # What a model writes is about as different as what the source does.
        outcome = outcome._replace(sampled_NxT=real_NxT)
    record = Record(loop, State(0, carry, outcome.sampled_NxT), outcome, spent)
    asked = probes(loop, 1)
    often = record._replace(
        state=record.state._replace(generation=1),
        outcome=outcome._replace(probed={name: nats for name, nats in outcome.probed.items() if name in asked}),
    )
    judgement, tables = runner.tables_of(record, yardsticks)  # the judge is compiled for each number of rows
    sampled = _seconds(lambda: metrics.diversity(outcome.sampled_NxT), 2)
    real = _seconds(lambda: metrics.diversity(real_NxT), 2)
    training = max(_seconds(lambda: metrics.measure_training(outcome.sampled_NxT, carry.training), 2) - real, 0)
    whole, part = (
        max(_seconds(lambda one=one: runner.tables_of(one, yardsticks), 2) - 2 * sampled - real - training, 1e-4)
        for one in (record, often)
    )

    with tempfile.TemporaryDirectory(prefix="jaxloop_plan_") as temporary:
        path, seconds = Path(temporary) / "run", []
        generations = min(config.cycle.generations, _KEPT_GENERATIONS)
        with RunFolder(path, config, "plan") as folder:
            folder.restore(loop, yardsticks.tail_rows, lambda message: None)
            for generation in range(generations):
                kept = record._replace(state=record.state._replace(generation=generation))
                of_generation = {
                    name: [row | {"generation": generation} for row in rows] for name, rows in tables.items()
                }
                seconds.append(_seconds(lambda kept=kept, rows=of_generation: folder.save(kept, judgement, rows)))
        sizes = {
            kind: [file.stat().st_size for file in path.glob(f"{kind}/**/*") if file.is_file()]
            for kind in ("samples", "tables", "checkpoints")
        }
    growth = max(np.polyfit(range(generations), seconds, 1)[0], 0.0) if generations > 2 else 0.0
    cost = HostCost(
        learn_seconds=0 if trains else spent.train,
        write_seconds=0 if trains else spent.sample,
        probe_seconds=0 if trains else spent.probes.get(REAL, 0.0),
        measure_seconds=whole,
        training_seconds=training,
        keep_seconds=max(float(np.mean(seconds)) - growth * (generations - 1) / 2, 0),
        prepare_seconds=prepare_seconds,
        sample_bytes=sum(sizes["samples"]) / generations,
        table_bytes=2 * sum(sizes["tables"]) / generations,  # once more in the tables of all loops
    )
    files = sum(map(len, sizes.values())) - generations
    return HostTrial(
        rows=rows,
        cost=cost,
        often_share=min(part / whole, 1.0),
        keep_growth_seconds=float(growth),
        whole_seconds=0 if trains else spent.probes.get(WHOLE, 0.0),
        begin_seconds=begin_seconds,
        files=files,
    )


def pair_seconds(config: Config) -> float:
    """Seconds of the distance of one pair of expressions of the language."""
    drawn_NxT = language_of(config.language).draw(np.random.default_rng(0), _PAIRS_ROWS)
    different = len(unique_rows(drawn_NxT)[0])
    return _seconds(lambda: metrics.diversity(drawn_NxT), 2) / (different**2 / 2)


def pair_counts(loop: Loop) -> tuple[float, float]:
    """Pairs of different rows, of all generations of a loop together: of samples, and of training rows.

    What a memoriser writes is followed with numbers for expressions; of any other learner it is not known beforehand,
    and taken to be as different as what the source writes, the most of what is likely.
    """
    config, cycle = loop.config, loop.config.cycle
    generations = min(cycle.generations, _MOST_GENERATIONS)
    in_all = sum(rows_of_generation(cycle, generation) for generation in range(generations))
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
            carry = cycles.first(less, numbers(source.first_rows(config, loop.seed)))
        else:

            def fresh(count: int, generation=generation) -> np.ndarray:
                return numbers(source.fresh_rows(config, loop.seed, generation, count))

            carry = cycles.following(less, carry, generation, written_Nx1, fresh, chance)
        trained_Nx1 = carry.training.tokens_NxT
        if config.learner.name == "resample":
            written_Nx1 = trained_Nx1[chance.integers(len(trained_Nx1), size=rows)]
        else:
            written_Nx1 = numbers(source.fresh_rows(config, loop.seed + 1, generation, rows))
        last_samples, last_training = pairs(written_Nx1), pairs(trained_Nx1)
        samples, training = samples + last_samples, training + last_training
    left = cycle.generations - generations
    return samples + left * last_samples, training + left * last_training
