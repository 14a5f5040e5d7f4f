"""The transformer as a learner: fitted to rows of tokens, it writes rows of tokens, for many loops at once.

Any learner gives the loop three things: `places`, how many loops it takes at once; `start`, which sets the work going
and returns at once; and `finish`, which waits for it. Nothing after the first generation compiles anything.
"""

import collections
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import jax
import numpy as np

from jaxloop.config import Config, Loop
from jaxloop.cycles import row_count, rows_of_generation
from jaxloop.keys import Purpose, device_key, host_generator
from jaxloop.language import language_of
from jaxloop.model import make_model
from jaxloop.packing import RowShape, batch_order, plan, sort_rows, whole_plan
from jaxloop.population import Placement
from jaxloop.sample import Batches, Work, batch_count, make_sample
from jaxloop.train import Corpus, Training, TrainingKnobs, looks, make_evaluate, make_train
from jaxloop.vocabulary import EOS


class Outcome(NamedTuple):
    """What one loop's learner gives back for one generation."""

    sampled_NxT: np.ndarray  # uint8, all n rows that were started, finished
    held_out_nats: float  # per expression, on real rows that no model trains on
    validation_nats: float  # per expression, at the look that chose the parameters
    training_nats: float  # per token, at the last step
    steps: int  # of training taken
    parameters: dict

    @property
    def diverged(self) -> bool:
        """Whether training ended in a loss that is not a number."""
        return not (np.isfinite(self.training_nats) and np.isfinite(self.validation_nats))


class Inputs(NamedTuple):
    """All that one loop's programs read."""

    seed: np.ndarray
    generation: np.ndarray
    knobs: TrainingKnobs
    temperature: np.ndarray
    training: Corpus
    validation: Corpus
    held_out: Corpus


class Group(NamedTuple):
    """Loops that are computed together, as their programs read them: an axis of places first, on the devices."""

    loops: int
    inputs: Inputs
    active: jax.Array  # which places train a loop
    batches: Batches  # which batches of its loop's samples each place writes


class Started(NamedTuple):
    """Work that is under way on the devices."""

    loops: list[Loop]
    generation: int
    steps_done: list[int]  # grows with each look at the validation rows
    result: Future


class Finished(NamedTuple):
    """What the devices gave back, an axis of places first, and how long they took."""

    trained: Training
    sampled: np.ndarray  # of loops only
    held_out_nats: np.ndarray
    train_seconds: float
    sample_seconds: float


class TransformerLearner:
    """A transformer trained from scratch on each generation's rows."""

    def __init__(self, config: Config, loop_count: int):
        self._config = config
        self._placement = Placement(config.population, loop_count)
        self.places = self._placement.places
        self.shape = choose_shape(config)
        cycle, train, width = config.cycle, config.train, config.model.context_tokens
        self._capacities = self._split_sizes(rows_of_generation(cycle, cycle.generations - 1))
        self._held_out = {}

        model = make_model(config.model)
        begin, train_and_look = make_train(train, model, width, self._capacities[1], self.shape)
        sample = make_sample(model, cycle.rows, width, config.sample.batch_rows)
        evaluate = make_evaluate(model, width, config.measure.held_out_rows, self.shape)

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

        def evaluate_loop(parameters, inputs, active):
            return evaluate(parameters, inputs.held_out, active)

        self._worker = ThreadPoolExecutor(max_workers=1)
        self.begin = self._placement.map(begin_loop)  # inputs -> Training
        self.train = self._placement.map(train_loop, donate=(0,))  # Training, inputs, active -> Training, step
        self.sample = self._placement.map(sample_loop)  # parameters, inputs, batches -> rows, Work
        self.evaluate = self._placement.map(evaluate_loop)  # parameters, inputs, active -> held-out nats

    def _split_sizes(self, rows: int) -> tuple[int, int]:
        """Rows to train on, and rows to choose the best parameters on."""
        validation = min(max(row_count(self._config.train.validation_share, rows), 1), rows - 1)
        return rows - validation, validation

    def _whole(self, tokens_NxT: np.ndarray, capacity: int) -> Corpus:
        """All of these expressions, as one step."""
        sorted_NxT = sort_rows(tokens_NxT)
        whole = whole_plan(sorted_NxT, self.shape.row_tokens, capacity)
        return Corpus(_padded(sorted_NxT, capacity), whole, np.int32(len(tokens_NxT)))

    def inputs(self, loop: Loop, generation: int, training_NxT: np.ndarray, held_out_HxT: np.ndarray) -> Inputs:
        """All that one loop's programs read, as arrays on the host."""
        train = self._config.train
        split = host_generator(loop.seed, Purpose.VALIDATION_SPLIT, generation)
        shuffled_NxT = training_NxT[split.permutation(len(training_NxT))]
        training_rows, _ = self._split_sizes(len(shuffled_NxT))
        sorted_NxT = sort_rows(shuffled_NxT[:training_rows])
        order = host_generator(loop.seed, Purpose.BATCH_ORDER, generation)
        order_SxE = batch_order(order, training_rows, train.steps, train.batch_expressions)
        training = Corpus(
            _padded(sorted_NxT, self._capacities[0]),
            plan(sorted_NxT, order_SxE, self.shape.row_tokens),
            np.int32(training_rows),
        )
        validation = self._whole(shuffled_NxT[training_rows:], self._capacities[1])
        if loop.seed not in self._held_out:
            self._held_out[loop.seed] = self._whole(held_out_HxT, len(held_out_HxT))
        knobs = TrainingKnobs(
            learning_rate=np.float32(loop.config.train.learning_rate),
            weight_decay=np.float32(loop.config.train.weight_decay),
        )
        return Inputs(
            seed=np.uint32(loop.seed),
            generation=np.uint32(generation),
            knobs=knobs,
            temperature=np.float32(loop.config.sample.temperature),
            training=training,
            validation=validation,
            held_out=self._held_out[loop.seed],
        )

    def put(self, members: list[Inputs]) -> Group:
        """Send the loops' inputs to their devices, and divide the work among the places."""
        loops = len(members)
        batches = batch_count(self._config.cycle.rows, self._config.sample.batch_rows)

        def share(place: int) -> tuple[np.bool_, Batches]:
            """Whether the place trains, and what it samples: without a loop of its own, it helps another one."""
            helper, helpers = place // loops, len(range(place % loops, self.places, loops))
            first, end = helper * batches // helpers, (helper + 1) * batches // helpers
            return np.bool_(place < loops), Batches(np.int32(first), np.int32(end - first))

        shares = self._placement.put([share(place) for place in range(self.places)])
        return Group(loops, self._placement.put(members), *shares)

    def sample_rows(self, parameters: dict, group: Group) -> tuple[np.ndarray, Work]:
        """Sample every loop's rows from its parameters, (loops, n, T), and what that took."""
        if group.loops < self.places:
            parameters = self._placement.repeat(parameters, group.loops)
        tokens_PxNxT, work = jax.device_get(self.sample(parameters, group.inputs, group.batches))
        # What a place did not write is `<eos>`, the greatest token.
        rows = [tokens_PxNxT[loop :: group.loops].min(axis=0) for loop in range(group.loops)]
        return np.stack(rows), Work(*(int(np.sum(tokens)) for tokens in work))

    def start(
        self, loops: list[Loop], generation: int, training: list[np.ndarray], held_out: list[np.ndarray]
    ) -> Started:
        """Train each loop's model on its rows and sample it; returns while the devices work.

        Args:
          loops: at most `places` of them.
          generation: which one.
          training: each loop's training rows, (N, T) uint8.
          held_out: each loop's held-out real rows, (H, T) uint8.
        """
        members = [self.inputs(loop, generation, *rows) for loop, *rows in zip(loops, training, held_out, strict=True)]
        steps_done = []
        return Started(loops, generation, steps_done, self._worker.submit(self._work, members, steps_done))

    def _work(self, members: list[Inputs], steps_done: list[int]) -> Finished:
        """Train and sample on the devices; runs in a thread of its own, so that the host can measure meanwhile."""
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
        sampled, _ = self.sample_rows(state.best_parameters, group)
        finished = time.perf_counter()
        held_out_nats = np.asarray(self.evaluate(state.best_parameters, group.inputs, group.active))
        return Finished(jax.device_get(state), sampled, held_out_nats, trained - begun, finished - trained)

    def compile(self, loop: Loop, training_NxT: np.ndarray, held_out_HxT: np.ndarray) -> None:
        """Compile every program before `start` does, and run each once."""
        group = self.put([self.inputs(loop, 0, training_NxT, held_out_HxT)])
        state, _ = self.train(self.begin(group.inputs), group.inputs, group.active)
        self.sample_rows(state.best_parameters, group)
        jax.block_until_ready(self.evaluate(state.best_parameters, group.inputs, group.active))

    def finish(self, started: Started, watch: Callable[[float], None]) -> tuple[list[Outcome], float, float]:
        """Wait for what was started.

        Args:
          started: what `start` gave.
          watch: called at least once, and again and again while waiting, with the share of the training steps done.

        Returns:
          An Outcome for each loop, seconds of training, and seconds of sampling.
        """
        done = False
        while not done:
            watch(max(started.steps_done, default=0) / self._config.train.steps)
            done = bool(wait([started.result], timeout=0.1).done)
        finished = started.result.result()
        outcomes = [
            Outcome(
                sampled_NxT=finished.sampled[place],
                held_out_nats=float(finished.held_out_nats[place]),
                validation_nats=float(finished.trained.best_validation_nats[place]),
                training_nats=float(finished.trained.training_nats[place]),
                steps=int(finished.trained.step[place]),
                parameters=jax.tree.map(lambda leaf, place=place: leaf[place], finished.trained.best_parameters),
            )
            for place in range(len(started.loops))
        ]
        return outcomes, finished.train_seconds, finished.sample_seconds


def choose_shape(config: Config) -> RowShape:
    """How the learner lays out its rows: long ones repeat fewer beginnings, but their attention costs more.

    The length is the setting, or what needs the fewest multiplications for the language. On a CPU a chunk is what a
    core's cache holds, and at most half of a usual step, so that steps with less to read cost less; on accelerators it
    is a whole step.
    """
    width, context, batch = config.model.width, config.model.context_tokens, config.train.batch_expressions
    drawn_NxT = language_of(config.language).draw(np.random.default_rng(0), max(2000, batch), context)
    sorted_NxT = sort_rows(drawn_NxT)
    order_SxE = batch_order(np.random.default_rng(0), len(sorted_NxT), 20, batch)

    def usual_rows(row_tokens: int) -> float:
        return plan(sorted_NxT, order_SxE, row_tokens).row_count_S.mean()

    def multiplications(row_tokens: int) -> float:
        return usual_rows(row_tokens) * row_tokens * (12 * width**2 + 2 * row_tokens * width)

    lengths = [config.train.row_tokens] if config.train.row_tokens else [context * 2**power for power in range(4)]
    row_tokens = min(lengths, key=multiplications)
    rows = usual_rows(row_tokens)
    if jax.default_backend() == "cpu":
        chunk_rows = min(256 // row_tokens, math.ceil(rows / 2))
    else:
        chunk_rows = min(16_384 // row_tokens, math.ceil(1.2 * rows))
    return RowShape(row_tokens, max(chunk_rows, 1))


def _padded(tokens_NxT: np.ndarray, capacity: int) -> np.ndarray:
    return np.pad(tokens_NxT, ((0, capacity - len(tokens_NxT)), (0, 0)), constant_values=EOS)
