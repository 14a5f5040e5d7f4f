"""Statistics over seeds against known truths, definitions written out, and closed forms."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from jaxloop.analysis.stats import (
    bootstrap_band,
    collapse_time,
    floor_or_decline,
    paired_difference,
    share_text,
    slope_test,
    survival_curve,
)

REPEATS = 2000
COURSES_SxG = np.random.default_rng(0).normal(size=(7, 5)).cumsum(axis=1)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    "law", [stats.norm(), stats.gamma(4), stats.lognorm(0.5)], ids=["normal", "gamma", "lognormal"]
)
def test_an_interval_covers_the_truth_as_often_as_it_says(law, seeds):
    """An interval for few seeds that is too narrow, as percentiles are (about 90%), or skewed to the wrong side."""
    # Each column a repeat: nothing passes between columns.
    values_SxR = law.rvs((seeds, REPEATS), random_state=1)
    mean_R, low_R, high_R = bootstrap_band(values_SxR, resamples=1500)
    np.testing.assert_allclose(mean_R, values_SxR.mean(axis=0))
    covered = np.mean((low_R <= law.mean()) & (law.mean() <= high_R))
    # The docstring tells what skewness costs; 0.5 points are the error of 2,000 repeats.
    assert (0.93 if law.stats("s") < 0.5 else 0.915) < covered < 0.97
    # Not bought by width.
    width_R, student = high_R - low_R, stats.t.ppf(0.975, seeds - 1) / math.sqrt(seeds)
    assert np.median(width_R) < 1.3 * 2 * student * law.std()


def test_few_or_tied_seeds_have_a_sane_interval():
    """Division by the spread of a resample without any: an infinite interval, or none, where loops have collapsed."""
    few_SxG = COURSES_SxG[:4]
    mean_G, low_G, high_G = bootstrap_band(few_SxG, confidence=0.9)
    half_G = stats.t.ppf(0.95, 3) * stats.sem(few_SxG)
    np.testing.assert_allclose([low_G, high_G], [mean_G - half_G, mean_G + half_G])

    tied_SxG = np.full((5, 3), 0.1)
    tied_SxG[0, 1:] = 0.9, 0.1 + 1e-9
    mean_G, low_G, high_G = bootstrap_band(tied_SxG)
    assert low_G[0] == high_G[0] == mean_G[0]
    error_G = stats.sem(tied_SxG)
    assert np.all(mean_G <= high_G)
    np.testing.assert_array_less(high_G - low_G, 4.01 * stats.t.ppf(0.975, 4) * error_G + 1e-15)
    np.testing.assert_array_less(mean_G[1:], high_G[1:])


def test_one_seed_or_a_gap_has_no_interval():
    """An interval of no width from one seed; a gap that spreads to other generations, or passes for a number."""
    mean_G, low_G, high_G = bootstrap_band(COURSES_SxG[:1])
    np.testing.assert_array_equal(mean_G, COURSES_SxG[0])
    assert np.isnan(low_G).all()
    assert np.isnan(high_G).all()

    gap_SxG = COURSES_SxG.copy()
    gap_SxG[2, 1], gap_SxG[4, 3] = np.nan, np.inf
    for of_gap_G, whole_G in zip(bootstrap_band(gap_SxG), bootstrap_band(COURSES_SxG), strict=True):
        assert np.isnan(of_gap_G[[1, 3]]).all()
        np.testing.assert_allclose(of_gap_G[[0, 2, 4]], whole_G[[0, 2, 4]], rtol=1e-12)


def test_a_band_is_reproducible_and_blind_to_the_order_of_seeds():
    """Randomness from outside, or an interval that depends on which seed comes first."""
    strata_S = np.array(["b", "a", "b", "a", "b", "a", "b", "a", "b", "a"])
    values_SxG = np.random.default_rng(3).gamma(4, size=(10, 4))
    order_S = np.random.default_rng(4).permutation(10)
    for strata, permuted in ((None, None), (strata_S, strata_S[order_S])):
        band = bootstrap_band(values_SxG, strata_S=strata)
        np.testing.assert_array_equal(band, bootstrap_band(values_SxG, strata_S=strata))
        np.testing.assert_array_equal(band, bootstrap_band(values_SxG[order_S], strata_S=permuted))
        assert not np.array_equal(band.low_G, bootstrap_band(values_SxG, seed=1, strata_S=strata).low_G)


def test_seeds_are_resampled_as_whole_courses():
    """Generations resampled each by itself: the same course shifted and scaled would have another band there."""
    course_S = np.random.default_rng(5).gamma(4, size=8)
    band = bootstrap_band(np.stack([course_S, 3 * course_S + 1], axis=1))
    for limit_G in band:
        assert limit_G[1] == pytest.approx(3 * limit_G[0] + 1, rel=1e-12)


@pytest.mark.parametrize("each", [3, 6])
def test_stratified_resampling_keeps_strata(each):
    """Strata that are mixed: what lies between them would widen the interval; a stratum of one says nothing."""
    strata_S = np.repeat([0, 1], each)
    values_SxR = np.random.default_rng(6).normal(size=(2 * each, REPEATS)) + 100.0 * strata_S[:, None]
    mean_R, low_R, high_R = bootstrap_band(values_SxR, strata_S=strata_S)
    assert 0.93 < np.mean((low_R <= 50) & (high_R >= 50)) < 0.97
    assert np.median(high_R - low_R) < 3
    assert np.median(np.diff(bootstrap_band(values_SxR)[1:], axis=0)) > 50
    uneven = bootstrap_band(values_SxR, strata_S=np.arange(2 * each) == 0)
    np.testing.assert_allclose(uneven.mean_G, mean_R)
    assert np.isnan(uneven.low_G).all()


def test_paired_difference_against_closed_forms():
    """Signs exchanged, ties lost or counted in full, pairs not kept: what seeds share would drown the difference."""
    shared_S = np.array([0.0, 100.0, 200.0, 300.0])
    difference_S = np.array([1.0, 2.0, 0.0, -1.0])
    mean, low, high, improvement = paired_difference(shared_S + difference_S, shared_S)
    half = stats.t.ppf(0.975, 3) * stats.sem(difference_S)
    assert (mean, low, high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert improvement == (2 + 0.5) / 4
    assert paired_difference(shared_S, shared_S) == (0, 0, 0, 0.5)

    values_S = np.random.default_rng(7).gamma(4, size=8)
    there = paired_difference(values_S, np.zeros(8))
    interval = stats.ttest_1samp(values_S, 0).confidence_interval(0.95)
    assert there == pytest.approx((values_S.mean(), *interval, 1))
    back = paired_difference(np.zeros(8), values_S)
    assert back[:3] == pytest.approx((-there.mean, -there.high, -there.low))
    assert back.improvement == 0

    assert np.isnan(paired_difference(np.array([1.0, np.nan]), np.zeros(2))).all()
    assert paired_difference(np.array([2.0]), np.array([1.0])) == pytest.approx((1, np.nan, np.nan, 1), nan_ok=True)


def by_definition(time_S, observed_S) -> dict[float, Fraction]:
    """Kaplan and Meier's product over times, in exact fractions."""
    share, curve = Fraction(1), {}
    for time in sorted(set(time_S)):
        at_risk = sum(other >= time for other in time_S)
        died = sum(other == time and bool(seen) for other, seen in zip(time_S, observed_S, strict=True))
        share *= 1 - Fraction(died, at_risk)
        curve[time] = share
    return curve


def test_survival_against_its_definition():
    """Ties in the wrong order, censored loops taken for collapsed or left out, a median by rounding a step too late."""
    rng = np.random.default_rng(8)
    for _ in range(300):
        seeds = int(rng.integers(1, 12))
        time_S, observed_S = rng.integers(0, 8, seeds), rng.random(seeds) < rng.random()
        expected = by_definition(time_S.tolist(), observed_S.tolist())
        times_E, survival_E = survival_curve(time_S, observed_S)
        np.testing.assert_array_equal(times_E, list(expected))
        np.testing.assert_allclose(survival_E, [float(share) for share in expected.values()], atol=1e-12)
        median, low, high = collapse_time(time_S, observed_S)
        assert median == next((time for time, share in expected.items() if share <= Fraction(1, 2)), math.inf)
        assert seeds == 1 or low <= median <= high


def test_collapse_time_worked_by_hand():
    """A wrong error, transform or limit: patients on 6-MP (Freireich 1963) are in every book.

    Median 23 weeks, 95% from 13 on: the log-log limits at 13, 22 and 23, by hand from Greenwood's sums, are
    0.43, 0.27 to 0.75, and 0.19 to 0.68.
    """
    time_S = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35])
    observed_S = np.isin(np.arange(21), [0, 1, 2, 4, 6, 9, 10, 14, 15])
    assert collapse_time(time_S, observed_S) == (23, 13, math.inf)
    # All of eight collapse, one a generation. Greenwood's sum at 4 is 1/56 + 1/42 + 1/30 + 1/20 = 1/8, S = 1/2; so
    # log(-log S) is -0.3665 there with error sqrt(1/8) / log 2 = 0.5101, which includes that of a half. At 1 it is
    # log(-log 7/8) = -2.0134 with sqrt(1/56) / 0.13353 = 1.0008: up to -0.052 > -0.3665, and 1 is in the interval. At 6
    # it is log(-log 1/4) = 0.3266 with sqrt(3/8) / 1.3863 = 0.4417: down to -0.539, in. At 7 it is log(-log 1/8) =
    # 0.7321 with sqrt(7/8) / 2.0794 = 0.4498: down to -0.1496, out.
    assert collapse_time(np.arange(1, 9), np.ones(8, bool)) == (4, 1, 7)
    # A lower confidence leaves 1 out: 50% reaches to -2.0134 + 0.6745 * 1.0008.
    assert collapse_time(np.arange(1, 9), np.ones(8, bool), confidence=0.5).low > 1


def test_collapse_not_reached_is_not_a_number_of_generations():
    """The mean or median of those that collapsed, when most have not; a limit out of nothing."""
    assert collapse_time([3, 20, 20, 20, 20], [True, False, False, False, False]) == (math.inf, 3, math.inf)
    assert collapse_time([20] * 3, [False] * 3) == (math.inf, math.inf, math.inf)
    assert collapse_time([2, 3, 4, 5, 6], [True] * 5) == (4, 2, math.inf)
    assert collapse_time([2], [True]) == pytest.approx((2, np.nan, np.nan), nan_ok=True)
    assert np.isnan(collapse_time([], [])).all()


def test_the_interval_of_the_collapse_time_covers_the_truth():
    """An interval too narrow: censored loops counted as at risk too long, or an error of the wrong size."""
    rng, covered = np.random.default_rng(9), 0
    for _ in range(500):
        time_S = rng.exponential(1 / math.log(2), 20)
        _, low, high = collapse_time(np.minimum(time_S, 1.5), time_S <= 1.5)
        covered += low <= 1 <= high
    assert 0.93 < covered / 500 < 0.995


def test_slopes_of_courses_whose_points_depend_on_each_other():
    """Points of a course taken for independent: random walks without drift would have a trend half of the time."""
    rng, generation_G = np.random.default_rng(10), np.arange(30)
    of_seeds, pooled = [], []
    for _ in range(REPEATS):
        walks_SxG = rng.normal(size=(5, 30)).cumsum(axis=1)
        of_seeds.append(slope_test(generation_G, walks_SxG).p)
        pooled.append(stats.linregress(np.tile(generation_G, 5), walks_SxG.ravel()).pvalue)
    assert 0.035 < np.mean(np.less(of_seeds, 0.05)) < 0.065
    assert np.mean(np.less(pooled, 0.05)) > 0.4


def test_slope_against_closed_forms():
    """A slope per place instead of per generation, an error of the wrong n, gaps that shift the generations."""
    generation_G = np.array([0.0, 1.0, 5.0, 7.0])
    slopes_S = np.array([1.0, 2.0, 4.0])
    values_SxG = slopes_S[:, None] * generation_G + np.array([[3.0], [0.0], [-5.0]])
    expected = stats.ttest_1samp(slopes_S, 0)
    for values in (values_SxG, np.where(generation_G == 1, np.nan, values_SxG)):
        found = slope_test(generation_G, values)
        assert found == pytest.approx((slopes_S.mean(), stats.sem(slopes_S), expected.pvalue))
    assert slope_test(generation_G, -values_SxG).p == pytest.approx(expected.pvalue)

    nan = math.nan
    assert slope_test(generation_G, values_SxG[:1]) == pytest.approx((1, nan, nan), nan_ok=True)
    assert slope_test([0, 1, 3], np.full((3, 3), 0.1)) == pytest.approx((0, 0, nan), nan_ok=True)
    assert slope_test(generation_G, generation_G + np.zeros((3, 1))) == pytest.approx((1, 0, 0))
    assert np.isnan(slope_test(generation_G[:1], values_SxG[:, :1])).all()


@pytest.mark.parametrize(
    "generation_G", [np.arange(13), np.array([0, 1, 2, 4, 8, 12, 16, 24, 32, 40])], ids=["each", "few"]
)
def test_floor_and_decline_are_told_apart(generation_G):
    """A floor where there is none, none where there is one, its height or the times between generations wrong."""
    rng = np.random.default_rng(11)
    gone_G = np.exp(-5 * generation_G / generation_G[-1])
    for _ in range(5):
        noise_SxG = rng.normal(0, 0.02, (5, len(generation_G)))
        floor = floor_or_decline(generation_G, 0.3 + 0.5 * gone_G + noise_SxG)
        assert floor.floor_weight > 0.99
        assert floor.floor == pytest.approx(0.3, abs=0.03)
        decline = floor_or_decline(generation_G, 0.8 * gone_G + noise_SxG)
        assert decline.floor_weight < 0.5
        assert 0 <= decline.floor < 0.03
        # Another unit changes nothing.
        percent = floor_or_decline(generation_G, 100 * (0.3 + 0.5 * gone_G + noise_SxG))
        assert percent.floor == pytest.approx(100 * floor.floor, rel=1e-3)


def test_drift_alone_has_no_floor():
    """Fluctuations that last, taken for independent evidence of a floor: drift (Wright and Fisher) ends at zero."""
    rng, certain = np.random.default_rng(12), 0
    for _ in range(30):
        diversity_SxG = np.zeros((5, 20))
        share_SxK = np.full((5, 20), 1 / 20)
        for generation in range(20):
            diversity_SxG[:, generation] = 1 - np.sum(share_SxK**2, axis=1)
            share_SxK = rng.multinomial(10, share_SxK) / 10
        certain += floor_or_decline(np.arange(20), diversity_SxG).floor_weight > 0.9
    assert certain <= 5


def test_floor_of_nothing_much():
    """An answer from too few generations or from zeros; a course that does not decline, without noise, that fails."""
    assert np.isnan(floor_or_decline(np.arange(6), np.ones((3, 6)))).all()
    assert np.isnan(floor_or_decline(np.arange(9), np.zeros((3, 9)))).all()
    flat = floor_or_decline(np.arange(9), np.full((3, 9), 0.7))
    assert flat.floor == pytest.approx(0.7, rel=0.02)
    gap_SxG = 0.3 + 0.5 * np.exp(-np.arange(12.0)) + np.zeros((3, 1))
    gap_SxG[1, 4] = np.nan
    exact = floor_or_decline(np.arange(12), gap_SxG)
    assert exact.floor == pytest.approx(0.3, rel=1e-3)
    assert exact.floor_weight > 0.99


def test_share_text():
    """A mean of two seeds given out as a result; impossible limits; a seed without a value left out in silence."""
    assert share_text(np.array([0.5, 0.6])) == "n too small: 2 seeds"
    assert share_text(np.array([0.5])) == "n too small: 1 seed"
    assert share_text(np.array([0.5, np.nan, 0.6])) == "not measured in 1 of 3 seeds"
    # 2.920 and 4.303 are Student's; the error is 0.1 / sqrt(3).
    assert share_text(np.array([0.4, 0.5, 0.6])) == "50.0% (95% interval 25.2% to 74.8%, 3 seeds)"
    assert share_text(np.array([0.0, 0.0, 0.1])) == "3.3% (95% interval 0.0% to 17.7%, 3 seeds)"
    assert share_text(np.array([1.0, 1.0, 0.9])) == "96.7% (95% interval 82.3% to 100.0%, 3 seeds)"
    assert share_text(np.array([1.0, 1.1, 0.9])) == "100.0% (95% interval 75.2% to 124.8%, 3 seeds)"


@pytest.mark.parametrize("seeds", [5, 6, 8])
def test_limits_of_few_seeds_are_no_matter_of_luck(seeds):
    """A verdict that depends on the seed of the bootstrap, or on which of two cells is named first."""
    values_SxG = np.random.default_rng(8).gamma(2, size=(seeds, 40))
    band = bootstrap_band(values_SxG)
    np.testing.assert_array_equal(band, bootstrap_band(values_SxG, seed=1))
    mirrored = bootstrap_band(-values_SxG)
    np.testing.assert_allclose([-mirrored.high_G, -mirrored.low_G], [band.low_G, band.high_G], rtol=1e-12)
    # Against resamples that are drawn: two strata of one law would be; here by hand, many of them.
    drawn_BxS = np.random.default_rng(9).integers(seeds, size=(100_000, seeds))
    one_S = values_SxG[:, 0]
    drawn = one_S[drawn_BxS]
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient_B = np.nan_to_num((drawn.mean(axis=1) - one_S.mean()) / stats.sem(drawn, axis=1), nan=0)
    widest = 2 * stats.t.ppf(0.975, seeds - 1)
    low, high = np.quantile(quotient_B.clip(-widest, widest), [0.025, 0.975])
    expected = one_S.mean() - np.array([high, low]) * stats.sem(one_S)
    np.testing.assert_allclose([band.low_G[0], band.high_G[0]], expected, atol=0.06 * stats.sem(one_S))
