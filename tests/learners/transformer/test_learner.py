"""The learner: when training stops, what loops beside each other do to each other, how its rows are laid out, whatever
they are tokens of, and how it becomes smaller.
"""

import itertools

import jax
import numpy as np
import pytest
from processes import TESTS, output_of
from tiny import tasks_of, tiny_config

from jaxloop.config.presets import load
from jaxloop.config.schema import Config, Loop, loops
from jaxloop.learners.transformer.learner import TransformerLearner, choose_shape
from jaxloop.learners.transformer.packing import RowShape
from jaxloop.learners.transformer.train import looks
from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.loop.interfaces import Written
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.logic.source import typical_rows
from jaxloop.systems.logic.vocabulary import VOCABULARY

# Small rows are learnt by heart soon, and the loops at different steps.
OVERFITTING = [
    "train.steps=300",
    "train.learning_rate=2e-2",
    "train.evaluate_every_steps=5",
    "seeds=[0,3]",
    "grid={}",
]


class Watched:
    """A learner, its generation 0 of some loops, and what it was seen to do meanwhile."""

    def __init__(self, *overrides: str, places: list[int] | None = None):
        config = tiny_config(*OVERFITTING, *overrides)
        group = [loop for loop in loops(config) if places is None or loop.index in places]
        learner = transformer_learner(config, len(group))
        self.looked, self.shares = [], []
        train = learner.train

        def watched_train(*arguments):
            state, step = train(*arguments)
            # A copy: the state is given up to the next call.
            self.looked.append((np.array(step), np.array(state.best_validation_nats)))
            return state, step

        learner.train = watched_train
        language, width = language_of(config.language), config.model.context_tokens

        def rows(loop: Loop, purpose: int, count: int) -> np.ndarray:
            return language.draw(np.random.default_rng([loop.seed, purpose]), count, width)

        training = [rows(loop, 0, config.cycle.rows) for loop in group]
        probes = [{"held_out": learner.probe(rows(loop, 1, config.measure.held_out_rows))} for loop in group]
        self.most_calls = looks(config.train)
        started = learner.start(tasks_of(group, [0] * len(group), training, probes))
        self.outcomes, self.seconds = learner.finish(started, self.shares.append)
        self.steps_done = started.steps_done


@pytest.fixture(scope="module")
def patient():
    """Two loops that take all their steps."""
    return Watched()


def assert_same(one: Written, other: Written) -> None:
    """The same bits of everything that a loop's outcome says."""
    for field in Written._fields:
        jax.tree.map(np.testing.assert_array_equal, getattr(one, field), getattr(other, field))


def stop(validation_L: np.ndarray, patience: int) -> int:
    """How many looks a loop takes, given the best validation after each of all looks."""
    gained_L = np.diff(validation_L, prepend=np.inf) < 0
    without_gain = 0
    for look, gained in enumerate(gained_L, start=1):
        without_gain = 0 if gained else without_gain + 1
        if without_gain == patience:
            return look
    return len(gained_L)


def test_without_patience_every_step_is_taken(patient):
    """A learner that stops where nobody asked for it gives models that are not trained."""
    assert [outcome.columns["training_steps"] for outcome in patient.outcomes] == [300] * 2
    assert len(patient.looked) == patient.most_calls == 60
    assert patient.steps_done == sorted(patient.steps_done)
    assert len(patient.shares) >= 1 and all(0 <= share <= 1 for share in patient.shares)


def test_patience_ends_each_loop_at_its_own_look_and_then_the_calls(patient):
    """Training that goes on after everybody's patience has run out costs what patience was to save; a loop that stops
    when another one does, or goes on with it, has other parameters than alone.
    """
    validation_LxP = np.stack([validation for _, validation in patient.looked])
    expected = [stop(validation_LxP[:, place], 6) for place in range(2)]
    assert len(set(expected)) == 2 and max(expected) < 40, "the loops must stop early, and not together"
    impatient = Watched("train.patience_evaluations=6")
    assert [outcome.columns["training_steps"] for outcome in impatient.outcomes] == [5 * look for look in expected]
    for place, outcome in enumerate(impatient.outcomes):
        assert outcome.columns["validation_nats"] == validation_LxP[expected[place] - 1, place]
    # The devices always have one call more, and it takes two to see that nobody goes on.
    assert max(expected) < len(impatient.looked) <= max(expected) + 2

    for place in range(2):
        alone = Watched("train.patience_evaluations=6", places=[place])
        assert_same(alone.outcomes[0], impatient.outcomes[place])
        assert len(alone.looked) <= expected[place] + 2


def test_patience_of_loops_that_are_mapped_together():
    """How accelerators compute loops: one that has stopped must keep its parameters while its neighbour goes on."""
    together = Watched("train.patience_evaluations=6", "population.loops_per_device=2")
    steps_LxP, validation_LxP = (np.stack(column) for column in zip(*together.looked, strict=True))
    for place, outcome in enumerate(together.outcomes):
        look = stop(validation_LxP[:, place], 6)
        assert outcome.columns["training_steps"] == 5 * look
        np.testing.assert_array_equal(steps_LxP[:, place], 5 * np.minimum(np.arange(len(steps_LxP)) + 1, look))
        assert outcome.columns["validation_nats"] == validation_LxP[look - 1, place] == validation_LxP[-1, place]
    assert together.outcomes[0].columns != together.outcomes[1].columns, "the loops must not stop together"


# Shapes


def shape_of(config: Config) -> RowShape:
    return choose_shape(config, VOCABULARY, typical_rows(config))


@pytest.mark.parametrize(
    ("source", "overrides"),
    [
        ("quick", []),
        ("compact", []),
        ("paper", []),
        ("quick", ["train.batch_expressions=1"]),
        ("quick", ["language.max_depth=1", "language.min_depth=0", "model.context_tokens=6"]),
        ("paper", ["language.max_depth=7", "model.context_tokens=510", "train.batch_expressions=3"]),
    ],
)
def test_the_length_of_rows_is_chosen_for_the_language(source, overrides):
    """A length that differs between two starts changes the bits of a resumed run; one below the context cannot hold
    every expression.
    """
    config = load(source, overrides)
    shape = shape_of(config)
    assert shape_of(load(source, overrides)) == shape
    assert shape.row_tokens >= config.model.context_tokens
    assert shape.chunk_rows >= 1
    # What is no part of the language and its batches has no say.
    others = ["seeds=[5,6]", "cycle.rows=37", "cycle.generations=2", "sample.temperature=0.5", "model.layers=1"]
    assert shape_of(load(source, [*overrides, *others])) == shape


@pytest.mark.parametrize("row_tokens", [16, 17, 33, 500])
def test_the_length_of_rows_may_be_set(row_tokens):
    """A setting that is silently replaced by a better one cannot be measured."""
    assert shape_of(load("quick", [f"train.row_tokens={row_tokens}"])).row_tokens == row_tokens


def test_the_layout_of_rows_changes_rounding_only():
    """A row shape that loses an expression, or counts one twice, trains another model."""
    short = ["train.steps=5", "train.learning_rate=1e-3"]
    one, other, chosen = (
        Watched(*short, f"train.row_tokens={length}", places=[0]).outcomes[0] for length in (16, 45, 0)
    )
    for outcome in (other, chosen):
        assert outcome.columns["validation_nats"] == pytest.approx(one.columns["validation_nats"], rel=1e-4)
        np.testing.assert_allclose(outcome.probed["held_out"], one.probed["held_out"], rtol=1e-4)


# Another vocabulary


def test_a_vocabulary_of_another_size_from_training_to_probabilities():
    """Catches the eight tokens of one system anywhere between a learner's rows and what it gives back: with twelve, all
    rows of three places must have probability 1 together, at either temperature, samples the probability that scoring
    gives them, and what was learnt must hold for the tokens past the eighth, too.
    """
    vocabulary, width, temperature = Vocabulary(12), 3, 0.6
    config = tiny_config(
        "train.steps=150", "train.learning_rate=3e-2", "cycle.rows=400", f"sample.temperature={temperature}"
    )
    config = config.model_copy(update={"model": config.model.model_copy(update={"context_tokens": width})})
    loop = Loop(0, 0, {}, config)
    # A word, the one after it, and the end.
    first_N = np.random.default_rng(0).integers(0, 11, 400)
    training_NxT = np.stack([first_N, (first_N + 1) % 11, np.full(400, 11)], axis=1).astype(np.uint8)
    learner = TransformerLearner(config, 1, 400, vocabulary, training_NxT)
    words = [
        [*word, *[11] * (width - len(word))]
        for length in range(4)
        for word in itertools.product(range(11), repeat=length)
    ]
    rows_NxT = np.array(words, np.uint8)
    probes = [{"all": learner.probe(rows_NxT)}]
    (outcome,), _ = learner.finish(learner.start(tasks_of([loop], [0], [training_NxT], probes)), lambda share: None)
    probability_2xN = np.exp(outcome.probed["all"])
    np.testing.assert_allclose(probability_2xN.sum(axis=1), 1, atol=1e-5)
    place = {bytes(row_T): index for index, row_T in enumerate(rows_NxT)}
    sampled = [place[bytes(row_T)] for row_T in outcome.points]
    np.testing.assert_allclose(outcome.log_prob_N, outcome.probed["all"][1, sampled], rtol=1e-4, atol=1e-4)
    assert np.log(11) - 0.1 < outcome.columns["validation_nats"] < 1.1 * np.log(11)
    learnt_V = np.array([probability_2xN[0, place[bytes([word, (word + 1) % 11, 11])]] for word in range(11)])
    assert learnt_V.min() > 0.5 / 11
    assert set(np.unique(outcome.points[:, :2])) >= set(range(11))
    shape = jax.tree.map(np.shape, outcome.parameters)["tokens"]["embedding"]
    assert shape == (12, config.model.width)


# Fewer at once


SMALLER = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
sys.path.insert(0, sys.argv[1])
import tiny
from jaxloop.systems.logic.learners import transformer_learner
config = tiny.tiny_config("population.loops_per_device=2", "seeds=[0,1,2,3,4,5,6,7]", "grid={}")
learner = transformer_learner(config, 8)
while learner:
    print(learner.loops_per_device, learner.devices)
    learner = learner.smaller()
"""


def test_fewer_loops_on_each_core_and_then_fewer_cores():
    """Catches a learner that is made anew from the settings where memory has run out a second time: two loops on each
    of four cores became one on each, and then two on each of two, as many as before, for ever.
    """
    assert output_of(SMALLER, TESTS, JAX_PLATFORMS="cpu").splitlines() == ["2 4", "1 4", "1 2"]
