"""Distances against their definitions, and estimates against exact sums over a whole language."""

import itertools
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest

from jaxloop.learners.reference import autoregressive
from jaxloop.learners.reference.ngram import NGram
from jaxloop.measures.distances import (
    ExactDistances,
    exact_distances,
    forward_kl,
    is_alive,
    mean_of,
    reverse_kl,
    total_variation,
)
from jaxloop.systems.logic import census
from jaxloop.systems.logic.judge import judge_jitted
from jaxloop.systems.logic.language import Language, language_of
from jaxloop.systems.logic.oracle import Oracle
from jaxloop.systems.logic.settings import LanguageSettings
from jaxloop.systems.logic.tails import Rows, Tails, alive_shares, describe_rows, estimated_shares, exact_shares
from jaxloop.systems.logic.vocabulary import VOCABULARY

LANGUAGE = Language(1, 3)
WIDTH = 32


@pytest.fixture(scope="module")
def whole():
    """(rows, source log-probabilities, depths) of all 182,710 expressions."""
    rows_WxT = LANGUAGE.enumerate(WIDTH)
    judgement = judge_jitted(rows_WxT)
    return rows_WxT, LANGUAGE.log_prob(rows_WxT, np.asarray(judgement.verdict_N)), np.asarray(judgement.depth_N)


def good_model() -> NGram:
    """Long contexts and much data: it writes like the source, and sometimes outside of its support."""
    return NGram(LANGUAGE.draw(np.random.default_rng(0), 20_000, WIDTH), 9, VOCABULARY)


def collapsed_model() -> NGram:
    """What is left after a few expressions have taken over: others have hardly any probability."""
    rows_NxT = LANGUAGE.draw(np.random.default_rng(1), 25, WIDTH)
    return NGram(rows_NxT[np.random.default_rng(2).integers(5, size=2000)], 9, VOCABULARY)


def agrees(estimate, exact: float, errors: float = 4.5) -> bool:
    return abs(estimate.value - exact) <= errors * estimate.standard_error


@pytest.mark.parametrize(
    ("make", "temperature"), [(good_model, 1.0), (collapsed_model, 1.0), (lambda: Oracle(LANGUAGE), 0.6)]
)
def test_estimates_agree_with_exact_sums(whole, make, temperature):
    """An estimate that misses mass outside the support, or whose error is too small, is off by many of its errors."""
    rows_WxT, source_W, depth_W = whole
    model = make()
    model_W = autoregressive.log_prob(model, rows_WxT, temperature)
    exact = exact_distances(source_W, model_W, 0.1)
    assert exact.inside_share + exact.false_share + exact.invalid_share == pytest.approx(1, abs=1e-9)

    held_out_HxT = LANGUAGE.draw(np.random.default_rng(3), 4000, WIDTH)
    held_out_source_H = LANGUAGE.log_prob(held_out_HxT)
    held_out_model_H = autoregressive.log_prob(model, held_out_HxT, temperature)
    forward = forward_kl(held_out_source_H, held_out_model_H)
    sampled_NxT = autoregressive.write(model, np.random.default_rng(4), 4000, WIDTH, temperature)
    judgement = judge_jitted(sampled_NxT)
    source_N = LANGUAGE.log_prob(sampled_NxT, np.asarray(judgement.verdict_N))
    model_N = autoregressive.log_prob(model, sampled_NxT, temperature)
    reverse, variation = reverse_kl(source_N, model_N), total_variation(source_N, model_N)
    assert agrees(forward, exact.forward_kl_nats)
    assert agrees(reverse, exact.reverse_kl_nats)
    assert agrees(variation, exact.total_variation)
    assert agrees(mean_of(np.isfinite(source_N).astype(float)), exact.inside_share) or exact.inside_share > 0.999
    assert 0 < forward.standard_error < 0.1 * abs(forward.value) + 0.05
    assert 0 < reverse.standard_error < 0.1 * abs(reverse.value) + 0.05
    # The cross-entropy minus the entropy is the same thing with more noise.
    cross_entropy = mean_of(-held_out_model_H)
    assert abs(cross_entropy.value - LANGUAGE.entropy_nats - exact.forward_kl_nats) < 4.5 * cross_entropy.standard_error

    tails, inside_W, inside_N = Tails(LANGUAGE), np.isfinite(source_W), np.isfinite(source_N)
    of_whole = tails.memberships(describe_rows(rows_WxT[inside_W], source_W[inside_W], depth_W[inside_W]))
    depth_N = np.asarray(judgement.depth_N)
    of_samples = tails.memberships(describe_rows(sampled_NxT[inside_N], source_N[inside_N], depth_N[inside_N]))
    for name, membership_WxG in of_whole.items():
        sums = [share.value for share in exact_shares(membership_WxG, np.exp(model_W[inside_W]))]
        assert sum(sums) == pytest.approx(exact.inside_share, abs=1e-9)
        for share, estimate in zip(sums, estimated_shares(of_samples[name], len(sampled_NxT)), strict=True):
            assert agrees(estimate, share) or (share < 2e-3 and estimate.value < 5e-3)


def test_tenths_and_classes_have_their_mass(whole):
    """Catches a tenth that is more or less than a tenth, and masses of classes that enumeration does not have."""
    rows_WxT, source_W, depth_W = whole
    inside_W = np.isfinite(source_W)
    tails = Tails(LANGUAGE)
    rows = describe_rows(rows_WxT[inside_W], source_W[inside_W], depth_W[inside_W])
    for classes in tails.classes:
        membership_WxG = tails.memberships(rows)[classes.name]
        np.testing.assert_allclose(membership_WxG.sum(axis=1), 1, atol=1e-9)
        sums = [share.value for share in exact_shares(membership_WxG, np.exp(source_W[inside_W]))]
        np.testing.assert_allclose(sums, classes.source_share_G, atol=1e-9)
    # From the most to the least probable: no expression of a tenth is more probable than one of the tenth before.
    tenth_WxG = tails.memberships(rows)["tenth"]
    ends = [(source_W[inside_W][column > 0].max(), source_W[inside_W][column > 0].min()) for column in tenth_WxG.T]
    assert all(before[1] >= after[0] - 1e-9 for before, after in itertools.pairwise(ends))


def test_alive_is_by_the_stated_share_of_the_true_probability():
    """Catches the share applied to the logarithm, and classes without members that count as dead."""
    source_N, share = np.log([0.4, 0.3, 0.2, 0.1]), 0.1
    model_N = np.log([0.04001, 0.02999, 0.9, 1e-9])
    np.testing.assert_array_equal(is_alive(source_N, model_N, share), [True, False, True, False])
    membership_NxG = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 1, 0]])
    found = alive_shares(membership_NxG, is_alive(source_N, model_N, share))
    np.testing.assert_allclose(found[:2], [1 / 1.5, 1 / 2.5])
    assert math.isnan(found[2])
    assert not is_alive(source_N, np.full(4, -math.inf), share).any()


def test_exact_distances_by_hand():
    """A language of two expressions, a third one that is false, and a model that knows one of them not at all."""
    source, model = np.log([0.75, 0.25]).tolist(), np.log([0.5, 0.125]).tolist()
    found = exact_distances(np.array([*source, -math.inf]), np.array([*model, math.log(0.25)]), 0.6)
    inside = 0.625
    assert found == pytest.approx(
        ExactDistances(
            forward_kl_nats=0.75 * math.log(1.5) + 0.25 * math.log(2),
            reverse_kl_nats=0.8 * math.log(0.8 / 0.75) + 0.2 * math.log(0.2 / 0.25),
            total_variation=0.5 * (0.25 + 0.125 + 0.25 + 0.125),
            inside_share=inside,
            false_share=0.25,
            invalid_share=0.125,
            covered_share=0.75,
        )
    )
    dead = exact_distances(np.log([0.75, 0.25]), np.array([0.0, -math.inf]), 0.6)
    assert dead.forward_kl_nats == math.inf
    # A probability that is too small for a float is not impossible.
    tiny = exact_distances(np.log([0.5, 0.5]), np.array([0.0, -800.0]), 0.6)
    assert tiny.forward_kl_nats == pytest.approx(400 + math.log(0.5))
    assert dead.reverse_kl_nats == pytest.approx(-math.log(0.75))
    nothing = exact_distances(np.log([0.75, 0.25]), np.full(2, -math.inf), 0.6)
    assert math.isnan(nothing.reverse_kl_nats) and nothing.total_variation == 1 and nothing.invalid_share == 1


def test_estimates_of_corner_cases():
    """No sample in the support, a single one, a row that the model holds impossible: no warning and no wrong zero."""
    outside = np.full(3, -math.inf)
    assert all(math.isnan(number) for number in reverse_kl(outside, np.zeros(3)))
    assert total_variation(outside, np.full(3, -2.0)) == (1.0, 0.0)
    assert forward_kl(np.array([-1.0, -2.0]), np.array([-1.0, -math.inf])).value == math.inf
    one = reverse_kl(np.array([-1.0]), np.array([-0.5]))
    assert one.value == 0.5 and math.isnan(one.standard_error)
    assert all(math.isnan(number) for number in mean_of(np.empty(0)))


def test_standard_errors_are_those_of_repeats():
    """Catches an error that lacks the part of the mass inside: over repeats the estimates must scatter as they say."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.1, 0.2, 0.3])  # the fourth lies outside the support
    generator, found = np.random.default_rng(0), []
    for _ in range(2000):
        drawn = generator.choice(4, 300, p=q)
        source = np.append(np.log(p), -math.inf)[drawn]
        found.append(reverse_kl(source, np.log(q)[drawn]))
    values, errors = np.array(found).T
    assert values.std() == pytest.approx(errors.mean(), rel=0.08)
    within = q[:3] / 0.7
    assert abs(values.mean() - np.sum(within * np.log(within / p))) < 0.01


@pytest.mark.parametrize("max_depth", [5, 6, 7, 8])
def test_every_level_of_a_deep_language_belongs_to_its_tenths(max_depth):
    """Catches 0/0 for levels with less mass than the rounding of what lies before them: from depth 6 on one such sample
    emptied all ten tenths. The oracle adds the masses up as fractions.
    """
    language = language_of(LanguageSettings(max_depth=max_depth))
    level_log_prob_L, mass_L = census.probability_levels(language)
    rows = Rows(level_log_prob_L, *(np.zeros(len(mass_L), int) for _ in range(3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tenth_LxG = Tails(language).memberships(rows)["tenth"]
    np.testing.assert_allclose(tenth_LxG.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(mass_L @ tenth_LxG, 0.1, atol=1e-12)
    # Exact sums of the masses as they are, as whole numbers of 2^-400.
    whole_L = [int(Fraction(mass) * 2**400) for mass in mass_L.tolist()]
    ends_L = list(itertools.accumulate(whole_L))
    for level in range(0, len(mass_L), 1 + len(mass_L) // 2000):
        begin, end = (Fraction(10 * place, ends_L[-1]) for place in (ends_L[level] - whole_L[level], ends_L[level]))
        shares = [max(min(end, tenth + 1) - max(begin, tenth), 0) / (end - begin) for tenth in range(10)]
        if mass_L[level] > 1e-9 or max(shares) == 1:
            np.testing.assert_allclose(tenth_LxG[level], np.array(shares, float), atol=1e-5)
    assert tenth_LxG[-1, -1] == 1
