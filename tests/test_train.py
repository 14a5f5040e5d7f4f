import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop.config import ModelSettings, TrainSettings
from jaxloop.language import Language
from jaxloop.model import Model, make_model
from jaxloop.packing import NO_TARGET, Packed, batch_order, pack
from jaxloop.train import TrainingKnobs, looks, make_evaluate, make_optimiser, make_train, token_nats

LANGUAGE = Language(min_depth=1, max_depth=2)
MODEL = make_model(ModelSettings(layers=1, heads=2, width=16, context_tokens=16))
KNOBS = TrainingKnobs(jnp.float32(1e-2), jnp.float32(0.1))


def rows_and_split(seed: int, rows: int) -> tuple[Packed, Packed]:
    tokens_NxT = LANGUAGE.draw(np.random.default_rng(seed), rows, 16)
    held = rows // 4
    return pack(tokens_NxT[held:], 32, rows), pack(tokens_NxT[:held], 32, rows)


@functools.cache
def compiled(settings: TrainSettings):
    begin, train_and_look = make_train(settings, MODEL)
    return jax.jit(begin), jax.jit(train_and_look)


def train(settings: TrainSettings, seed: int = 0, active: bool = True, knobs: TrainingKnobs = KNOBS, calls=None):
    begin, step = compiled(settings)
    training, validation = rows_and_split(seed, 200)
    order = batch_order(np.random.default_rng(seed), int(training.row_count), settings.steps, settings.batch_rows)
    states = [begin(jax.random.key(seed), knobs)]
    for _ in range(looks(settings) if calls is None else calls):
        states.append(step(states[-1], jax.random.key(1), knobs, training, validation, order, jnp.bool_(active)))
    return states, validation


def test_token_nats_is_the_negative_log_likelihood_of_real_targets():
    """Padding that counts, or a mean over another number of tokens, changes what a nat per expression means."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 5, 8)).astype(np.float32)
    targets = generator.integers(0, 8, (3, 5)).astype(np.uint8)
    targets[0, 2:] = NO_TARGET
    targets[2, 4] = NO_TARGET
    expected = 0.0
    for row, column in zip(*np.nonzero(targets != NO_TARGET), strict=True):
        probabilities = np.exp(logits[row, column]) / np.exp(logits[row, column]).sum()
        expected -= np.log(probabilities[targets[row, column]])
    nats, count = token_nats(jnp.asarray(logits), jnp.asarray(targets))
    assert count == 11
    assert nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_rows", [1, 3, 7, 100])
def test_evaluate_is_the_mean_over_expressions_whatever_the_batch(batch_rows):
    """The last batch overlaps the one before: rows counted twice, or padding rows counted, shift the mean."""
    parameters = MODEL.init(jax.random.key(2))
    tokens_NxT = LANGUAGE.draw(np.random.default_rng(1), 23, 16)
    alone = [pack(row_T[None], 16, 1) for row_T in tokens_NxT]
    logits = jax.jit(MODEL.apply)(parameters, np.concatenate([packed.inputs_PxL for packed in alone]))
    targets = np.concatenate([packed.targets_PxL for packed in alone])
    expected = float(token_nats(logits, jnp.asarray(targets))[0]) / 23
    packed = pack(tokens_NxT, 32, 23)
    assert int(packed.row_count) % 7 != 0, "the last batch must overlap for the test to mean anything"
    assert jax.jit(make_evaluate(MODEL, batch_rows))(parameters, packed) == pytest.approx(expected, rel=1e-5)


def test_training_reaches_the_source_entropy_and_not_less():
    """A target that leaks into its input goes below the entropy of the source; a broken gradient stays far above."""
    states, _ = train(TrainSettings(steps=600, batch_rows=8, row_tokens=32, warmup_steps=20, evaluate_every_steps=100))
    held_out = pack(LANGUAGE.draw(np.random.default_rng(9), 4000, 16), 32, 4000)
    nats = float(jax.jit(make_evaluate(MODEL, 64))(states[-1].best_parameters, held_out))
    standard_error = 2.5 / np.sqrt(4000)
    assert LANGUAGE.entropy_nats - 4 * standard_error < nats < LANGUAGE.entropy_nats * 1.12


def test_best_parameters_are_those_of_the_best_look():
    """Keeping the last parameters, or comparing the wrong way round, loses the best ones."""
    settings = TrainSettings(steps=400, batch_rows=8, row_tokens=32, warmup_steps=5, evaluate_every_steps=20)
    knobs = TrainingKnobs(jnp.float32(5e-2), jnp.float32(0.0))
    states, validation = train(settings, knobs=knobs)
    evaluate = jax.jit(make_evaluate(MODEL, 8))
    looked = [float(evaluate(state.parameters, validation)) for state in states[1:]]
    assert min(looked) < looked[-1], "the run must overfit for the test to mean anything"
    assert float(states[-1].best_validation_nats) == pytest.approx(min(looked), rel=1e-5)
    assert float(evaluate(states[-1].best_parameters, validation)) == pytest.approx(min(looked), rel=1e-5)


def test_patience_stops_and_changes_nothing_else():
    """Patience that does not stop wastes the steps; one that stops early, or counts gains, loses better parameters."""
    settings = TrainSettings(steps=400, batch_rows=8, row_tokens=32, warmup_steps=5, evaluate_every_steps=20)
    knobs = TrainingKnobs(jnp.float32(5e-2), jnp.float32(0.0))
    without, _ = train(settings, knobs=knobs)
    patient, _ = train(settings.model_copy(update={"patience_evaluations": 3}), knobs=knobs)
    stopped = int(patient[-1].step)
    assert stopped < 400
    looked = [float(state.best_validation_nats) for state in without]
    gains = [place for place in range(1, len(looked)) if looked[place] < looked[place - 1]]
    first_stop = next(place for place in range(3, len(looked)) if not {place - 2, place - 1, place} & set(gains))
    assert stopped == 20 * first_stop
    assert float(patient[-1].best_validation_nats) == looked[first_stop]


def test_an_inactive_place_takes_no_step():
    """Places that are left over must cost nothing: a step taken there is time lost on every device."""
    settings = TrainSettings(steps=50, batch_rows=4, row_tokens=32, evaluate_every_steps=20)
    states, _ = train(settings, active=False)
    assert int(states[-1].step) == 0
    jax.tree.map(np.testing.assert_array_equal, states[-1].parameters, states[0].parameters)


def test_steps_that_the_looks_do_not_divide_are_all_taken():
    """The last stretch is shorter: dropping it, or running past the end, trains for another number of steps."""
    settings = TrainSettings(steps=50, batch_rows=4, row_tokens=32, evaluate_every_steps=20)
    states, _ = train(settings)
    assert [int(state.step) for state in states] == [0, 20, 40, 50]
    assert [int(state.step) for state in train(settings, calls=5)[0]] == [0, 20, 40, 50, 50, 50]


def test_learning_rate_warms_up_and_follows_the_cosine():
    """With a constant gradient Adam's update is the learning rate itself: a schedule one step off shows."""
    settings = TrainSettings(steps=100, warmup_steps=10, final_learning_rate_share=0.1, clip_norm=10.0)
    optimiser = make_optimiser(settings, TrainingKnobs(jnp.float32(0.02), jnp.float32(0.0)))
    parameter = {"scale": jnp.zeros(1)}
    state, rates = optimiser.init(parameter), []
    update = jax.jit(optimiser.update)
    for _ in range(100):
        updates, state = update({"scale": jnp.ones(1)}, state, parameter)
        rates.append(-float(updates["scale"][0]))
    expected = [0.02 * (step + 1) / 10 for step in range(10)]
    expected += [0.02 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (step - 10) / 90))) for step in range(10, 100)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_weight_decay_is_for_matrices_only():
    """Decay on the norms' scales pulls them to zero, which nanoGPT and the paper do not do."""
    optimiser = make_optimiser(TrainSettings(warmup_steps=0), TrainingKnobs(jnp.float32(0.1), jnp.float32(0.5)))
    parameters = {"matrix": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    updates, _ = optimiser.update(jax.tree.map(jnp.zeros_like, parameters), optimiser.init(parameters), parameters)
    np.testing.assert_allclose(updates["matrix"], -0.1 * 0.5)
    np.testing.assert_array_equal(updates["scale"], 0)


def test_every_token_of_every_expression_weighs_the_same_in_a_step():
    """A mean per row instead of per token would weigh tokens of short rows more."""
    weights = jnp.zeros((8,))
    unigram = Model(
        init=lambda key: weights,
        apply=lambda parameters, inputs, key=None: jnp.broadcast_to(parameters, (*inputs.shape, 8)),
        init_cache=None,
        decode=None,
    )
    packed = jax.tree.map(jnp.asarray, pack(LANGUAGE.draw(np.random.default_rng(0), 40, 16), 32, 40))
    begin, train_and_look = make_train(TrainSettings(steps=1, batch_rows=int(packed.row_count), row_tokens=32), unigram)
    order = jnp.arange(int(packed.row_count), dtype=jnp.int32)[None]
    state = jax.jit(begin)(jax.random.key(0), KNOBS)
    after = jax.jit(train_and_look)(state, jax.random.key(0), KNOBS, packed, packed, order, jnp.bool_(True))
    counts = np.bincount(packed.targets_PxL[packed.targets_PxL != NO_TARGET], minlength=8)
    gradient = 1 / 8 - counts / counts.sum()
    expected, _ = optax.scale_by_adam(b1=0.9, b2=0.99).update(
        jnp.asarray(gradient), optax.scale_by_adam().init(weights)
    )
    rate = 1e-2 / 50
    np.testing.assert_allclose(after.parameters, -rate * expected, rtol=1e-3, atol=1e-9)
