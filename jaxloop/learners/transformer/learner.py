"""The transformer as a learner: fitted to rows of tokens, it writes rows of tokens, for many loops at once.

What a learner gives the loop is said in `loop.interfaces.Learner`. Nothing compiles after the first generation.
"""

import collections
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import jax
import numpy as np

from jaxloop.config.schema import Loop
from jaxloop.learners.keys import device_key
from jaxloop.learners.placement import Array, Placement, on_cpu, planned_bytes
from jaxloop.learners.transformer.flat import model_of_the_device
from jaxloop.learners.transformer.packing import RowShape, batch_order, plan, sort_rows, whole_plan
from jaxloop.learners.transformer.sample import Batches, Work, batch_count, make_sample
from jaxloop.learners.transformer.score import Probe, in_order, make_probe, make_score
from jaxloop.learners.transformer.settings import TransformerConfig
from jaxloop.learners.transformer.train import Corpus, Training, TrainingKnobs, looks, make_train
from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.loop.interfaces import Estimate, Seconds, Task, Written
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.memories import memory_of
from jaxloop.loop.rows import row_count

# A device that computes fewer at once is hardly faster than with so many.
_LEAST_POSITIONS = 1024


class Inputs(NamedTuple):
    """All that one loop's programs read."""

    seed: Array
    generation: Array
    knobs: TrainingKnobs
    temperature: Array
    training: Corpus
    validation: Corpus


class Group(NamedTuple):
    """Loops that are computed together, as their programs read them: an axis of places first, on the devices."""

    loops: int
    inputs: Inputs
    active: jax.Array  # which places train a loop
    batches: Batches  # which batches of its loop's samples each place writes


class Samples(NamedTuple):
    """What the loops of a group have sampled, an axis of loops first."""

    tokens_GxNxT: np.ndarray
    log_prob_GxN: np.ndarray
    work: Work


class Started(NamedTuple):
    """Work that is under way on the devices."""

    tasks: int
    steps_done: list[int]  # grows with each look at the validation rows
    result: Future


class Finished(NamedTuple):
    """What the devices gave back, an axis of places or loops first, and how long they took."""

    trained: Training
    samples: Samples
    probed: list[dict[str, np.ndarray]]  # of each loop
    seconds: Seconds


class TransformerLearner:
    """A transformer trained from scratch on each generation's rows.

    Args:
      config: of the loops, which are alike in all but their knobs and seeds.
      loop_count: how many it will have; no more are computed at once.
      count: rows that it writes for each task.
      vocabulary: of the rows.
      typical_NxT: (N, T) uint8 rows like those that it will read, some thousands; they decide nothing but how rows are
        laid out, and so how fast it is, and how its sums are rounded.
    """

    lower = "sample.batch_rows, train.batch_expressions, train.partial_sums, cycle.rows or the model's size"

    def __init__(
        self, config: TransformerConfig, loop_count: int, count: int, vocabulary: Vocabulary, typical_NxT: np.ndarray
    ):
        self._config, self._loop_count, self._count, self._vocabulary = config, loop_count, count, vocabulary
        self._typical_NxT, self.train_settings = typical_NxT, config.train
        self._placement = Placement(config.population, loop_count, config.train.partial_sums)
        self.places, self.loops_per_device = self._placement.places, self._placement.per_device
        self.devices = self.places // self.loops_per_device
        self.shape = choose_shape(config, vocabulary, typical_NxT)
        positions = self.shape.chunk_rows * self.shape.row_tokens * config.train.partial_sums
        self.hints = self._placement.hints("train.partial_sums", positions // _LEAST_POSITIONS)
        cycle, train, width = config.cycle, config.train, config.model.context_tokens
        self._capacities = self._split_sizes(memory_of(cycle).training_rows(cycle.generations - 1))

        model = model_of_the_device(config.model, vocabulary)
        self._nested = model.nested
        begin, train_and_look = make_train(
            train, model, width, self._capacities[1], self.shape, self._placement.sharing
        )
        sample = make_sample(model, count, width, config.sample.batch_rows)
        score = make_score(model, width, self.shape)

        def begin_loop(inputs):
            return begin(device_key(inputs.seed, Purpose.PARAMETERS, inputs.generation), inputs.knobs)

        def train_loop(state, inputs, active):
            dropout_key = device_key(inputs.seed, Purpose.DROPOUT, inputs.generation)
            state = train_and_look(state, dropout_key, inputs.knobs, inputs.training, inputs.validation, active)
            # The step a second time: the state itself is given up to the next call.
            return state, state.step

        def sample_loop(parameters, inputs, batches):
            key = device_key(inputs.seed, Purpose.SAMPLING, inputs.generation)
            return sample(parameters, key, inputs.temperature, batches)

        def score_loop(parameters, inputs, corpus, active):
            return score(parameters, corpus, inputs.temperature, active)

        self._worker = ThreadPoolExecutor(max_workers=1)
        self.begin = self._placement.map(begin_loop)  # inputs -> Training
        self.train = self._placement.map(train_loop, donate=(0,))  # Training, inputs, active -> Training, step
        self.sample = self._placement.map(sample_loop)  # parameters, inputs, batches -> rows, log-probabilities, Work
        self.score = self._placement.map(score_loop)  # parameters, inputs, corpus, active -> nats_2xSxE

    def smaller(self) -> "TransformerLearner | None":
        """A learner of the same loops that computes half as many on each device, or on half as many cores of a CPU."""
        config, loop_count = self._config, self._loop_count
        if self.loops_per_device > 1:
            population = config.population.model_copy(update={"loops_per_device": self.loops_per_device // 2})
            config = config.model_copy(update={"population": population})
        # The devices of a CPU share its memory; two there must be.
        elif on_cpu() and self.devices > 2:
            loop_count = self.devices // 2
        else:
            return None
        return TransformerLearner(config, loop_count, self._count, self._vocabulary, self._typical_NxT)

    def _split_sizes(self, rows: int) -> tuple[int, int]:
        """Rows to train on, and rows to choose the best parameters on."""
        validation = min(max(row_count(self._config.train.validation_share, rows), 1), rows - 1)
        return rows - validation, validation

    def _whole(self, tokens_NxT: np.ndarray, capacity: int) -> Corpus:
        """All of these expressions, as one step."""
        sorted_NxT = sort_rows(tokens_NxT)
        whole = whole_plan(sorted_NxT, self._vocabulary, self.shape.row_tokens, capacity)
        return Corpus(self._padded(sorted_NxT, capacity), whole, np.array(len(tokens_NxT), np.int32))

    def _padded(self, tokens_NxT: np.ndarray, capacity: int) -> np.ndarray:
        missing = ((0, capacity - len(tokens_NxT)), (0, 0))
        return np.pad(tokens_NxT, missing, constant_values=self._vocabulary.end)

    def probe(self, tokens_NxT: np.ndarray) -> Probe:
        """Rows (N, T) uint8 whose probability will be asked for."""
        return make_probe(tokens_NxT, self._vocabulary, self.shape)

    def inputs(self, loop: Loop[TransformerConfig], generation: int, training_NxT: np.ndarray) -> Inputs:
        """All that one loop's programs read, as arrays on the host."""
        train = self._config.train
        split = host_generator(loop.seed, Purpose.VALIDATION_SPLIT, generation)
        shuffled_NxT = training_NxT[split.permutation(len(training_NxT))]
        training_rows, _ = self._split_sizes(len(shuffled_NxT))
        sorted_NxT = sort_rows(shuffled_NxT[:training_rows])
        order = host_generator(loop.seed, Purpose.BATCH_ORDER, generation)
        order_SxE = batch_order(order, training_rows, train.steps, train.batch_expressions)
        training = Corpus(
            self._padded(sorted_NxT, self._capacities[0]),
            plan(sorted_NxT, self._vocabulary, order_SxE, self.shape.row_tokens),
            np.array(training_rows, np.int32),
        )
        validation = self._whole(shuffled_NxT[training_rows:], self._capacities[1])
        knobs = TrainingKnobs(
            learning_rate=np.array(loop.config.train.learning_rate, np.float32),
            weight_decay=np.array(loop.config.train.weight_decay, np.float32),
        )
        return Inputs(
            seed=np.array(loop.seed, np.uint32),
            generation=np.array(generation, np.uint32),
            knobs=knobs,
            temperature=np.array(loop.config.sample.temperature, np.float32),
            training=training,
            validation=validation,
        )

    def device_bytes(self, task: Task[TransformerConfig, Probe]) -> int:
        """Memory that the greediest of the programs takes on each device, with what lies there beside it."""
        inputs = self._placement.shapes(self.inputs(task.loop, task.generation, task.training))
        active, batches = self._placement.shapes(
            (np.bool_(True), Batches(np.array(0, np.int32), np.array(0, np.int32)))
        )
        state = self._placement.results(self.begin, inputs)
        beside = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) // self.devices
        corpora = [self._placement.shapes(probe.corpus) for probe in task.probes.values()]
        needed = [
            planned_bytes(self.train, state, inputs, active),
            planned_bytes(self.sample, state.best_parameters, inputs, batches) + beside,
            *(planned_bytes(self.score, state.best_parameters, inputs, one, active) + beside for one in corpora),
        ]
        return max(needed)

    def estimate(
        self, tasks: Sequence[Task[TransformerConfig, Probe]], due: dict[str, float], growth: float
    ) -> Estimate:
        """Compile the programs, and time a few of their steps; see `loop.interfaces.ModelLearner`."""
        from jaxloop.learners.transformer.trial import Trial

        trial = Trial(self, tasks, due, growth)
        needed, begun = self.device_bytes(tasks[0]), time.perf_counter()
        seconds = trial.generation_seconds()
        return Estimate(trial.parameters, seconds, needed, time.perf_counter() - begun)

    def put(self, members: list[Inputs]) -> Group:
        """Send the loops' inputs to their devices, and divide the work among the places."""
        loops = len(members)
        batches = batch_count(self._count, self._config.sample.batch_rows)

        def share(place: int) -> tuple[np.bool_, Batches]:
            """Whether the place trains, and what it samples: without a loop of its own, it helps another one."""
            helper, helpers = place // loops, len(range(place % loops, self.places, loops))
            first, end = helper * batches // helpers, (helper + 1) * batches // helpers
            written = Batches(np.array(first, np.int32), np.array(end - first, np.int32))
            return np.bool_(place < loops), written

        shares = self._placement.put([share(place) for place in range(self.places)])
        return Group(loops, self._placement.put(members), *shares)

    def sample_rows(self, parameters: dict, group: Group) -> Samples:
        """Sample every loop's rows from its parameters."""
        if group.loops < self.places:
            parameters = self._placement.repeat(parameters, group.loops)
        tokens, log_prob, work = jax.device_get(self.sample(parameters, group.inputs, group.batches))
        # What a place did not write is `<eos>`, the greatest token, with a log-probability of 0, the greatest one.
        shares = [slice(loop, None, group.loops) for loop in range(group.loops)]
        return Samples(
            tokens_GxNxT=np.stack([tokens[share].min(axis=0) for share in shares]),
            log_prob_GxN=np.stack([log_prob[share].min(axis=0) for share in shares]).astype(np.float64),
            work=Work(*(int(np.sum(tokens)) for tokens in work)),
        )

    def corpora(self, probes: list[Probe]) -> Corpus:
        """Send each loop's probe to its device."""
        return self._placement.put([probe.corpus for probe in probes])

    def score_rows(self, parameters: dict, group: Group, probes: list[Probe]) -> list[np.ndarray]:
        """Each loop's log-probabilities of the rows of its probe, (2, N) nats: plain, and tempered as samples are."""
        nats = self.score(parameters, group.inputs, self.corpora(probes), group.active)
        return [in_order(probe, loop_nats) for probe, loop_nats in zip(probes, np.asarray(nats), strict=False)]

    def start(self, tasks: Sequence[Task[TransformerConfig, Probe]]) -> Started:
        """Train a model for each task, sample it and score its probes; returns while the devices work.

        Args:
          tasks: at most `places` of them; training rows are (N, T) uint8.

        Raises:
          ValueError: a task wants another number of rows than the sampler was compiled for.
        """
        if any(task.count != self._count for task in tasks):
            raise ValueError(f"this learner writes {self._count} rows a task")
        members = [self.inputs(task.loop, task.generation, task.training) for task in tasks]
        steps_done = []
        work = self._worker.submit(self._work, members, [task.probes for task in tasks], steps_done)
        return Started(len(tasks), steps_done, work)

    def _work(self, members: list[Inputs], probes: list[Mapping[str, Probe]], steps_done: list[int]) -> Finished:
        """Train, sample and score on the devices; runs in a thread of its own, so that the host can measure."""
        begun = time.perf_counter()
        group = self.put(members)
        state = self.begin(group.inputs)
        waiting = collections.deque()
        for _ in range(looks(self._config.train)):
            state, step = self.train(state, group.inputs, group.active)
            waiting.append(step)
            # The devices always have the next call already when the host looks at how far the last one came.
            if len(waiting) > 1:
                steps_done.append(int(np.asarray(waiting.popleft()).max()))
            if len(steps_done) > 1 and steps_done[-2] == steps_done[-1]:
                break  # Every loop's patience has run out.
        jax.block_until_ready(state)
        trained = time.perf_counter()
        samples = self.sample_rows(state.best_parameters, group)
        probed, probe_seconds = [{} for _ in members], {}
        sampled = time.perf_counter()
        for name in dict.fromkeys(name for of_loop in probes for name in of_loop):
            begun_probe = time.perf_counter()
            asked = next(of_loop[name] for of_loop in probes if name in of_loop)
            nats = self.score_rows(state.best_parameters, group, [of_loop.get(name, asked) for of_loop in probes])
            for found, of_loop, loop_nats in zip(probed, probes, nats, strict=True):
                if name in of_loop:
                    found[name] = loop_nats
            probe_seconds[name] = time.perf_counter() - begun_probe
        seconds = Seconds(trained - begun, sampled - trained, probe_seconds)
        return Finished(jax.device_get(state), samples, probed, seconds)

    def compile(self, loop: Loop[TransformerConfig], training_NxT: np.ndarray, probes: list[Probe]) -> None:
        """Compile every program before `start` does, and run each once."""
        group = self.put([self.inputs(loop, 0, training_NxT)])
        state, _ = self.train(self.begin(group.inputs), group.inputs, group.active)
        self.sample_rows(state.best_parameters, group)
        for probe in probes:
            self.score_rows(state.best_parameters, group, [probe])

    def finish(self, started: Started, watch: Callable[[float], None]) -> tuple[list[Written], Seconds]:
        """Wait for what was started.

        Args:
          started: what `start` gave.
          watch: called at least once, and again and again while waiting, with the share of the training steps done.

        Returns:
          What was written for each task, and how long it took.
        """
        done = False
        while not done:
            watch(max(started.steps_done, default=0) / self._config.train.steps)
            done = bool(wait([started.result], timeout=0.1).done)
        finished = started.result.result()
        trained, samples = finished.trained, finished.samples
        written = []
        for place in range(started.tasks):
            training_nats, validation_nats = (
                float(nats[place]) for nats in (trained.training_nats, trained.best_validation_nats)
            )
            written.append(
                Written(
                    points=samples.tokens_GxNxT[place],
                    log_prob_N=samples.log_prob_GxN[place],
                    probed=finished.probed[place],
                    columns={
                        "validation_nats": validation_nats,
                        "training_nats_per_token": training_nats,
                        "training_steps": int(trained.step[place]),
                    },
                    parameters=self._nested(
                        jax.tree.map(lambda leaf, place=place: leaf[place], trained.best_parameters)
                    ),
                    diverged=not (np.isfinite(training_nats) and np.isfinite(validation_nats)),
                )
            )
        return written, finished.seconds


def choose_shape(config: TransformerConfig, vocabulary: Vocabulary, typical_NxT: np.ndarray) -> RowShape:
    """How the learner lays out its rows: long ones repeat fewer beginnings, but their attention costs more.

    The length is the setting, or what needs the fewest multiplications for rows like the typical ones. On a CPU a chunk
    is what a core's cache holds, and at most half of a usual step, so that steps with less to read cost less; on
    accelerators it is what 99 of 100 usual steps fill at most, or its part of that where a step has partial sums.
    """
    width, context, batch = config.model.width, config.model.context_tokens, config.train.batch_expressions
    sorted_NxT = sort_rows(typical_NxT)

    def row_counts(row_tokens: int, steps: int) -> np.ndarray:
        order_SxE = batch_order(np.random.default_rng(0), len(sorted_NxT), steps, batch)
        return np.asarray(plan(sorted_NxT, vocabulary, order_SxE, row_tokens).row_count_S)

    def multiplications(row_tokens: int) -> float:
        rows = float(np.mean(row_counts(row_tokens, 20)))
        return rows * row_tokens * (12 * width**2 + 2 * row_tokens * width)

    lengths = [config.train.row_tokens] if config.train.row_tokens else [context * 2**power for power in range(4)]
    row_tokens = min(lengths, key=multiplications)
    if on_cpu():
        chunk_rows = min(256 // row_tokens, math.ceil(np.mean(row_counts(row_tokens, 20)) / 2))
        return RowShape(row_tokens, max(chunk_rows, 1))
    # Alike in size, and as few as the device has room for.
    rows_S, sums = row_counts(row_tokens, min(200, config.train.steps)), config.train.partial_sums
    most = math.ceil(np.quantile(rows_S, 0.99))
    turns = math.ceil(most * row_tokens / sums / 16_384)
    chunk_rows = math.ceil(most / sums / turns)
    # Large products of matrices like sizes that are multiples of something.
    return RowShape(row_tokens, chunk_rows if chunk_rows < 64 else -(-chunk_rows // 8) * 8)
