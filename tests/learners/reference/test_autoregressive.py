"""Writing and scoring against sums over every row that a small chain can write."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import chisquare

from jaxloop.learners.reference.autoregressive import Autoregressive, log_prob, temper, write
from jaxloop.learners.reference.ngram import NGram
from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY

WIDTH = 4
TEMPERATURES = [1.0, 0.6, 2.5]


class Last(NamedTuple):
    """The last two tokens of each row; `<eos>` before its first."""

    before_N: np.ndarray
    last_N: np.ndarray


class Given:
    """A generator of these uniform numbers."""

    def __init__(self, uniform):
        self.uniform = np.asarray(uniform, float)

    def random(self, shape):
        return self.uniform.reshape(shape)


class Chain:
    """Next token by the last two; notes what it was asked."""

    vocabulary = VOCABULARY

    def __init__(self, probability_VxVxV):
        self.table = np.full(probability_VxVxV.shape, -np.inf)
        np.log(probability_VxVxV, out=self.table, where=probability_VxVxV > 0)
        self.asked = []

    def start(self, rows):
        return Last(np.full(rows, EOS), np.full(rows, EOS))

    def log_probs(self, state):
        self.asked.append(len(state.last_N))
        return self.table[state.before_N, state.last_N]

    def advance(self, state, token_N):
        assert (token_N != EOS).all()
        return Last(state.last_N, token_N.astype(int))


@pytest.fixture
def chain():
    """Tokens 1, 4, 5 and `<eos>`, after each pair of tokens some of them; after (4, 4) none."""
    generator = np.random.default_rng(0)
    probability = np.zeros((VOCABULARY.size,) * 3)
    probability[..., [1, 4, 5, EOS]] = generator.dirichlet(np.ones(4), (VOCABULARY.size, VOCABULARY.size))
    probability[5, :, 4] = probability[1, 1, EOS] = 0
    probability /= probability.sum(axis=-1, keepdims=True)
    probability[4, 4] = 0
    return Chain(probability)


def brute(chain, temperature):
    """{row: probability} of every row of the width, `<eos>` after its end, by the definition, one at a time."""
    found = {}
    for row in itertools.product([1, 4, 5, EOS], repeat=WIDTH):
        end = row.index(EOS) + 1 if EOS in row else WIDTH
        if any(token != EOS for token in row[end:]):
            continue
        p, before = 1.0, (EOS, EOS)
        for token in row[:end]:
            weights = [math.exp(x / temperature) for x in chain.table[before]]
            p *= weights[token] / sum(weights) if sum(weights) else 0.0
            before = (before[1], token)
        found[row] = p
    return found


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_log_prob_of_every_row(chain, temperature):
    """Catches a temperature that multiplies or is not normalised anew, a lost `<eos>`, and cut-off rows taken as
    impossible or as ended."""
    expected = brute(chain, temperature)
    rows = np.array(list(expected), np.uint8)
    found = log_prob(chain, rows, temperature)
    assert found.dtype == np.float64
    np.testing.assert_allclose(np.exp(found), list(expected.values()), rtol=1e-12)
    assert (np.isneginf(found) == (np.array(list(expected.values())) == 0)).all()
    assert 0 < np.isneginf(found).sum() < len(rows)
    assert (VOCABULARY.lengths(rows[np.isfinite(found)]) == WIDTH).any()


def test_log_prob_of_any_ids(chain):
    """Catches what follows `<eos>` being read, equal rows mixed up, and garbage that raises or warns."""
    rows = np.random.default_rng(1).integers(0, VOCABULARY.size, (5000, WIDTH)).astype(np.uint8)
    clean = np.where(np.arange(WIDTH) < VOCABULARY.lengths(rows)[:, None], rows, EOS)
    expected = brute(chain, 0.6)
    found = log_prob(chain, rows, 0.6)
    np.testing.assert_allclose(np.exp(found), [expected.get(tuple(row), 0.0) for row in clean.tolist()], rtol=1e-12)
    assert np.isfinite(found).any()
    assert log_prob(chain, rows[:0], 0.6).shape == (0,)
    assert log_prob(chain, rows[:, :1]).shape == (5000,)


def test_only_rows_under_way_are_read(chain):
    """Catches finished, impossible or repeated rows that the model is asked about again and again."""
    rows = np.array([[1, EOS, EOS, EOS], [0, 1, 1, 1], [1, 5, 1, 5], [1, 5, 1, 5]], np.uint8)
    log_prob(chain, rows)
    assert chain.asked == [3, 2, 1, 1]
    chain.asked.clear()
    written = write(chain, np.random.default_rng(2), 500, WIDTH)
    assert chain.asked == [np.count_nonzero(VOCABULARY.lengths(written) >= place) for place in range(WIDTH)]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_written_rows_have_the_stated_frequencies(chain, temperature):
    """Catches biased choices, impossible tokens, rows that are dropped, and writing at another temperature."""
    chain.table[4, 4, EOS] = 0.0  # what is written after a dead prefix has a test of its own
    expected = {row: p for row, p in brute(chain, temperature).items() if p > 0}
    assert math.fsum(expected.values()) == pytest.approx(1, abs=1e-12)
    rows = 100_000
    written = write(chain, np.random.default_rng(3), rows, WIDTH, temperature)
    assert written.shape == (rows, WIDTH)
    assert written.dtype == np.uint8
    values, counts = np.unique(written, axis=0, return_counts=True)
    observed = dict(zip(map(tuple, values.tolist()), counts.tolist(), strict=True))
    assert observed.keys() <= expected.keys()
    found, wanted = np.array([(observed.get(row, 0), rows * p) for row, p in expected.items()]).T
    rare = wanted < 10
    if rare.any():
        found, wanted = (np.append(values[~rare], values[rare].sum()) for values in (found, wanted))
    assert chisquare(found, wanted).pvalue > 1e-4


def test_rows_follow_from_the_generator_and_their_place(chain):
    """Catches hidden state, and a row that depends on how many others are written, or which, or on where they end."""
    uniform = np.random.default_rng(4).random((300, WIDTH))
    assert (write(chain, Given(uniform), 300, WIDTH)[::-1] == write(chain, Given(uniform[::-1]), 300, WIDTH)).all()
    first = write(chain, np.random.default_rng(4), 300, WIDTH)
    assert (first == write(chain, np.random.default_rng(4), 300, WIDTH)).all()
    assert (first[:7] == write(chain, np.random.default_rng(4), 7, WIDTH)).all()
    assert (first != write(chain, np.random.default_rng(5), 300, WIDTH)).any()
    assert write(chain, np.random.default_rng(4), 0, WIDTH).shape == (0, WIDTH)


def test_the_slice_in_which_the_uniform_number_falls():
    """Catches a sampler that is right in the mean only: tokens in another order, bounds on the wrong side, tokens of
    probability 0 at the very ends of the range."""
    uniform = [0.0, 0.2499, 0.25, 0.74, 0.75, 1 - 2**-53]
    probability = np.zeros((VOCABULARY.size,) * 3)
    probability[..., [1, 3, 5]] = 0.25, 0.5, 0.25
    assert write(Chain(probability), Given(uniform), 6, 1).tolist() == [[1], [1], [3], [3], [5], [5]]


def test_a_dead_prefix_is_ended():
    """Catches a loop that never ends, a warning, or a token id of 8, where the model holds nothing possible."""
    chain = Chain(np.zeros((VOCABULARY.size,) * 3))
    assert (write(chain, np.random.default_rng(0), 3, WIDTH) == EOS).all()
    assert np.isneginf(log_prob(chain, np.full((3, WIDTH), EOS, np.uint8), 0.6)).all()


def test_temper_keeps_what_is_far_below():
    """Catches a logarithm of an underflown exponential: nats of thousands, at low temperature, are finite."""
    tempered = temper(np.array([[0.0, -20.0, -np.inf]]), 0.01)
    assert tempered.tolist() == [[0.0, -2000.0, -np.inf]]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(chain, temperature):
    """Catches rows of NaN instead of a refusal."""
    with pytest.raises(ValueError, match="temperature"):
        write(chain, np.random.default_rng(0), 3, WIDTH, temperature)


@pytest.mark.parametrize("size", [2, 12])
def test_a_vocabulary_of_another_size(size):
    """Catches the eighth token taken for the end where there are fewer or more, a row that goes on after its end, and
    mass that is lost or given twice: all rows of three places have probability 1 together.
    """
    vocabulary, width = Vocabulary(size), 3
    training = np.random.default_rng(size).integers(0, size, (200, width)).astype(np.uint8)
    model = Autoregressive(NGram(training, 2, vocabulary), width)
    everything = np.array(list(itertools.product(range(size), repeat=width)), np.uint8)
    after_end = np.arange(width) >= vocabulary.lengths(everything)[:, None]
    rows = np.unique(np.where(after_end, vocabulary.end, everything), axis=0).astype(np.uint8)
    for temperature in TEMPERATURES:
        assert np.exp(model.log_prob(rows, temperature)).sum() == pytest.approx(1, abs=1e-12)
        written = model.write(np.random.default_rng(0), 2000, temperature)
        assert written.shape == (2000, width) and written.max() == vocabulary.end
        assert set(map(bytes, written)) <= set(map(bytes, rows))
    assert len(np.unique(written)) == size
