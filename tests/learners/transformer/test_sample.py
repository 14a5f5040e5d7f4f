import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.learners.transformer import sample as sample_module
from jaxloop.learners.transformer.model import Model, make_model
from jaxloop.learners.transformer.sample import Batches, batch_count, choose, chunk_prefixes, make_sample
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY


def every(rows: int, batch_rows: int) -> Batches:
    return Batches(jnp.int32(0), jnp.int32(batch_count(rows, batch_rows)))


def draw(model: Model, rows: int, width: int, batch_rows: int, temperature=1.0, seed=0, batches=None, parameters=None):
    """Rows, their log-probabilities, how many prefixes were read for them, and how many tokens were computed."""
    sample = jax.jit(make_sample(model, rows, width, batch_rows))
    key, knob = jax.random.key(seed), jnp.float32(temperature)
    parameters, batches = {} if parameters is None else parameters, batches or every(rows, batch_rows)
    tokens_NxT, log_prob_N, work = sample(parameters, key, knob, batches)
    tokens_NxT = np.asarray(tokens_NxT)
    assert tokens_NxT.shape == (rows, width) and tokens_NxT.dtype == np.uint8
    return tokens_NxT, np.asarray(log_prob_N), (int(work.read), int(work.computed))


def prefixes(tokens_NxT: np.ndarray) -> np.ndarray:
    """How many different prefixes go on at each position, by enumeration."""
    texts = [row_T.tobytes()[:length] for row_T, length in zip(tokens_NxT, VOCABULARY.lengths(tokens_NxT), strict=True)]
    width = tokens_NxT.shape[1]
    return np.array([len({text[:position] for text in texts if len(text) >= position}) for position in range(width)])


def read(tokens_NxT: np.ndarray) -> np.ndarray:
    """What the model reads at each position: `<eos>` to begin with, then what was written."""
    return np.concatenate([np.full((len(tokens_NxT), 1), EOS, np.uint8), tokens_NxT[:, :-1]], axis=1)


def written(tokens_NxT: np.ndarray) -> np.ndarray:
    """Where a token of a sequence stands, its `<eos>` included."""
    return np.arange(tokens_NxT.shape[1]) <= VOCABULARY.lengths(tokens_NxT)[:, None]


def assert_written_alone(tokens_NxT: np.ndarray, logits_NxTxV: np.ndarray, temperature: float = 1.0, seed: int = 0):
    """Each token is the one that a sequence by itself gets from the logits of its prefix and its own random numbers.

    By induction over the positions this is equality with a plain loop over sequences and positions, in which rounding
    may decide where a random number falls on the border of two tokens.
    """
    rows, width = tokens_NxT.shape
    sequence_keys = [jax.random.fold_in(jax.random.key(seed), sequence) for sequence in range(rows)]
    uniform_NxT = np.stack([jax.random.uniform(key, (width,)) for key in sequence_keys]).astype(np.float64)
    scaled = np.asarray(logits_NxTxV, np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    upper = np.cumsum(weights, axis=-1) / weights.sum(axis=-1, keepdims=True)
    lower = np.concatenate([np.zeros_like(upper[..., :1]), upper[..., :-1]], axis=-1)
    token = tokens_NxT[..., None].astype(int)
    upper, lower = (np.take_along_axis(bound, token, axis=-1)[..., 0] for bound in (upper, lower))
    here = written(tokens_NxT)
    fits = (lower - 1e-5 <= uniform_NxT) & (uniform_NxT < upper + 1e-5)
    assert np.all(fits[here]), f"first wrong (sequence, position): {np.argwhere(here & ~fits)[0]}"
    assert np.all(tokens_NxT[~here] == EOS)
    surely = (lower + 1e-5 <= uniform_NxT) & (uniform_NxT < upper - 1e-5)
    assert np.mean(surely[here]) > 0.999, "the borders must be rare for the test to mean anything"


# Mocks of the network: the sampler knows nothing of a model but its two functions and that a cache has nodes.


def markov_model(logits_VxV: np.ndarray, vocabulary: Vocabulary = VOCABULARY) -> Model:
    """The next token depends on the last one only."""
    table = jnp.asarray(logits_VxV, jnp.float32)
    return Model(
        vocabulary=vocabulary,
        init=None,
        apply=None,
        init_cache=jnp.zeros,
        decode=lambda parameters, token_C, position, node_CxL, first, cache: (table[token_C.astype(jnp.int32)], cache),
    )


def stopping_model() -> Model:
    """Writes one of the seven tokens at each position, and `<eos>` at position `parameters`, for all at once."""

    def decode(parameters, token_C, position, node_CxL, first, cache):
        end_V = jnp.arange(VOCABULARY.size) == EOS
        logits_V = jnp.where(end_V == (position == parameters), 0.0, -1e9)
        return jnp.tile(logits_V, (len(token_C), 1)), cache

    return Model(VOCABULARY, None, None, jnp.zeros, decode)


def path_of(node_CxL, position, first):
    """The nodes of all that each sequence has read, its newest token included."""
    own_Cx1 = first + jnp.arange(len(node_CxL))[:, None]
    return jnp.where(jnp.arange(node_CxL.shape[1])[None] == position, own_Cx1, node_CxL)


ECHO_LENGTHS = (1, 7, 8, 9, 31, 33, 1000)


def echo_model() -> Model:
    """Repeats the first token of each sequence, which only its cache knows, as often as that token says."""
    length_V = jnp.array([*ECHO_LENGTHS, 0])

    def decode(parameters, token_C, position, node_CxL, first, cache_M):
        cache_M = jax.lax.dynamic_update_slice(cache_M, token_C, (first,))
        node_CxL = path_of(node_CxL, position, first)
        first_C = cache_M[node_CxL[:, min(1, node_CxL.shape[1] - 1)]].astype(jnp.int32)
        token_C = jnp.where(position < length_V[first_C], first_C, EOS)
        logits_CxV = jnp.where(jnp.arange(VOCABULARY.size)[None] == token_C[:, None], 0, -1e9)
        return jnp.where(position == 0, 0.0, logits_CxV), cache_M

    return Model(VOCABULARY, None, None, lambda nodes: jnp.full(nodes, 99, jnp.uint8), decode)


class Remembering:
    """The next token depends on the position, on a token some positions back, and on a sum over all that was read.

    All of it is read back from the nodes of the cache, which has leaves of several shapes.
    """

    BACK = 5

    def __init__(self, width: int, end_logit: float = -1.0):
        generator = np.random.default_rng(3)
        self.position_TxV = 0.3 * generator.normal(size=(width, VOCABULARY.size)).astype(np.float32)
        self.position_TxV[:, EOS] += end_logit
        self.back_VxV = 0.5 * generator.normal(size=(VOCABULARY.size, VOCABULARY.size)).astype(np.float32)
        self.sum_13xV = 0.7 * generator.normal(size=(13, VOCABULARY.size)).astype(np.float32)
        self.factor_T = generator.integers(1, 13, width)
        self.model = Model(VOCABULARY, None, None, self.init_cache, self.decode)

    def init_cache(self, nodes):
        return {"token": jnp.zeros((nodes, 2), jnp.uint8), "product": [jnp.zeros((nodes, 1, 3), jnp.int32)]}

    def decode(self, parameters, token_C, position, node_CxL, first, cache):
        product_C = token_C * (jnp.asarray(self.factor_T)[position] + 1)
        cache = {
            "token": jax.lax.dynamic_update_slice(cache["token"], token_C[:, None], (first, 1)),
            "product": [jax.lax.dynamic_update_slice(cache["product"][0], product_C[:, None, None], (first, 0, 2))],
        }
        node_CxL = path_of(node_CxL, position, first)
        back_C = cache["token"][node_CxL[:, jnp.maximum(position - self.BACK, 0)], 1].astype(jnp.int32)
        seen_L = jnp.arange(node_CxL.shape[1]) <= position
        sum_C = jnp.sum(cache["product"][0][node_CxL, 0, 2] * seen_L[None], axis=1)
        logits_CxV = jnp.asarray(self.back_VxV)[back_C] + jnp.asarray(self.sum_13xV)[sum_C % 13]
        return logits_CxV + jnp.asarray(self.position_TxV)[position][None], cache

    def logits(self, tokens_NxT: np.ndarray) -> np.ndarray:
        """The same from whole rows, in NumPy."""
        inputs_NxT = read(tokens_NxT).astype(int)
        back_T = np.maximum(np.arange(inputs_NxT.shape[1]) - self.BACK, 0)
        sum_NxT = np.cumsum(inputs_NxT * (self.factor_T + 1), axis=1) % 13
        return self.back_VxV[inputs_NxT[:, back_T]] + self.sum_13xV[sum_NxT] + self.position_TxV


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
    logits_V = np.full(VOCABULARY.size, np.log((1 - stop) / 7))
    logits_V[EOS] = np.log(stop)
    rows, width = 20_000, 64
    rows_NxT, _, (read_tokens, computed) = draw(markov_model(np.tile(logits_V, (8, 1))), rows, width, 777)
    length_N = VOCABULARY.lengths(rows_NxT)
    expected = np.append(stop * (1 - stop) ** np.arange(width), (1 - stop) ** width)
    counts = np.bincount(length_N, minlength=width + 1)
    deviation = np.sqrt(rows * expected * (1 - expected))
    assert np.all(np.abs(counts - rows * expected) < 5 * deviation + 1)
    assert counts[width] > 0, "some sequence must fill the context for the test to mean anything"
    assert read_tokens <= computed < np.minimum(length_N + 1, width).sum() < rows * width / 6


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_transitions_follow_the_softmax_at_the_temperature(temperature):
    """A temperature that multiplies, or acts on the cumulated probabilities, gives other frequencies."""
    logits_VxV = np.random.default_rng(1).normal(size=(8, 8))
    rows_NxT, *_ = draw(markov_model(logits_VxV), 5000, 20, 1000, temperature)
    before, alive = read(rows_NxT), written(rows_NxT)
    expected_VxV = np.exp(logits_VxV / temperature)
    expected_VxV /= expected_VxV.sum(axis=1, keepdims=True)
    for token in range(8):
        followers = rows_NxT[alive & (before == token)]
        share = np.bincount(followers, minlength=8) / len(followers)
        deviation = np.sqrt(expected_VxV[token] * (1 - expected_VxV[token]) / len(followers))
        assert np.all(np.abs(share - expected_VxV[token]) < 5 * deviation + 1e-3)


@pytest.mark.parametrize("size", [2, 12, 256])
def test_transitions_of_a_vocabulary_of_another_size(size):
    """Branches that are numbered by eights share nodes between prefixes, and the greatest of another vocabulary's
    tokens is a word and no end: rows would go on after it, or end at the wrong one.
    """
    vocabulary = Vocabulary(size)
    logits_VxV = np.random.default_rng(size).normal(size=(size, size))
    logits_VxV[:, vocabulary.end] += np.log(size / 8)  # however many others there are
    rows_NxT, *_ = draw(markov_model(logits_VxV, vocabulary), 4000, 20, 1000)
    length_N = vocabulary.lengths(rows_NxT)
    alive = np.arange(20) <= length_N[:, None]
    assert np.all(rows_NxT[~alive] == vocabulary.end) and len(np.unique(length_N)) > 10
    before = np.concatenate([np.full((4000, 1), vocabulary.end, np.uint8), rows_NxT[:, :-1]], axis=1)
    counts_VxV = np.zeros((size, size))
    np.add.at(counts_VxV, (before[alive], rows_NxT[alive]), 1)
    probability_VxV = np.exp(logits_VxV) / np.exp(logits_VxV).sum(axis=1, keepdims=True)
    expected_VxV = counts_VxV.sum(axis=1, keepdims=True) * probability_VxV
    common = expected_VxV > 10
    z = (counts_VxV - expected_VxV)[common] / np.sqrt((expected_VxV * (1 - probability_VxV))[common])
    assert common.sum() >= 4 and np.abs(z).max() < 6


# What is written does not depend on how.

REMEMBERING = Remembering(width=50)


@pytest.fixture(scope="module")
def remembered():
    """Rows as the settings of today write them, checked against the logits of their own prefixes."""
    rows_NxT, *_ = draw(REMEMBERING.model, 203, 50, 60, 0.9, seed=7)
    assert_written_alone(rows_NxT, REMEMBERING.logits(rows_NxT), 0.9, seed=7)
    length_N = VOCABULARY.lengths(rows_NxT)
    assert len(np.unique(length_N)) > 35 and np.sum(length_N == 50) > 5 and np.sum(length_N == 0) > 0
    return rows_NxT


@pytest.mark.parametrize(
    ("batch_rows", "chunk", "shortest_read"),
    [
        (1000, 1000, 16),  # one batch in one chunk, as on an accelerator
        (7, 7, 16),
        (60, 13, 32),
        (203, 1, 16),
        (64, 16, 1),
        (64, 16, 50),
    ],
)
def test_rows_do_not_depend_on_how_they_are_written(remembered, monkeypatch, batch_rows, chunk, shortest_read):
    """A sequence whose past, last token or random numbers are somebody else's after any branching, chunk or batch reads
    another past, and goes on with other tokens.
    """
    monkeypatch.setattr(sample_module, "chunk_prefixes", lambda rows: min(chunk, rows))
    monkeypatch.setattr(sample_module, "_SHORTEST_READ", shortest_read)
    rows_NxT, *_ = draw(REMEMBERING.model, 203, 50, batch_rows, 0.9, seed=7)
    np.testing.assert_array_equal(rows_NxT, remembered)


@pytest.mark.parametrize(("rows", "width"), [(31, 50), (65, 33), (1, 20), (65, 2)])
def test_any_number_of_rows_of_any_width(remembered, rows, width):
    """Rows that are left over from whole chunks and batches, and contexts that are no power of two, are where a row
    is lost, written twice or cut.
    """
    source = REMEMBERING if width == 50 else Remembering(width, end_logit=-2.0)
    rows_NxT, *_ = draw(source.model, rows, width, 30, 0.9, seed=7)
    assert_written_alone(rows_NxT, source.logits(rows_NxT), 0.9, seed=7)
    if width == 50:
        np.testing.assert_array_equal(rows_NxT, remembered[:rows])
    elif rows > 1:
        assert np.sum(VOCABULARY.lengths(rows_NxT) == width) > 0, "some sequence must fill the context"


def test_a_mapped_axis_changes_no_row(monkeypatch):
    """So accelerators write the rows of several loops: a loop that is done, or not in use, must stay as it is while
    others go on, at its own temperature and with its own parameters.
    """
    monkeypatch.setattr(sample_module, "chunk_prefixes", lambda rows: rows)
    source = Remembering(40)
    keys = jax.random.split(jax.random.key(1), 4)
    temperatures, batches = jnp.array([0.5, 1.0, 1.0, 2.0]), Batches(jnp.array([0, 0, 0, 2]), jnp.array([6, 6, 0, 3]))
    sample = make_sample(source.model, 90, 40, 15)
    together = jax.jit(jax.vmap(sample))({}, keys, temperatures, batches)
    alone = jax.jit(sample)
    together_work = together[2]
    assert together_work.read[2] == 0 and np.all(together[0][2] == EOS) and np.all(together[1][2] == 0)
    for place in (0, 1, 3):
        own = Batches(batches.first[place], batches.count[place])
        rows_NxT, log_prob_N, work = alone({}, keys[place], temperatures[place], own)
        np.testing.assert_array_equal(together[0][place], rows_NxT)
        np.testing.assert_allclose(together[1][place], log_prob_N, rtol=1e-6, atol=1e-6)
        assert together_work.read[place] == work.read and together_work.computed[place] >= work.computed
    assert len(set(together_work.read.tolist())) == 4, "the loops must differ"
    # Loops that are mapped together are computed as long as one of them is.
    assert len(set(together_work.computed.tolist())) == 1


# How much is computed.


@pytest.mark.parametrize(
    ("rows", "width", "batch_rows", "echo"),
    [(256, 64, 64, True), (300, 30, 100, False), (90, 9, 45, False), (50, 2, 50, True)],
)
def test_each_prefix_is_read_once(monkeypatch, rows, width, batch_rows, echo):
    """Sequences that do not share their beginnings, or are read on when nobody goes on from them, cost what a full
    context costs; prefixes that are shared or given up too early end in a row that does not fit its model.
    """
    chunk = 10 if rows % 10 == 0 else 16
    monkeypatch.setattr(sample_module, "chunk_prefixes", lambda rows: chunk)
    remembering = Remembering(width)
    rows_NxT, _, (read_tokens, computed) = draw(
        echo_model() if echo else remembering.model, rows, width, batch_rows, seed=3
    )
    if echo:
        expected_NxT = np.full((rows, width), EOS, np.uint8)
        for sequence in range(rows):
            uniform = jax.random.uniform(jax.random.fold_in(jax.random.key(3), sequence), (width,))[0]
            first = int(uniform * VOCABULARY.size)
            expected_NxT[sequence, : (*ECHO_LENGTHS, 0)[first]] = first
        np.testing.assert_array_equal(rows_NxT, expected_NxT)
    else:
        assert_written_alone(rows_NxT, remembering.logits(rows_NxT), seed=3)
    # The last batch is a whole one here, so every prefix is one of a row that we see.
    count_BxT = np.stack([prefixes(batch_NxT) for batch_NxT in rows_NxT.reshape(-1, batch_rows, width)])
    assert read_tokens == count_BxT.sum() < written(rows_NxT).sum()
    assert computed == (-(-count_BxT // chunk) * chunk).sum()


def test_a_collapsed_model_costs_one_sequence():
    """Where all sequences are the same, their number must not matter."""
    rows_NxT, _, (read_tokens, computed) = draw(
        markov_model(np.where(np.eye(8, k=1), 0.0, -1e9)[[*range(7), 0]]), 400, 30, 400
    )
    assert len(np.unique(rows_NxT, axis=0)) == 1
    assert read_tokens == written(rows_NxT)[0].sum() and computed == 32 * read_tokens


@pytest.fixture(scope="module")
def stopping():
    sample = jax.jit(make_sample(stopping_model(), 128, 40, 64))
    return lambda stop: sample(jnp.int32(stop), jax.random.key(0), jnp.float32(1), every(128, 64))


@pytest.mark.parametrize("stop", [0, 1, 6, 7, 8, 9, 15, 16, 31, 32, 33, 39, 40])
def test_everyone_stops_at_once(stopping, stop):
    """Where more positions are read from here on, a position is easily written twice, skipped, or written for a batch
    in which nobody is left.
    """
    rows_NxT, _, work = stopping(stop)
    assert np.all(VOCABULARY.lengths(np.asarray(rows_NxT)) == stop)
    read_tokens = sum(prefixes(batch_NxT).sum() for batch_NxT in np.asarray(rows_NxT).reshape(2, 64, 40))
    assert work.read == read_tokens >= 2 * min(stop + 1, 40)


def test_chunks_are_small_on_a_cpu_only(monkeypatch):
    """A CPU core is slow over hundreds of prefixes, and an accelerator no faster over a few."""
    assert [chunk_prefixes(rows) for rows in (1, 31, 32, 33, 2500)] == [1, 31, 32, 32, 32]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [chunk_prefixes(rows) for rows in (1, 31, 32, 33, 2500)] == [1, 31, 32, 33, 512]


def test_batches_that_are_not_asked_for_are_empty_and_free(remembered):
    """Devices share a loop's batches: one that is written twice, by nobody, or moved, costs time or is lost."""
    whole = draw(REMEMBERING.model, 203, 50, 40, 0.9, seed=7)[-1]
    place_N, works = np.arange(203) // 34, []  # six batches of 34
    for first, count in ((0, 2), (2, 0), (2, 3), (5, 1)):
        batches = Batches(jnp.int32(first), jnp.int32(count))
        rows_NxT, log_prob_N, work = draw(REMEMBERING.model, 203, 50, 40, 0.9, seed=7, batches=batches)
        asked_for = (first <= place_N) & (place_N < first + count)
        assert np.array_equal(log_prob_N < 0, asked_for)
        np.testing.assert_array_equal(rows_NxT, np.where(asked_for[:, None], remembered, EOS))
        works.append(work)
    assert works[1] == (0, 0)
    assert tuple(np.sum(works, axis=0)) == whole


# The transformer.


def transformer(settings: ModelSettings, seed: int):
    """A model whose untrained parameters are large enough that its past matters."""
    model = make_model(settings, VOCABULARY)
    return model, jax.tree.map(lambda leaf: leaf * 6 if leaf.ndim > 1 else leaf, model.init(jax.random.key(seed)))


def prefix_logits(model: Model, parameters: dict, tokens_NxT: np.ndarray) -> np.ndarray:
    """Logits after each prefix, each from a forward pass over that prefix alone."""
    apply = jax.jit(model.apply)
    inputs_NxT = read(tokens_NxT)
    width = inputs_NxT.shape[1]
    depth_NxT = np.broadcast_to(np.arange(width, dtype=np.uint8), inputs_NxT.shape)
    logits = []
    for position in range(width):
        prefix_NxT = np.where(np.arange(width) <= position, inputs_NxT, EOS)
        logits.append(apply(parameters, prefix_NxT, depth_NxT)[:, position])
    return np.stack(logits, axis=1)


SMALL = ModelSettings(layers=2, heads=2, width=16, context_tokens=20, activations="float32")


def test_the_transformer_writes_what_its_forward_pass_says(monkeypatch):
    """A layer's keys or values that are somebody else's, or lost where more positions are read, give other logits than
    a forward pass over the whole prefix.
    """
    monkeypatch.setattr(sample_module, "chunk_prefixes", lambda rows: min(7, rows))
    monkeypatch.setattr(sample_module, "_SHORTEST_READ", 4)
    model, parameters = transformer(SMALL, 4)
    rows_NxT, *_ = draw(model, 101, 20, 40, 0.7, seed=2, parameters=parameters)
    assert_written_alone(rows_NxT, prefix_logits(model, parameters, rows_NxT), 0.7, seed=2)
    assert len(np.unique(VOCABULARY.lengths(rows_NxT))) > 8 and np.sum(VOCABULARY.lengths(rows_NxT) == 20) > 0


def test_mapped_transformers_write_what_their_forward_passes_say(monkeypatch):
    """Each loop's rows must come from its own parameters, as accelerators compute them."""
    monkeypatch.setattr(sample_module, "chunk_prefixes", lambda rows: rows)
    monkeypatch.setattr(sample_module, "_SHORTEST_READ", 8)
    model, _ = transformer(SMALL, 0)
    members = [transformer(SMALL, seed)[1] for seed in (1, 2)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    keys = jnp.stack([jax.random.key(5), jax.random.key(6)])
    sample = jax.jit(jax.vmap(make_sample(model, 50, 20, 25), in_axes=(0, 0, 0, None)))
    rows_PxNxT, *_ = sample(together, keys, jnp.array([0.7, 1.3]), every(50, 25))
    for place, (parameters, temperature, seed) in enumerate(zip(members, (0.7, 1.3), (5, 6), strict=True)):
        rows_NxT = np.asarray(rows_PxNxT[place])
        assert_written_alone(rows_NxT, prefix_logits(model, parameters, rows_NxT), temperature, seed)


def test_a_row_does_not_depend_on_the_batch_it_is_written_in():
    """Random numbers that belong to the batch would make results depend on a setting of speed."""
    model, parameters = transformer(SMALL, 0)
    rows = [draw(model, 50, 20, batch_rows, seed=1, parameters=parameters)[0] for batch_rows in (50, 7)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert len(np.unique(rows[0], axis=0)) > 40


def test_sampling_follows_the_model_that_the_forward_pass_defines():
    """A cache that leaks between sequences or batches gives texts that the model itself finds improbable; needs no
    knowledge of where the random numbers come from.
    """
    model, parameters = transformer(SMALL, 4)
    rows, temperature = 4000, 0.7
    rows_NxT, *_ = draw(model, rows, 20, 500, temperature, seed=2, parameters=parameters)
    depth_NxT = np.broadcast_to(np.arange(20, dtype=np.uint8), rows_NxT.shape)
    log_probs = jax.nn.log_softmax(jax.jit(model.apply)(parameters, read(rows_NxT), depth_NxT) / temperature, axis=-1)
    own = np.take_along_axis(np.asarray(log_probs), rows_NxT[..., None].astype(int), axis=-1)[..., 0]
    entropy = -np.sum(np.exp(log_probs) * log_probs, axis=-1)
    # At each place the surprise of the drawn token has the entropy of its distribution as its mean.
    surplus = (-own - entropy)[written(rows_NxT)]
    assert abs(surplus.mean()) < 5 * surplus.std() / np.sqrt(len(surplus))
    assert surplus.std() > 0.3
