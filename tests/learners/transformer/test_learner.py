"""The learner: when training stops, what loops beside each other do to each other, and how its rows are laid out."""

import jax
import numpy as np
import pytest
from tiny import tiny_config

from jaxloop.config.presets import load
from jaxloop.config.schema import Config, Loop, loops
from jaxloop.learners.transformer.learner import choose_shape
from jaxloop.learners.transformer.packing import RowShape
from jaxloop.learners.transformer.train import looks
from jaxloop.loop.run_loops import Outcome
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
        started = learner.start(group, [0] * len(group), training, probes)
        self.outcomes, self.seconds = learner.finish(started, self.shares.append)
        self.steps_done = started.steps_done


@pytest.fixture(scope="module")
def patient():
    """Two loops that take all their steps."""
    return Watched()


def assert_same(one: Outcome, other: Outcome) -> None:
    """The same bits of everything that a loop's outcome says."""
    for field in Outcome._fields:
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
