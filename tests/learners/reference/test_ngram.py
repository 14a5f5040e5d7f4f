"""The n-gram against its definition, written a second time with dictionaries and recursion."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from jaxloop.learners.reference.autoregressive import log_prob, write
from jaxloop.learners.reference.ngram import NGram, NGramState, longest_order
from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY

V = range(VOCABULARY.size)


def sequences(rows, end=EOS):
    """Rows as tuples up to and including the first `<eos>`."""
    for row in rows.tolist():
        yield tuple(row[: row.index(end) + 1] if end in row else row)


class Slow:
    """The definition in the module's docstring, one probability at a time."""

    def __init__(self, rows, order, vocabulary=VOCABULARY):
        self.order, self.count, self.discount, self.size = order, {}, {}, vocabulary.size
        for k in range(1, order + 1):
            self.count[k] = counted = Counter()
            for sequence in sequences(rows, vocabulary.end):
                padded = (vocabulary.end,) * (order - 1) + sequence
                for end in range(order, len(padded) + 1):
                    counted[padded[end - k : end]] += 1
            once, twice = (sum(c == times for c in counted.values()) for times in (1, 2))
            self.discount[k] = once / (once + 2 * twice) if once > 0 and twice > 0 else 0.5

    def p(self, k, context, token):
        """P(token | the last k - 1 tokens of the context)."""
        if k == 0:
            return 1 / self.size
        context = context[len(context) - (k - 1) :]
        counts = [self.count[k][(*context, other)] for other in range(self.size)]
        total, seen = sum(counts), [c > 0 for c in counts]
        if total == 0:
            return self.p(k - 1, context, token)
        if all(seen):
            return counts[token] / total
        if seen[token]:
            return max(counts[token] - self.discount[k], 0) / total
        left = 1 - sum(max(c - self.discount[k], 0) / total for c in counts if c > 0)
        below = [self.p(k - 1, context, other) for other in range(self.size)]
        return left * below[token] / sum(p for p, s in zip(below, seen, strict=True) if not s)


def garbage(seed, rows, width, alphabet=VOCABULARY.size):
    """Rows of tokens that favour some, with what follows the first `<eos>` left as it is."""
    generator = np.random.default_rng(seed)
    tokens = generator.permutation(VOCABULARY.size)[:alphabet]
    return generator.choice(tokens, (rows, width), p=generator.dirichlet(np.ones(alphabet))).astype(np.uint8)


TRAINING = {
    "garbage": garbage(0, 40, 7),
    "without <eos>": np.where(garbage(1, 60, 6) == EOS, 0, garbage(1, 60, 6)),
    "two tokens": garbage(2, 30, 5, 2),
    "one row": garbage(3, 1, 9),
    "many": garbage(4, 3000, 6),  # contexts after which all eight were seen
    "once each": np.array([[0, 1, 2, 3, 4, 5, 6, EOS]], np.uint8),  # n2 = 0
    "nothing once": np.array([[0, 1, EOS]] * 2, np.uint8),  # n1 = 0
    "no rows": np.zeros((0, 4), np.uint8),
    "expressions": Language(1, 3).draw(np.random.default_rng(5), 50),
}


def distribution(model, history, order):
    """Probabilities after each history (H, K) of tokens, its last order - 1 being told to the model, (H, V)."""
    state = model.start(len(history))
    for token in np.asarray(history, np.uint8).T:
        state = model.advance(state, token)
    return np.exp(model.log_probs(state))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("training", TRAINING)
def test_equals_the_definition(training, order):
    """Catches wrong counts, discounts of the wrong order, mass to tokens that were seen, a back-off that skips or
    repeats an order, and histories at the beginning of a row without their `<eos>`."""
    rows = TRAINING[training]
    model, slow = NGram(rows, order, VOCABULARY), Slow(rows, order)
    generator = np.random.default_rng(6)
    histories = [h for length in range(3) for h in itertools.product(range(EOS), repeat=length)]
    histories += [tuple(sequence[:end]) for sequence in sequences(rows[:20]) for end in range(len(sequence))]
    histories += [tuple(h) for h in generator.integers(0, EOS, (50, 5)).tolist()]
    for length, group in itertools.groupby(sorted(histories, key=len), key=len):
        group = list(group)
        found = distribution(model, np.array(group).reshape(len(group), length), order)
        expected = [[slow.p(order, (EOS,) * order + history, token) for token in V] for history in group]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 12])
def test_equals_the_definition_for_any_vocabulary(size):
    """Catches eight tokens where there are others: a base in which two contexts are one, an end that is a word, and a
    uniform distribution over too few.
    """
    vocabulary, generator = Vocabulary(size), np.random.default_rng(size)
    rows = generator.integers(0, size, (80, 6)).astype(np.uint8)
    for order in (1, 2, 3):
        model, slow = NGram(rows, order, vocabulary), Slow(rows, order, vocabulary)
        histories = generator.integers(0, vocabulary.end, (10, 4))
        found = distribution(model, histories, order)
        start = (vocabulary.end,) * order
        expected = [
            [slow.p(order, start + tuple(history), token) for token in range(size)] for history in histories.tolist()
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        np.testing.assert_allclose(distribution(model, np.zeros((1, 0), int), order).sum(), 1, atol=1e-12)


@pytest.mark.parametrize(("size", "longest"), [(2, 62), (8, 20), (12, 17), (256, 7)])
def test_the_longest_order_of_each_vocabulary(size, longest):
    """Catches codes that overflow in silence, and an order that is refused although it fits: a row that begins must be
    told from one that ends, by the first token of the longest context only.
    """
    vocabulary = Vocabulary(size)
    assert longest_order(vocabulary) == longest
    assert size**longest <= 2**63 - 1 < size ** (longest + 1)
    rows = np.full((50, longest), size - 2, np.uint8)
    rows[:, -1] = vocabulary.end
    model = NGram(rows, longest, vocabulary)
    before, after = (distribution(model, rows[:1, :read], longest)[0] for read in (longest - 2, longest - 1))
    assert before.sum() == pytest.approx(1) == after.sum()
    assert before[size - 2] > 0.98 < after[vocabulary.end]
    with pytest.raises(ValueError, match=f"from 1 to {longest}, not {longest + 1}"):
        NGram(rows, longest + 1, vocabulary)


def test_the_cases_that_training_must_reach():
    """Catches training rows of the test above that no longer hold the special cases."""
    followers = Counter(gram[:-1] for gram in Slow(TRAINING["many"], 4).count[4])
    assert VOCABULARY.size in followers.values()
    assert len(set(followers.values())) > 1
    assert 2 not in Slow(TRAINING["once each"], 1).count[1].values()
    assert 1 not in Slow(TRAINING["nothing once"], 1).count[1].values()
    assert 0 < Slow(TRAINING["expressions"], 4).discount[4] != 0.5


@pytest.mark.parametrize("order", [1, 2, 3, 6, longest_order(VOCABULARY)])
@pytest.mark.parametrize("training", TRAINING)
def test_sums_to_one_at_any_history(training, order):
    """Catches mass that is lost or given twice, tokens held impossible, and codes that overflow."""
    model = NGram(TRAINING[training], order, VOCABULARY)
    generator = np.random.default_rng(7)
    for history in (generator.integers(0, EOS, (200, 25)), TRAINING[training][:, :4], np.zeros((5, 0), int)):
        found = distribution(model, history, order)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=0, atol=1e-12)
        assert (found > 0).all()


def test_the_longest_order_tells_histories_apart():
    """Catches codes that overflow or forget: of two histories that differ in their first of 19 tokens, each goes on
    as it did in training."""
    rows = np.full((2, 21), 6, np.uint8)
    rows[0, 0], rows[1, 0], rows[0, 19], rows[1, 19] = 0, 1, 2, 3
    rows[:, 20] = EOS
    rows = np.repeat(rows, 50, axis=0)
    p = distribution(NGram(rows, 20, VOCABULARY), rows[[0, 99], :19], 20)
    assert p[0, 2] > 0.98
    assert p[1, 3] > 0.98
    shorter = distribution(NGram(rows, 19, VOCABULARY), rows[[0, 99], :19], 19)
    np.testing.assert_allclose(shorter[0], shorter[1])


def test_converges_to_the_chain_that_wrote_the_rows():
    """Catches estimates that are biased however much data there is. Chain of order 2, 400,000 tokens; each conditional
    within five standard errors."""
    generator = np.random.default_rng(8)
    chain_VxV = generator.dirichlet(np.full(VOCABULARY.size, 2.0), VOCABULARY.size)
    cumulated = chain_VxV.cumsum(axis=1)
    cumulated[:, -1] = 1
    rows = np.full((100_000, 12), EOS, np.uint8)
    last, alive = np.full(len(rows), EOS), np.ones(len(rows), bool)
    for place in range(rows.shape[1]):
        last = (cumulated[last] <= generator.random(len(rows))[:, None]).sum(axis=1)
        rows[alive, place] = last[alive]
        alive &= last != EOS
    counts = Counter(a for sequence in sequences(rows) for a in (EOS, *sequence[:-1]))
    model = NGram(rows, 2, VOCABULARY)
    for before in V:
        p = np.exp(model.log_probs(NGramState(np.array([before]))))[0]
        error = np.sqrt(chain_VxV[before] * (1 - chain_VxV[before]) / counts[before])
        assert (np.abs(p - chain_VxV[before]) < 5 * error).all()


def test_order_one_ignores_history():
    """Catches an order that is off by one."""
    p = distribution(NGram(TRAINING["garbage"], 1, VOCABULARY), np.random.default_rng(9).integers(0, EOS, (30, 4)), 1)
    assert (p == p[0]).all()


def test_what_follows_the_end_is_not_counted():
    """Catches padding counted as tokens."""
    rows = Language(1, 3).draw(np.random.default_rng(10), 100)
    wider = Language(1, 3).draw(np.random.default_rng(10), 100, width=60)
    wider[:, 40:] = 3
    probe = garbage(11, 200, 12)
    for order in (1, 3):
        one, other = (log_prob(NGram(training, order, VOCABULARY), probe) for training in (rows, wider))
        assert one.tolist() == other.tolist()


def test_rows_that_it_writes():
    """Catches written rows that are impossible to the writer, and a fit to expressions no better than the unigram's."""
    language = Language(1, 3)
    rows, fresh = (language.draw(np.random.default_rng(seed), 3000) for seed in (12, 13))
    for order in (1, 6):
        model = NGram(rows, order, VOCABULARY)
        written = write(model, np.random.default_rng(14), 1000, 30, 0.8)
        assert np.isfinite(log_prob(model, written, 0.8)).all()
        assert np.isfinite(log_prob(model, garbage(15, 100, 30))).all()
    unigram, model = (NGram(rows, order, VOCABULARY) for order in (1, 6))
    assert -log_prob(model, fresh).mean() < -log_prob(unigram, fresh).mean() / 2
    assert np.isfinite(language.log_prob(write(model, np.random.default_rng(16), 1000, 30))).mean() > 0.1


@pytest.mark.parametrize("order", [0, -1, longest_order(VOCABULARY) + 1])
def test_orders_that_do_not_fit_are_refused(order):
    """Catches codes that overflow in silence."""
    with pytest.raises(ValueError, match="order"):
        NGram(TRAINING["garbage"], order, VOCABULARY)


def test_uniform_without_data():
    """Catches an empty training set that raises or gives no distribution."""
    model = NGram(TRAINING["no rows"], 3, VOCABULARY)
    np.testing.assert_allclose(distribution(model, np.zeros((2, 2), int), 3), 1 / 8)
    assert math.isclose(log_prob(model, np.array([[0, EOS, 3]], np.uint8))[0], -2 * math.log(8))
