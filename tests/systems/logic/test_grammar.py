"""The fit against the conditions of a maximum, found by plain sums and by a general optimiser; and tempering."""

import functools
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from jaxloop.errors import InputError, RunError
from jaxloop.systems.logic.grammar import choice_counts, fit_grammar, tempered
from jaxloop.systems.logic.judge import judge_jitted
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import CLOSE, EOS, OPEN, VOCABULARY, encode, rows_from_ids

SOURCES = [(1, 2, True), (0, 2, True), (2, 2, True), (0, 1, True), (1, 2, False)]


def counts_of(row, max_depth):
    """(D, V) choices of one row, token by token."""
    counts, opened = np.zeros((max_depth + 1, VOCABULARY.size)), 0
    for token in row[: row.tolist().index(EOS)]:
        if token in (OPEN, CLOSE):
            opened += 1 if token == OPEN else -1
        else:
            counts[opened - (token in encode("not and or")), token] += 1
    return counts


@functools.cache
def enumerated(min_depth, max_depth):
    """All rows, and the choices (N, D, V) of each."""
    rows = Language(min_depth, max_depth).enumerate()
    return rows, np.array([counts_of(row, max_depth) for row in rows])


def skewed(min_depth, max_depth, only_true=True, seed=0):
    """A language with random probabilities, none below 0.05."""
    language, generator = Language(min_depth, max_depth, only_true), np.random.default_rng(seed)
    weights = [generator.random(len(language.choices(depth))) + 0.3 for depth in range(max_depth + 1)]
    return Language(min_depth, max_depth, only_true, [weight / weight.sum() for weight in weights])


def shares_of(language):
    return np.concatenate([language.probabilities(depth) for depth in range(language.max_depth + 1)])


def frequencies(language, rows):
    """The language with the frequencies of the choices in rows that reach every depth."""
    counts = choice_counts(language, rows)
    shares = [counts[depth, list(language.choices(depth))] for depth in range(language.max_depth + 1)]
    return Language(language.min_depth, language.max_depth, language.only_true, [x / x.sum() for x in shares])


def rows_of(language, *texts):
    return rows_from_ids([encode(text) for text in texts], language.longest_tokens + 1)


def test_counts_of_choices():
    """Catches choices counted at the depth of their parentheses, and what follows the first `<eos>`."""
    language = Language(0, 4, False)
    rows = language.draw(np.random.default_rng(0), 300, 80)
    expected = sum(counts_of(row, 4) for row in rows)
    rows[:, 70:] = 5
    assert choice_counts(language, rows).tolist() == expected.tolist()


@pytest.mark.parametrize(("min_depth", "max_depth", "only_true"), SOURCES)
def test_expected_counts_are_the_observed(min_depth, max_depth, only_true):
    """Catches any fit that is no maximum: in an exponential family its mean counts, given truth, are the data's."""
    drawn = skewed(min_depth, max_depth, only_true).draw(np.random.default_rng(1), 400)
    fit = fit_grammar(Language(min_depth, max_depth, only_true), drawn)
    rows, counts = enumerated(min_depth, max_depth)
    expected = np.tensordot(np.exp(fit.log_prob(rows)), counts, 1)
    np.testing.assert_allclose(expected, choice_counts(fit, drawn) / 400, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("min_depth", "max_depth"), [(1, 2), (0, 1)])
def test_no_optimiser_finds_more(min_depth, max_depth):
    """Catches a fit that stops early, or at a likelihood that is not the conditioned one."""
    language = Language(min_depth, max_depth)
    drawn = skewed(min_depth, max_depth).draw(np.random.default_rng(2), 300)
    sizes = np.cumsum([len(language.choices(depth)) for depth in range(max_depth)])

    def surprise(weights):
        shares = [np.exp(weight) / np.exp(weight).sum() for weight in np.split(weights, sizes)]
        return -Language(min_depth, max_depth, True, shares).log_prob(drawn, np.full(300, 2)).mean()

    found = minimize(surprise, np.zeros(len(shares_of(language))), options={"gtol": 1e-6})
    fit = fit_grammar(language, drawn)
    assert -fit.log_prob(drawn).mean() == pytest.approx(found.fun, abs=1e-8)
    assert -fit.log_prob(drawn).mean() < -frequencies(language, drawn).log_prob(drawn).mean() - 1e-4


def test_known_probabilities_are_recovered():
    """Catches naive frequencies: they are many standard errors off, the maximum of likelihood is within a few."""
    source, language = skewed(1, 3, seed=3), Language(1, 3)
    blocks = np.split(source.draw(np.random.default_rng(3), 200_000), 20)
    fits = np.array([shares_of(fit_grammar(language, block)) for block in blocks])
    error = fits.std(axis=0, ddof=1) / math.sqrt(len(blocks))
    everything = np.concatenate(blocks)
    surprise = (shares_of(fit_grammar(language, everything)) - shares_of(source)) / error
    assert np.abs(surprise).max() < 5
    assert np.abs((shares_of(frequencies(language, everything)) - shares_of(source)) / error).max() > 20


def test_without_condition_frequencies_are_the_fit():
    """Catches a correction for truth where nothing was rejected."""
    drawn = skewed(1, 3, False).draw(np.random.default_rng(4), 2000)
    language = Language(1, 3, False)
    np.testing.assert_allclose(
        shares_of(fit_grammar(language, drawn)), shares_of(frequencies(language, drawn)), rtol=1e-15
    )


def test_a_large_language():
    """Catches a fit that is worse than the source on its own data, or takes what it should leave out."""
    language = Language(1, 5)
    drawn = language.draw(np.random.default_rng(5), 10_000)
    fit = fit_grammar(language, drawn)
    gain = 10_000 * (fit.log_prob(drawn) - language.log_prob(drawn)).mean()
    # Twice the gain in likelihood is chi-square distributed, with 2 + 4 * 4 + 1 degrees of freedom.
    assert 2 < gain < 30
    assert np.abs(shares_of(fit) - shares_of(language)).max() < 0.03


def test_rows_outside_the_language_are_left_out():
    """Catches false, invalid, shallow or deep rows that enter the counts, and verdicts that are read otherwise."""
    language = Language(1, 2)
    inside = language.draw(np.random.default_rng(6), 100)
    width = inside.shape[1]
    texts = ["( not True )", "( True and", "True", "( not ( not ( not False ) ) )", ") True (", ""]
    outside = rows_from_ids([encode(text) for text in texts], width)
    mixed = np.concatenate([inside[:50], outside, inside[50:]])
    expected = shares_of(fit_grammar(language, inside)).tolist()
    assert shares_of(fit_grammar(language, mixed)).tolist() == expected
    assert shares_of(fit_grammar(language, mixed, np.asarray(judge_jitted(mixed).verdict_N))).tolist() == expected
    for rows in (outside, inside[:0]):
        with pytest.raises(RunError, match="no row"):
            fit_grammar(language, rows)


def test_one_expression_repeated():
    """Catches a fit that never ends, or divides by zero, when a loop has collapsed; depths not reached stay."""
    language = skewed(1, 3, seed=7)
    rows = rows_of(language, *["( not False )"] * 50)
    fit = fit_grammar(language, rows)
    assert math.exp(fit.log_prob(rows)[0]) == pytest.approx(1, abs=1e-12)
    assert fit.entropy_nats == pytest.approx(0, abs=1e-12)
    assert [fit.probabilities(depth) for depth in (2, 3)] == [language.probabilities(depth) for depth in (2, 3)]
    assert (fit.draw(np.random.default_rng(0), 20) == rows[0]).all()


# The best that a grammar can do: it cannot tell apart what has the same choices at each depth.
LIMITS = [
    ("( True or False )", 1 / 2),
    ("( ( not False ) and ( True or False ) )", 1 / 8),
    ("( ( not False ) or ( False and ( False or False ) ) )", 2 / 27),
]


@pytest.mark.parametrize(("text", "limit"), LIMITS)
@pytest.mark.parametrize("max_depth", [3, 8])
def test_likelihood_without_a_maximum(text, limit, max_depth):
    """Catches a fit that crawls: by steps of expectation-maximisation alone these take many thousands."""
    language = Language(1, max_depth)
    rows = rows_of(language, *[text] * 10)
    assert math.exp(fit_grammar(language, rows).log_prob(rows)[0]) == pytest.approx(limit, rel=2e-3)


def test_temperature_1_changes_nothing():
    """Catches probabilities that lose their normalisation or their depths."""
    language = skewed(1, 3)
    same = tempered(language, 1)
    assert (same.min_depth, same.max_depth, same.only_true) == (1, 3, True)
    np.testing.assert_allclose(shares_of(same), shares_of(language), rtol=1e-14)
    assert tempered(skewed(0, 2, False), 2).only_true is False


@pytest.mark.parametrize("temperature", [0.5, 2.0, 0.01, 100.0])
def test_temperature_raises_ratios_to_a_power(temperature):
    """Catches the temperature in place of its inverse, and a normalisation over the wrong choices."""
    language = Language(1, 2, True, [[0.5, 0.3, 0.2], [0.4, 0.1, 0.2, 0.0, 0.3], [0.6, 0.4]])
    cold = tempered(language, temperature)
    for depth in range(3):
        before, after = np.array(language.probabilities(depth)), np.array(cold.probabilities(depth))
        np.testing.assert_allclose(after / after.max(), (before / before.max()) ** (1 / temperature), rtol=1e-12)
        assert after.sum() == pytest.approx(1, abs=1e-12)
    assert cold.probabilities(1)[3] == 0


def test_temperatures_that_are_refused():
    """Catches a temperature of 0 or below, and one at which what is true has vanished."""
    for temperature in (0, -1, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            tempered(Language(), temperature)
    with pytest.raises(InputError, match="no expression is true"):
        tempered(Language(1, 1, True, [[1, 0, 0], [0.6, 0.4]]), 1e-4)
