"""The oracle against the language's own formula, and against the masses of all prefixes of an enumerated language."""

import functools
import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from scipy.stats import chisquare

from jaxloop.learners.reference.autoregressive import log_prob, write
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.oracle import Oracle
from jaxloop.systems.logic.vocabulary import CLOSE, EOS, OPEN, VOCABULARY, encode, rows_from_ids

SMALL = [(0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2)]
SHARES = ["uniform", "skewed", "zeros"]


@functools.cache
def language_of(min_depth, max_depth, only_true, shares="uniform"):
    """A language with these shares of the choices: random ones, or those with one operator of each depth missing."""
    language = Language(min_depth, max_depth, only_true)
    if shares == "uniform":
        return language
    generator = np.random.default_rng(0)
    weights = [generator.uniform(0.1, 1, len(language.choices(depth))) for depth in range(max_depth + 1)]
    if shares == "zeros":
        for weight in weights[:-1]:
            weight[generator.integers(3)] = 0
    return Language(min_depth, max_depth, only_true, [weight / weight.sum() for weight in weights])


@functools.cache
def prefix_masses(language):
    """(rows in the support, {prefix as bytes: probability that an expression begins so}); `<eos>` is a token too."""
    rows = language.enumerate()
    probability = np.exp(language.log_prob(rows))
    rows, probability = rows[probability > 0], probability[probability > 0]
    masses = defaultdict(float)
    for row, length, p in zip(rows, (VOCABULARY.lengths(rows) + 1).tolist(), probability.tolist(), strict=True):
        whole = row.tobytes()
        for end in range(length + 1):
            masses[whole[:end]] += p
    return rows, masses


@functools.cache
def tempered_probabilities(language, temperature):
    """Probability of every row of the support: masses to the power 1 / temperature, normalised after each prefix."""
    rows, masses = prefix_masses(language)
    totals = defaultdict(float)
    for prefix, mass in masses.items():
        if prefix:
            totals[prefix[:-1]] += mass ** (1 / temperature)
    found = []
    for row, length in zip(rows, (VOCABULARY.lengths(rows) + 1).tolist(), strict=True):
        whole = row.tobytes()
        p = 1.0
        for end in range(length):
            p *= masses[whole[: end + 1]] ** (1 / temperature) / totals[whole[:end]]
        found.append(p)
    return np.array(found)


def read(oracle, prefixes):
    """Probabilities of the next token after prefixes of one length, (N, V)."""
    state = oracle.start(len(prefixes))
    for token_N in np.array(prefixes, np.uint8).reshape(len(prefixes), -1).T:
        state = oracle.advance(state, token_N)
    return np.exp(oracle.log_probs(state))


every_small_language = pytest.mark.parametrize(
    "language",
    [
        pytest.param(language_of(*depths, only_true, shares), id=f"{depths}-{'true' if only_true else 'all'}-{shares}")
        for depths in SMALL
        for only_true in (True, False)
        for shares in SHARES
    ],
)


def assert_equals_the_formula(language, rows):
    expected, found = language.log_prob(rows), log_prob(Oracle(language), rows)
    assert (np.isneginf(expected) == np.isneginf(found)).all()
    inside = np.isfinite(expected)
    assert inside.any()
    np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=1e-9)


@every_small_language
def test_equals_the_formula_of_the_language(language):
    """Catches a wrong table: choices at the wrong depth, and/or exchanged, false expressions let through."""
    assert_equals_the_formula(language, language.enumerate())


@pytest.mark.parametrize(("only_true", "shares"), [(True, "uniform"), (False, "skewed")])
def test_equals_the_formula_of_the_documented_language(only_true, shares):
    """Catches what goes wrong in one of 182,710 expressions only."""
    language = language_of(1, 3, only_true, shares)
    assert_equals_the_formula(language, language.enumerate())


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("only_true", [True, False])
@pytest.mark.parametrize(("min_depth", "max_depth", "rows"), [(1, 5, 2000), (0, 4, 2000), (5, 5, 200), (1, 8, 200)])
def test_equals_the_formula_on_draws_of_large_languages(min_depth, max_depth, rows, only_true, shares):
    """Catches pairs that go wrong in deep stacks, or after another operand has been closed above them."""
    language = language_of(min_depth, max_depth, only_true, shares)
    assert_equals_the_formula(language, language.draw(np.random.default_rng(0), rows))


@every_small_language
def test_next_token_after_every_possible_prefix(language):
    """Catches conditionals whose errors cancel along a row, sums other than 1, and possible tokens held impossible."""
    _, masses = prefix_masses(language)
    oracle = Oracle(language)
    prefixes = sorted((prefix for prefix in masses if prefix[-1:] != bytes([EOS])), key=len)
    for _, group in itertools.groupby(prefixes, key=len):
        group = list(group)
        expected = [
            [masses.get(p + bytes([token]), 0.0) / masses[p] for token in range(VOCABULARY.size)] for p in group
        ]
        found = read(oracle, [list(prefix) for prefix in group])
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=0)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=0, atol=1e-12)


def test_truth_that_is_rare():
    """Catches differences of nearly equal numbers: the only true expressions have a probability of 1e-200 in all."""
    language = Language(2, 2, True, [[1, 0, 0], [0, 1, 0], [1, 1e-200]])
    oracle = Oracle(language)
    written = write(oracle, np.random.default_rng(5), 1000, 12)
    np.testing.assert_allclose(log_prob(oracle, written), language.log_prob(written), rtol=0, atol=1e-9)
    assert len(np.unique(written, axis=0)) == 2


def test_a_state_can_be_continued_twice():
    """Catches a step that changes the state it is given."""
    oracle = Oracle(Language(1, 3))
    state = oracle.start(1)
    for token in encode("( ( not"):
        state = oracle.advance(state, np.array([token], np.uint8))
    before = oracle.log_probs(state)
    for token in encode("( True False"):
        oracle.advance(state, np.array([token], np.uint8))
        assert (oracle.log_probs(state) == before).all()


def test_worked_example():
    """Catches an oracle and a language that are wrong alike. Language(0, 1): each of not, and, or, True, False at the
    root 1/5, at depth 1 both leaves 1/2; true in 1/5 (True), 1/10 (not False), 1/20 (and), 3/20 (or) of all."""
    oracle = Oracle(Language(0, 1))
    for prefix, tokens, expected in [
        ("", "( True False", [0.6, 0.4, 0]),
        ("(", "not True False", [2 / 6, 3 / 6, 1 / 6]),
        ("( True", "and or", [1 / 3, 2 / 3]),
        ("( False", "and or", [0, 1]),
        ("( True and", "True False", [1, 0]),
    ]:
        np.testing.assert_allclose(read(oracle, [encode(prefix)])[0, encode(tokens)], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("min_depth", "max_depth", "only_true"), [(1, 3, True), (1, 5, True), (0, 2, False)])
def test_garbage_is_impossible(min_depth, max_depth, only_true):
    """Catches a finite number, an index out of range or a warning for rows that are no expressions at all."""
    language = Language(min_depth, max_depth, only_true)
    oracle = Oracle(language)
    generator = np.random.default_rng(1)
    rows = generator.integers(0, VOCABULARY.size, (20_000, 24)).astype(np.uint8)
    # Parentheses are more frequent here, so that stacks run over and under.
    rows[10_000:] = generator.choice([OPEN, CLOSE, 2, 3, 5, 6], (10_000, 24), p=[0.4, 0.3, 0.1, 0.05, 0.1, 0.05])
    expected, found = language.log_prob(rows), log_prob(oracle, rows)
    assert (np.isneginf(found) == np.isneginf(expected)).all()
    # Carried on after what is impossible, the state stays one that can be asked.
    state = oracle.start(len(rows))
    for token_N in rows.T:
        state = oracle.advance(state, token_N)
        sums_N = np.exp(oracle.log_probs(state)).sum(axis=1)
        assert (np.isclose(sums_N, 1, atol=1e-9) | (sums_N == 0)).all()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (") True", "closes nothing"),
        ("True", "a leaf above min_depth"),
        ("( not ( not ( not ( not True ) ) ) )", "too deep"),
        ("( True and False )", "false"),
        ("( not True )", "false"),
        ("( True or False ) )", "one too many"),
        ("( True or False", "unfinished"),
        ("", "empty"),
        ("and", "an operator outside"),
    ],
)
def test_log_prob_is_minus_infinity_outside(text, why):
    """Catches mass given to what the source never draws."""
    assert log_prob(Oracle(Language(1, 3)), rows_from_ids([encode(text)], 32))[0] == -math.inf, why


def test_a_row_that_fills_the_width():
    """Catches a cut-off row scored as impossible, or as if it had ended: it has the mass of all that begin so."""
    _, masses = prefix_masses(language_of(1, 2, True))
    oracle = Oracle(Language(1, 2))
    rows = Language(1, 2).draw(np.random.default_rng(2), 200)[:, :5]
    expected = [masses[row.tobytes().partition(bytes([EOS]))[0]] for row in rows]
    full = VOCABULARY.lengths(rows) == 5
    assert 0 < full.sum() < len(full)
    np.testing.assert_allclose(np.exp(log_prob(oracle, rows))[full], np.array(expected)[full], rtol=1e-9)


def assert_tempered(language, temperature):
    rows, _ = prefix_masses(language)
    found = np.exp(log_prob(Oracle(language), rows, temperature))
    np.testing.assert_allclose(found, tempered_probabilities(language, temperature), rtol=1e-9, atol=0)
    assert found.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.6, 1.7])
@every_small_language
def test_tempered_probabilities(language, temperature):
    """Catches a temperature on whole rows or on the free grammar instead of on each conditional, and lost mass."""
    assert_tempered(language, temperature)


def test_tempered_probabilities_of_the_documented_language():
    """Catches what shows only in deeper stacks, under a temperature that the language's formula knows nothing of."""
    assert_tempered(language_of(1, 3, True), 0.6)


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_written_rows_have_the_stated_frequencies(temperature, shares):
    """Catches rows written from another distribution than the one they are scored by."""
    language, rows = language_of(1, 2, True, shares), 100_000
    support, _ = prefix_masses(language)
    expected = tempered_probabilities(language, temperature)
    written = write(Oracle(language), np.random.default_rng(3), rows, support.shape[1], temperature)
    place_of = {row.tobytes(): place for place, row in enumerate(support)}
    found = np.bincount([place_of[row.tobytes()] for row in written], minlength=len(support))
    assert chisquare(found, rows * expected).pvalue > 1e-4


def test_written_rows_of_a_large_language():
    """Catches false, cut-off or foreign expressions written at depth 5, and a mean surprise that is not the entropy."""
    language = Language(1, 5)
    written = write(Oracle(language), np.random.default_rng(4), 10_000, language.longest_tokens + 1)
    nats = -language.log_prob(written)
    assert np.isfinite(nats).all()
    assert abs(nats.mean() - language.entropy_nats) < 4 * nats.std() / 100
