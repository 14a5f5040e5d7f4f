"""Masses of classes of expressions against plain sums over every expression, and against draws."""

import functools
import math

import numpy as np
import pytest

from jaxloop.systems.logic.census import depth_masses, operator_masses, probability_levels, root_masses
from jaxloop.systems.logic.judge import judge_jitted
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import AND, CLOSE, FALSE, NOT, OPEN, OR, TRUE

ENUMERABLE = [(0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2), (0, 3), (1, 3)]
OPERATORS = [NOT, AND, OR]
CASES = [(*depths, only_true) for depths in ENUMERABLE for only_true in (True, False)]


def root_tokens(rows):
    """The leaf that a row is, or the operator within its outermost parentheses."""
    opened = np.cumsum((rows == OPEN).astype(int) - (rows == CLOSE), axis=1)
    outermost = (opened == 1) & np.isin(rows, OPERATORS)
    place = np.where(outermost.any(axis=1), outermost.argmax(axis=1), 0)
    return rows[np.arange(len(rows)), place]


def facts_of(rows):
    """(depth, number of operators, root) of each row."""
    return np.asarray(judge_jitted(rows).depth_N), np.isin(rows, OPERATORS).sum(axis=1), root_tokens(rows)


@functools.cache
def enumerated(min_depth, max_depth):
    rows = Language(min_depth, max_depth).enumerate()
    return rows, np.asarray(judge_jitted(rows).verdict_N), *facts_of(rows)


def language_of(min_depth, max_depth, only_true, kind):
    """Uniform, with random probabilities, or with random ones and one choice fewer at the root."""
    language, generator = Language(min_depth, max_depth, only_true), np.random.default_rng(1)
    if kind == "uniform":
        return language
    weights = [generator.random(len(language.choices(depth))) + 0.1 for depth in range(max_depth + 1)]
    if kind == "zeros":
        weights[0][1] = 0
    return Language(min_depth, max_depth, only_true, [weight / weight.sum() for weight in weights])


@pytest.mark.parametrize("kind", ["uniform", "random", "zeros"])
@pytest.mark.parametrize(("min_depth", "max_depth", "only_true"), CASES)
def test_masses_are_sums_over_expressions(min_depth, max_depth, only_true, kind):
    """Catches depths or operators off by one, values confused, and a condition on truth that is left out."""
    language = language_of(min_depth, max_depth, only_true, kind)
    rows, verdict, depth, operators, root = enumerated(min_depth, max_depth)
    mass = np.exp(language.log_prob(rows, verdict))
    found = depth_masses(language), operator_masses(language)
    np.testing.assert_allclose(found[0], np.bincount(depth, mass, max_depth + 1), rtol=1e-9, atol=0)
    np.testing.assert_allclose(found[1], np.bincount(operators, mass, 2**max_depth), rtol=1e-9, atol=0)
    expected = {token: mass[root == token].sum() for token in (NOT, AND, OR, TRUE, FALSE)}
    roots = root_masses(language)
    assert roots == pytest.approx({token: total for token, total in expected.items() if total > 0}, rel=1e-9)
    for masses in (*found, list(roots.values())):
        assert math.fsum(masses) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("min_depth", "max_depth", "only_true"), CASES)
def test_levels_are_those_of_the_expressions(min_depth, max_depth, only_true):
    """Catches levels that are missing, invented or out of order, and masses that are not halved evenly by truth."""
    language = Language(min_depth, max_depth, only_true)
    rows, verdict, *_ = enumerated(min_depth, max_depth)
    log_prob = language.log_prob(rows, verdict)
    log_prob = np.sort(log_prob[np.isfinite(log_prob)])[::-1]
    first = np.flatnonzero(np.diff(log_prob, prepend=math.inf) < -1e-9)
    log_prob_L, mass_L = probability_levels(language)
    assert len(log_prob_L) == len(first)
    np.testing.assert_allclose(log_prob_L, log_prob[first], rtol=0, atol=1e-9)
    np.testing.assert_allclose(mass_L, np.add.reduceat(np.exp(log_prob), first), rtol=1e-9)


def node_count_masses(max_depth):
    """Exact {(nodes from depth 1 to above max_depth, nodes at max_depth): expressions} of min_depth 1, by integers."""
    below = {(0, 1): 2}
    for depth in reversed(range(max_depth)):
        inner = int(depth > 0)
        here = {(1, 0): 2} if inner else {}
        for (k, m), count in below.items():
            here[k + inner, m] = here.get((k + inner, m), 0) + count
            for (j, n), other in below.items():
                here[k + j + inner, m + n] = here.get((k + j + inner, m + n), 0) + 2 * count * other
        below = here
    return below


def test_levels_of_a_large_language():
    """Catches masses that lose accuracy where they are small: each level against an exact count of expressions."""
    counts = node_count_masses(4)
    nats = {(k, m): math.log(3) + k * math.log(5) + m * math.log(2) for k, m in counts}
    exact = sorted((nats[place], count / (3 * 5 ** place[0] * 2 ** place[1])) for place, count in counts.items())
    log_prob_L, mass_L = probability_levels(Language(1, 4, False))
    np.testing.assert_allclose(log_prob_L, [-nats for nats, _ in exact], rtol=0, atol=1e-9)
    np.testing.assert_allclose(mass_L, [mass for _, mass in exact], rtol=1e-12)


@pytest.mark.parametrize(("min_depth", "max_depth"), [(1, 8), (4, 8), (0, 8), (7, 8), (8, 8), (2, 5)])
def test_levels_add_up_in_large_languages(min_depth, max_depth):
    """Catches overflow, underflow and lost levels: the masses are 1, and the mean surprise is the entropy."""
    language = Language(min_depth, max_depth)
    log_prob_L, mass_L = probability_levels(language)
    assert (mass_L > 0).all()
    assert (np.diff(log_prob_L) < -1e-9).all()
    assert math.fsum(mass_L) == pytest.approx(1, abs=1e-12)
    assert -(mass_L @ log_prob_L) == pytest.approx(language.entropy_nats, abs=1e-9)


def mean_operators(min_depth, max_depth, depth=0):
    """Exact mean number of operators, also among the true expressions: exchanging and/or and True/False shows it."""
    if depth >= max_depth:
        return 0
    choices = 3 if depth < min_depth else 5
    return (3 + 5 * mean_operators(min_depth, max_depth, depth + 1)) / choices


@pytest.mark.parametrize(("min_depth", "max_depth"), [(1, 8), (4, 8), (8, 8), (1, 5)])
def test_masses_add_up_in_large_languages(min_depth, max_depth):
    """Catches masses that are lost in the tails of languages beyond enumeration."""
    language = Language(min_depth, max_depth)
    depths, operators, roots = depth_masses(language), operator_masses(language), root_masses(language)
    for masses in (depths, operators, list(roots.values())):
        assert math.fsum(masses) == pytest.approx(1, abs=1e-12)
    assert operators @ np.arange(2**max_depth) == pytest.approx(mean_operators(min_depth, max_depth), rel=1e-12)
    assert (depths[:min_depth] == 0).all()
    assert (depths[min_depth:] > 0).all()


def chi_square_surprise(found, masses):
    """Standard deviations by which counts are too far from their masses; what is rare is put together."""
    rows, expected = found.sum(), masses * found.sum()
    rare = expected < 10
    found = np.append(found[~rare], found[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    assert expected.sum() == pytest.approx(rows)
    found, expected = found[expected > 0], expected[expected > 0]
    freedom = len(found) - 1
    return (((found - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("kind", ["uniform", "random"])
def test_masses_against_draws(kind):
    """Catches masses of another source than the one that draws, in a language beyond enumeration."""
    language = language_of(1, 5, True, kind)
    rows = language.draw(np.random.default_rng(2), 50_000)
    depth, operators, root = facts_of(rows)
    assert chi_square_surprise(np.bincount(depth, minlength=6), depth_masses(language)) < 5
    assert chi_square_surprise(np.bincount(operators, minlength=32), operator_masses(language)) < 5
    roots = root_masses(language)
    assert chi_square_surprise(np.array([(root == token).sum() for token in roots]), np.array([*roots.values()])) < 5
    if kind == "uniform":
        log_prob_L, mass_L = probability_levels(language)
        log_prob = language.log_prob(rows)
        level = np.abs(log_prob_L - log_prob[:, None]).argmin(axis=1)
        np.testing.assert_allclose(log_prob_L[level], log_prob, rtol=0, atol=1e-9)
        assert chi_square_surprise(np.bincount(level, minlength=len(mass_L)), mass_L) < 5


def test_levels_refuse_what_they_are_not_made_for():
    """Catches levels of a uniform language given for another one, and a depth at which masses underflow."""
    with pytest.raises(ValueError, match="uniform"):
        probability_levels(language_of(1, 2, True, "random"))
    with pytest.raises(ValueError, match="max_depth 8"):
        probability_levels(Language(1, 9))
