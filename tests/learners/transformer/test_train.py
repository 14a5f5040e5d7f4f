import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop.learners.transformer.model import Model, make_model
from jaxloop.learners.transformer.packing import Rows, RowShape, batch_order, plan, sort_rows, whole_plan
from jaxloop.learners.transformer.settings import ModelSettings, TrainSettings
from jaxloop.learners.transformer.train import (
    Corpus,
    Training,
    TrainingKnobs,
    chunk_nats,
    looks,
    make_evaluate,
    make_optimiser,
    make_train,
)
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY

LANGUAGE = Language(min_depth=1, max_depth=2)
WIDTH = 16
MODEL = make_model(ModelSettings(layers=1, heads=2, width=16, context_tokens=WIDTH), VOCABULARY)
KNOBS = {
    "usual": TrainingKnobs(np.float32(1e-2), np.float32(0.1)),
    "overfitting": TrainingKnobs(np.float32(5e-2), np.float32(0.0)),
    "standing_still": TrainingKnobs(np.float32(0.0), np.float32(0.0)),
}
# Steps that the looks do not divide.
OVERFIT = TrainSettings(steps=390, batch_expressions=20, warmup_steps=5, evaluate_every_steps=20)
SHAPE = RowShape(row_tokens=32, chunk_rows=2)
# Rows of the last chunk that hold nothing, chunks that hold nothing, and a chunk that holds all.
SHAPES = [RowShape(16, 1), RowShape(32, 2), RowShape(17, 3), RowShape(40, 7)]

# Most of the time would go into optimising programs that run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def mixed_rows(seed: int, rows: int) -> np.ndarray:
    """Expressions of the language, many of them several times, cut-off ones and empty ones; sorted."""
    generator = np.random.default_rng(seed)
    drawn = LANGUAGE.draw(generator, rows, WIDTH)
    drawn[: rows // 4] = drawn[-1]
    drawn[rows // 4 : rows // 2] = generator.integers(0, EOS, (rows // 2 - rows // 4, WIDTH))
    drawn[rows // 2 : rows // 2 + 2, 1:] = drawn[0, 1:]
    drawn[rows // 2 + 2 : rows // 2 + 4] = EOS
    return sort_rows(drawn)


def padded(tokens_NxT: np.ndarray, capacity: int) -> np.ndarray:
    return np.pad(tokens_NxT, ((0, capacity - len(tokens_NxT)), (0, 0)), constant_values=EOS)


def to_train(tokens_NxT: np.ndarray, order_SxE: np.ndarray, shape: RowShape, capacity: int) -> Corpus:
    planned = plan(tokens_NxT, VOCABULARY, order_SxE, shape.row_tokens)
    return Corpus(padded(tokens_NxT, capacity), planned, np.int32(len(tokens_NxT)))


def whole(tokens_NxT: np.ndarray, shape: RowShape, capacity: int) -> Corpus:
    planned = whole_plan(tokens_NxT, VOCABULARY, shape.row_tokens, capacity)
    return Corpus(padded(tokens_NxT, capacity), planned, np.int32(len(tokens_NxT)))


def target_count(tokens_NxT: np.ndarray) -> int:
    """Tokens that a model is trained to say: all, and `<eos>` where an expression has one."""
    return int(np.minimum(VOCABULARY.lengths(tokens_NxT) + 1, WIDTH).sum())


def nats_alone(parameters, tokens_NxT) -> jax.Array:
    """Nats of all expressions, each computed in a row of its own."""
    inputs_NxT = jnp.pad(tokens_NxT[:, :-1], ((0, 0), (1, 0)), constant_values=EOS)
    place_NxT = jnp.broadcast_to(jnp.arange(WIDTH, dtype=jnp.uint8), inputs_NxT.shape)
    log_probabilities_NxTxV = jax.nn.log_softmax(MODEL.apply(parameters, inputs_NxT, place_NxT))
    nats_NxT = -jnp.take_along_axis(log_probabilities_NxTxV, tokens_NxT[..., None].astype(int), axis=-1)[..., 0]
    return jnp.sum(jnp.where(place_NxT <= jnp.sum(tokens_NxT != EOS, axis=1, keepdims=True), nats_NxT, 0))


alone_with_gradient = jit(jax.value_and_grad(nats_alone))


@functools.cache
def large_parameters():
    """With matrices five times as large as at first, so that attention looks at something."""
    parameters = jit(MODEL.init)(jax.random.key(2))
    return jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, parameters)


@functools.cache
def compiled(settings: TrainSettings):
    return jit(make_train(settings, MODEL, WIDTH, 50, SHAPE)[1])


@functools.cache
def begun(knobs: str) -> Training:
    begin, _ = make_train(OVERFIT, MODEL, WIDTH, 50, SHAPE)
    return jit(begin)(jax.random.key(0), KNOBS[knobs])


@functools.cache
def compiled_evaluate():
    return jit(make_evaluate(MODEL, WIDTH, 50, SHAPE))


@functools.cache
def train(settings: TrainSettings, knobs: str, training_rows: int = 150, active: bool = True, calls: int | None = None):
    """Every state of a training, the first included, and what it is validated on."""
    tokens_NxT = LANGUAGE.draw(np.random.default_rng(0), training_rows + 50, WIDTH)
    order = batch_order(np.random.default_rng(0), training_rows, settings.steps, settings.batch_expressions)
    training = to_train(sort_rows(tokens_NxT[50:]), order, SHAPE, capacity=4000)
    validation = whole(sort_rows(tokens_NxT[:50]), SHAPE, capacity=50)
    states = [begun(knobs)]
    for _ in range(looks(settings) if calls is None else calls):
        states.append(
            compiled(settings)(states[-1], jax.random.key(1), KNOBS[knobs], training, validation, jnp.bool_(active))
        )
    return states, validation


def assert_same_trees(found, expected, share=1e-5):
    """Each array is right up to this share of its largest number."""
    for (path, array), expected_array in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        size = np.abs(expected_array).max()
        assert size > 0, path
        np.testing.assert_allclose(array, expected_array, rtol=0, atol=share * size, err_msg=str(path))


def adam_of(state) -> optax.ScaleByAdamState:
    return next(part for part in state.optimiser_state if isinstance(part, optax.ScaleByAdamState))


def test_chunk_nats_is_the_negative_log_likelihood_of_the_chunks_targets():
    """Padding that counts, targets that count once however often they come, or rows of the chunk next to it."""
    generator = np.random.default_rng(0)
    logits_RxLxV = generator.normal(size=(6, 5, VOCABULARY.size)).astype(np.float32)
    targets_RxLxV = generator.integers(0, 3, (6, 5, VOCABULARY.size)).astype(np.float32)
    targets_RxLxV[2:, 3:] = 0
    index_RxL = np.arange(30, dtype=np.uint8).reshape(6, 5)
    mock = Model(
        vocabulary=VOCABULARY,
        init=None,
        apply=lambda parameters, inputs, depth, key: parameters.reshape(-1, VOCABULARY.size)[inputs],
        init_cache=None,
        decode=None,
    )
    rows = Rows(index_RxL, np.zeros_like(index_RxL), targets_RxLxV)
    nats_of = jit(functools.partial(chunk_nats, mock, 2))
    for chunk in range(3):
        expected = 0.0
        for row, column, token in np.argwhere(targets_RxLxV[: 2 * chunk + 2]):
            if row >= 2 * chunk:
                probabilities = np.exp(logits_RxLxV[row, column]) / np.exp(logits_RxLxV[row, column]).sum()
                expected -= targets_RxLxV[row, column, token] * np.log(probabilities[token])
        assert nats_of(logits_RxLxV, rows, chunk) == pytest.approx(expected, rel=1e-5)


def test_evaluate_is_the_mean_over_expressions_alone():
    """A last chunk that is left out, a row counted twice, padding that counts, or a mean over the capacity shift the
    mean; where nothing is active, nothing may be computed."""
    parameters, tokens_NxT = large_parameters(), mixed_rows(1, 20)
    expected = float(alone_with_gradient(parameters, tokens_NxT)[0]) / 20
    corpus = whole(tokens_NxT, SHAPE, capacity=50)
    evaluate = compiled_evaluate()
    assert evaluate(parameters, corpus, jnp.bool_(True)) == pytest.approx(expected, rel=1e-5)
    assert evaluate(parameters, corpus, jnp.bool_(False)) == 0
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, parameters)
    assert np.isnan(evaluate(broken, corpus, jnp.bool_(True)))
    assert evaluate(broken, corpus, jnp.bool_(False)) == 0


# With beta1 = 0, a learning rate of zero and no clipping, Adam's first moment after a step is the step's gradient.
GRADIENT_ONLY = TrainSettings(steps=3, batch_expressions=20, beta1=0.0, clip_norm=1e6, evaluate_every_steps=1)


def assert_step_read(state, tokens_NxT):
    """The last step's loss and gradient are those of these expressions, each computed alone."""
    nats, summed = alone_with_gradient(large_parameters(), tokens_NxT)
    targets = target_count(tokens_NxT)
    assert float(state.training_nats) == pytest.approx(float(nats) / targets, rel=1e-5)
    assert_same_trees(adam_of(state).mu, jax.tree.map(lambda leaf: leaf / targets, summed), 1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_steps_gradient_is_that_of_expressions_alone(shape):
    """The heart of it: an expression that is lost or counts twice, a token that weighs more because of its row or its
    chunk, a position that reads a neighbour, the wrong step's expressions: each gives another gradient; and the look
    at the validation rows another mean."""
    _, train_and_look = make_train(GRADIENT_ONLY, MODEL, WIDTH, 29, shape)
    tokens_NxT, held_NxT = mixed_rows(3, 80), mixed_rows(4, 20)
    order_SxE = batch_order(np.random.default_rng(0), 80, 3, 20)
    # A step that fills as many rows as a step can: wherever a row holds less than two, the last of them.
    order_SxE[1] = np.flatnonzero(VOCABULARY.lengths(tokens_NxT) == WIDTH)[:20]
    training, validation = to_train(tokens_NxT, order_SxE, shape, 87), whole(held_NxT, shape, capacity=29)
    assert training.plan.row_count_S[1] == (20 if shape.row_tokens < 2 * WIDTH else 10)
    knobs, step = KNOBS["standing_still"], jit(train_and_look)
    state = begun("standing_still")._replace(parameters=large_parameters())
    for order_E in order_SxE:
        state = step(state, jax.random.key(1), knobs, training, validation, jnp.bool_(True))
        assert_step_read(state, tokens_NxT[order_E])
    jax.tree.map(np.testing.assert_array_equal, state.parameters, large_parameters())
    expected = float(alone_with_gradient(large_parameters(), held_NxT)[0]) / 20
    assert float(state.best_validation_nats) == pytest.approx(expected, rel=1e-5)


def test_loops_that_are_mapped_together_read_their_own_expressions():
    """Accelerators train loops side by side: a loop whose step fills fewer chunks, or that is not active, must not read
    with the others, and they must not stop with it."""
    _, train_and_look = make_train(GRADIENT_ONLY, MODEL, WIDTH, 5, SHAPE)
    order_SxE = np.tile(np.arange(20, dtype=np.int32), (3, 1))
    rows = [np.full((20, WIDTH), EOS, np.uint8), mixed_rows(1, 20), mixed_rows(2, 20)]
    loops = [(to_train(tokens_NxT, order_SxE, SHAPE, 20), whole(tokens_NxT[::4], SHAPE, 5)) for tokens_NxT in rows]
    assert loops[0][0].plan.row_count_S[0] == 1 < loops[1][0].plan.row_count_S[0] // SHAPE.chunk_rows
    training, validation = jax.tree.map(lambda *arrays: np.stack(arrays), *loops)
    state = begun("standing_still")._replace(parameters=large_parameters())
    states = jax.tree.map(lambda leaf: np.stack([leaf] * 3), state)
    mapped = jit(jax.vmap(train_and_look, in_axes=(0, None, None, 0, 0, 0)))
    active = jnp.array([True, True, False])
    after = mapped(states, jax.random.key(0), KNOBS["standing_still"], training, validation, active)
    for loop in range(2):
        assert_step_read(jax.tree.map(lambda leaf, loop=loop: leaf[loop], after), rows[loop])
    jax.tree.map(lambda new, old: np.testing.assert_array_equal(new[2], old), after, state)


def test_every_token_of_every_expression_weighs_the_same_in_a_step():
    """The same with a model that can be computed by hand, whose gradient is a difference of frequencies."""
    weights = jnp.zeros((8,))
    unigram = Model(
        vocabulary=VOCABULARY,
        init=lambda key: weights,
        apply=lambda parameters, inputs, depth, key=None: jnp.broadcast_to(parameters, (*inputs.shape, 8)),
        init_cache=None,
        decode=None,
    )
    tokens_NxT = mixed_rows(0, 40)
    settings = TrainSettings(steps=1, batch_expressions=40, beta1=0.0, clip_norm=1e6)
    begin, train_and_look = make_train(settings, unigram, WIDTH, 40, SHAPE)
    training = to_train(tokens_NxT, np.arange(40, dtype=np.int32)[None], SHAPE, 40)
    knobs = KNOBS["usual"]
    state = jit(begin)(jax.random.key(0), knobs)
    after = jit(train_and_look)(
        state, jax.random.key(0), knobs, training, whole(tokens_NxT, SHAPE, 40), jnp.bool_(True)
    )
    length_N = VOCABULARY.lengths(tokens_NxT)
    said = np.concatenate([row_T[: length + 1] for row_T, length in zip(tokens_NxT, length_N, strict=True)])
    frequencies = np.bincount(said, minlength=8) / len(said)
    np.testing.assert_allclose(adam_of(after).mu, 1 / 8 - frequencies, rtol=1e-5, atol=1e-7)
    assert float(after.training_nats) == pytest.approx(np.log(8), rel=1e-6)
    assert np.all(np.sign(after.parameters) == np.sign(frequencies - 1 / 8))


def test_every_chunk_of_every_step_has_its_own_dropout():
    """One key for all chunks drops the same places in each of them, and one for all steps the same in each step."""
    size = 100_000
    lottery = Model(
        vocabulary=VOCABULARY,
        init=lambda key: jnp.zeros((size,)),
        apply=lambda parameters, inputs, depth, key=None: (
            jnp.zeros((*inputs.shape, 8))
            .at[..., 0]
            .set(parameters[0 if key is None else jax.random.randint(key, (), 0, size)])
        ),
        init_cache=None,
        decode=None,
    )
    shape, steps = RowShape(WIDTH, 1), 3
    tokens_NxT = np.tile(np.arange(EOS, dtype=np.uint8)[:, None], (1, WIDTH))  # nothing alike, so a row each
    settings = TrainSettings(steps=steps, batch_expressions=7, beta1=0.0, clip_norm=1e6, evaluate_every_steps=1)
    begin, train_and_look = make_train(settings, lottery, WIDTH, 7, shape)
    training = to_train(tokens_NxT, np.tile(np.arange(7, dtype=np.int32), (steps, 1)), shape, 7)
    knobs = KNOBS["standing_still"]
    state, step, drawn = jit(begin)(jax.random.key(0), knobs), jit(train_and_look), []
    for _ in range(steps):
        state = step(state, jax.random.key(5), knobs, training, whole(tokens_NxT, shape, 7), jnp.bool_(True))
        drawn += np.flatnonzero(adam_of(state).mu).tolist()
    assert len(drawn) == len(set(drawn)) == steps * 7


def test_training_reaches_the_source_entropy_and_not_less():
    """A target that leaks into its input goes below the entropy of the source; a broken gradient stays far above."""
    states, _ = train(OVERFIT, "usual", training_rows=4000)
    held_out_NxT = LANGUAGE.draw(np.random.default_rng(9), 4000, WIDTH)
    parts = [whole(sort_rows(held_out_NxT[start : start + 50]), SHAPE, 50) for start in range(0, 4000, 50)]
    evaluate = compiled_evaluate()
    nats = np.mean([evaluate(states[-1].best_parameters, part, jnp.bool_(True)) for part in parts])
    standard_error = 2.5 / np.sqrt(4000)
    assert LANGUAGE.entropy_nats - 4 * standard_error < nats < LANGUAGE.entropy_nats * 1.08


def test_best_parameters_are_those_of_the_best_look():
    """Keeping the last parameters, or comparing the wrong way round, loses the best ones."""
    states, validation = train(OVERFIT, "overfitting")
    evaluate = compiled_evaluate()
    looked = [float(evaluate(state.parameters, validation, jnp.bool_(True))) for state in states[1:]]
    assert min(looked) < looked[-1], "the run must overfit for the test to mean anything"
    assert float(states[-1].best_validation_nats) == pytest.approx(min(looked), rel=1e-5)
    best = float(evaluate(states[-1].best_parameters, validation, jnp.bool_(True)))
    assert best == pytest.approx(min(looked), rel=1e-5)


def test_patience_stops_and_changes_nothing_else():
    """Patience that does not stop wastes the steps; one that stops early, or counts gains, loses better parameters."""
    without, _ = train(OVERFIT, "overfitting")
    patient, _ = train(OVERFIT.model_copy(update={"patience_evaluations": 3}), "overfitting")
    stopped = int(patient[-1].step)
    assert stopped < 390
    looked = [float(state.best_validation_nats) for state in without]
    gains = [place for place in range(1, len(looked)) if looked[place] < looked[place - 1]]
    first_stop = next(place for place in range(3, len(looked)) if not {place - 2, place - 1, place} & set(gains))
    assert stopped == 20 * first_stop
    assert float(patient[-1].best_validation_nats) == looked[first_stop]


def test_an_inactive_place_takes_no_step():
    """Places that are left over must cost nothing: a step taken there is time lost on every device."""
    states, _ = train(OVERFIT, "overfitting", active=False, calls=2)
    assert int(states[-1].step) == int(states[-1].looks_without_gain) == 0
    jax.tree.map(np.testing.assert_array_equal, states[-1], states[0])


def test_steps_that_the_looks_do_not_divide_are_all_taken():
    """The last stretch is shorter: dropping it, or running past the end, trains for another number of steps."""
    states, _ = train(OVERFIT, "overfitting")
    assert looks(OVERFIT) == 20
    assert [int(state.step) for state in states] == [*range(0, 381, 20), 390]
    further, _ = train(OVERFIT, "overfitting", calls=22)
    jax.tree.map(np.testing.assert_array_equal, further[-1], states[-1])


def test_learning_rate_warms_up_and_follows_the_cosine():
    """With a constant gradient Adam's update is the learning rate itself: a schedule one step off shows."""
    settings = TrainSettings(steps=100, warmup_steps=10, final_learning_rate_share=0.1, clip_norm=10.0)
    optimiser = make_optimiser(settings, TrainingKnobs(np.float32(0.02), np.float32(0.0)))
    parameter = {"scale": jnp.zeros(1)}
    state, rates = optimiser.init(parameter), []
    update = jit(optimiser.update)
    for _ in range(100):
        updates, state = update({"scale": jnp.ones(1)}, state, parameter)
        rates.append(-float(updates["scale"][0]))
    expected = [0.02 * (step + 1) / 10 for step in range(10)]
    expected += [0.02 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (step - 10) / 90))) for step in range(10, 100)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


def after_one_update(optimiser, parameters, gradient):
    return jit(lambda: optimiser.update(gradient, optimiser.init(parameters), parameters))()


def test_weight_decay_is_for_matrices_only():
    """Decay on the norms' scales pulls them to zero, which nanoGPT and the paper do not do."""
    optimiser = make_optimiser(TrainSettings(warmup_steps=0), TrainingKnobs(np.float32(0.1), np.float32(0.5)))
    parameters = {"matrix": np.ones((2, 2), np.float32), "scale": np.ones(2, np.float32)}
    updates, _ = after_one_update(optimiser, parameters, jax.tree.map(np.zeros_like, parameters))
    np.testing.assert_allclose(updates["matrix"], -0.1 * 0.5)
    np.testing.assert_array_equal(updates["scale"], 0)


@pytest.mark.parametrize(("size", "factor"), [(1.0, 0.4), (0.1, 1.0)])
def test_gradients_are_clipped_to_their_norm(size, factor):
    """A clip after Adam, or of each array by itself, is another step; small gradients must pass unchanged."""
    optimiser = make_optimiser(TrainSettings(beta1=0.0, clip_norm=2.0), KNOBS["usual"])
    parameters = {"matrix": np.zeros((1, 1), np.float32), "scale": np.zeros(1, np.float32)}
    gradient = {"matrix": np.full((1, 1), 3 * size, np.float32), "scale": np.full(1, 4 * size, np.float32)}
    _, state = after_one_update(optimiser, parameters, gradient)
    assert float(state[1].mu["matrix"][0, 0]) == pytest.approx(factor * 3 * size)
    assert float(state[1].mu["scale"][0]) == pytest.approx(factor * 4 * size)
