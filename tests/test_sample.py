import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.config import ModelSettings
from jaxloop.model import Model, make_model
from jaxloop.sample import choose, make_sample
from jaxloop.vocabulary import EOS, VOCABULARY_SIZE, lengths


def markov_model(logits_VxV: np.ndarray) -> Model:
    """A mock of the network: the next token depends on the last one only, with these logits."""
    table = jnp.asarray(logits_VxV, jnp.float32)
    return Model(
        init=None,
        apply=None,
        init_cache=lambda rows: jnp.zeros(rows),
        decode=lambda parameters, token_B, position, cache: (table[token_B.astype(jnp.int32)], cache),
    )


def draw(model: Model, rows: int, width: int, batch_rows: int, temperature: float = 1.0, seed: int = 0, active=True):
    sample = jax.jit(make_sample(model, rows, width, batch_rows))
    return np.asarray(sample({}, jax.random.key(seed), jnp.float32(temperature), jnp.bool_(active)))


def test_choose_gives_each_token_its_share_of_the_unit_interval():
    """A slice of the cumulated softmax assigned to the wrong neighbour, or a gap at either end, shifts the shares."""
    logits_V = np.array([0.3, -np.inf, 1.2, -3.0, 0.0, -np.inf, 2.0, -1.0], np.float32)
    grid = (np.arange(100_000) + 0.5) / 100_000
    chosen = np.asarray(choose(jnp.broadcast_to(jnp.asarray(logits_V), (100_000, 8)), jnp.asarray(grid, jnp.float32)))
    expected = np.exp(logits_V) / np.exp(logits_V).sum()
    np.testing.assert_allclose(np.bincount(chosen, minlength=8) / 100_000, expected, atol=2e-5)
    edges = choose(jnp.asarray(logits_V)[None].repeat(2, 0), jnp.array([0.0, 1 - 2.0**-24]))
    assert edges.tolist() == [0, 7]


def test_no_length_bias():
    """Taking the first to finish favours short sequences: with a constant chance of `<eos>` lengths are geometric."""
    stop = 0.1
    logits_V = np.full(VOCABULARY_SIZE, np.log((1 - stop) / 7))
    logits_V[EOS] = np.log(stop)
    rows, width = 20_000, 64
    length_N = lengths(draw(markov_model(np.tile(logits_V, (8, 1))), rows, width, 777))
    assert len(length_N) == rows
    expected = np.append(stop * (1 - stop) ** np.arange(width), (1 - stop) ** width)
    counts = np.bincount(length_N, minlength=width + 1)
    deviation = np.sqrt(rows * expected * (1 - expected))
    assert np.all(np.abs(counts - rows * expected) < 5 * deviation + 1)
    assert counts[width] > 0, "some sequence must fill the context for the test to mean anything"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_transitions_follow_the_softmax_at_the_temperature(temperature):
    """A temperature that multiplies, or acts on the cumulated probabilities, gives other frequencies."""
    logits_VxV = np.random.default_rng(1).normal(size=(8, 8))
    rows_NxT = draw(markov_model(logits_VxV), 5000, 20, 1000, temperature)
    before = np.concatenate([np.full((5000, 1), EOS, np.uint8), rows_NxT[:, :-1]], axis=1)
    alive = np.arange(20) <= lengths(rows_NxT)[:, None]
    expected_VxV = np.exp(logits_VxV / temperature)
    expected_VxV /= expected_VxV.sum(axis=1, keepdims=True)
    for token in range(8):
        followers = rows_NxT[alive & (before == token)]
        share = np.bincount(followers, minlength=8) / len(followers)
        deviation = np.sqrt(expected_VxV[token] * (1 - expected_VxV[token]) / len(followers))
        assert np.all(np.abs(share - expected_VxV[token]) < 5 * deviation + 1e-3)


def test_a_row_does_not_depend_on_the_batch_it_is_written_in():
    """Random numbers that belong to the batch would make results depend on a setting of speed."""
    model = make_model(ModelSettings(layers=1, heads=2, width=16, context_tokens=16))
    parameters = model.init(jax.random.key(0))
    written = [
        np.asarray(
            jax.jit(make_sample(model, 50, 16, size))(parameters, jax.random.key(1), jnp.float32(1), jnp.bool_(True))
        )
        for size in (50, 16, 7)
    ]
    np.testing.assert_array_equal(written[0], written[1])
    np.testing.assert_array_equal(written[0], written[2])
    assert len(np.unique(written[0], axis=0)) > 40


def test_rows_end_in_eos_only_and_stay_ended():
    """A sequence that goes on after its `<eos>`, or a row of an inactive place that is computed, is no sample."""
    rows_NxT = draw(markov_model(np.zeros((8, 8))), 300, 12, 64)
    after_NxT = np.arange(12) >= lengths(rows_NxT)[:, None]
    assert np.all((rows_NxT == EOS) == after_NxT)
    assert np.all(draw(markov_model(np.zeros((8, 8))), 300, 12, 64, active=False) == EOS)


def test_sampling_follows_the_model_that_the_forward_pass_defines():
    """A cache that leaks between sequences or batches gives texts that the model itself finds improbable."""
    model = make_model(ModelSettings(layers=2, heads=2, width=16, context_tokens=8))
    parameters = jax.tree.map(lambda leaf: leaf * 6 if leaf.ndim > 1 else leaf, model.init(jax.random.key(4)))
    rows, temperature = 6000, 0.7
    sample = jax.jit(make_sample(model, rows, 8, 500))
    rows_NxT = np.asarray(sample(parameters, jax.random.key(2), jnp.float32(temperature), jnp.bool_(True)))
    inputs_NxT = np.concatenate([np.full((rows, 1), EOS, np.uint8), rows_NxT[:, :-1]], axis=1)
    alive = np.arange(8) <= lengths(rows_NxT)[:, None]
    inputs_NxT = np.where(alive, inputs_NxT, EOS)
    log_probs = jax.nn.log_softmax(model.apply(parameters, inputs_NxT) / temperature, axis=-1)
    own = np.take_along_axis(np.asarray(log_probs), rows_NxT[..., None].astype(int), axis=-1)[..., 0]
    entropy = -np.sum(np.exp(log_probs) * log_probs, axis=-1)
    # At each place the surprise of the drawn token has the entropy of its distribution as its mean.
    surplus = (-own - entropy)[alive]
    assert abs(surplus.mean()) < 5 * surplus.std() / np.sqrt(len(surplus))
    assert surplus.std() > 0.3
