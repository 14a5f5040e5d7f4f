"""Each check against its closed form; the number of rows and of standard errors stands beside each."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxloop.config.schema import CurationSettings
from jaxloop.loop.curation import curate, detected
from jaxloop.loop.curators import CHECKS, Candidates
from jaxloop.loop.rows import FRESH, REAL, SAMPLED, join, mark

ROWS = 200_000


def settings(**named) -> CurationSettings:
    """Settings that a system which has a verifier would take."""
    return CurationSettings.model_construct(**{**CurationSettings().model_dump(), **named})


def candidates(points: np.ndarray, log_prob_N: np.ndarray | None = None, **scores: np.ndarray) -> Candidates:
    return Candidates(points, log_prob_N, lambda name, _: scores[name])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def within(share: float, expected: float, rows: int) -> bool:
    """Whether a share of so many rows is the expected one up to four standard errors."""
    return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / rows)


@pytest.mark.parametrize(("accept", "reject"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.3), (0.6, 0.4), (0.3, 0.9)])
@pytest.mark.parametrize("right", [0.2, 0.7])
def test_a_verifier_multiplies_the_odds_of_what_is_right(accept, reject, right):
    """c' = c (1 - beta) / (c (1 - beta) + (1 - c) alpha), 200,000 rows (Feng et al. 2024); at alpha + beta = 1 nothing
    changes. Among right rows the law stays: a chi-square of ten kinds of them.
    """
    kind_N = generator(1).choice(10, ROWS, p=np.arange(1, 11) / 55)
    right_N = (generator(2).random(ROWS) < right).astype(float)
    check = settings(name="verifier", false_accept=accept, false_reject=reject)
    place = CHECKS["verifier"](check, candidates(kind_N, truth=right_N), generator())
    assert np.all(np.diff(place) > 0)
    passing = right * (1 - reject) + (1 - right) * accept
    assert within(len(place) / ROWS, passing, ROWS)
    assert within(right_N[place].mean(), right * (1 - reject) / passing, len(place)) or accept == 0
    if accept == 0:
        assert right_N[place].all()
    if accept + reject == 1:
        assert within(right_N[place].mean(), right, len(place))
    passed_kinds = np.bincount(kind_N[place][right_N[place] == 1], minlength=10)
    assert stats.chisquare(passed_kinds, passed_kinds.sum() * np.arange(1, 11) / 55).pvalue > 1e-4


def test_a_verifier_knows_no_deeper_than_it_is_told():
    """The deep classes die at once, whatever else is accepted (Feng et al. 2024; the limited verifier)."""
    depth_N = np.arange(1000) % 6
    scores = {"truth": np.ones(1000), "depth": depth_N.astype(float)}
    place = CHECKS["verifier"](settings(name="verifier", known_depth=3), candidates(depth_N, **scores), generator())
    assert np.array_equal(place, np.flatnonzero(depth_N <= 3))


@pytest.mark.parametrize(
    ("keep", "share", "factor"), [("likeliest", 0.9, 0.623), ("likeliest", 0.5, 0.143), ("least_likely", 0.5, 1.857)]
)
def test_a_likelihood_filter_multiplies_a_gaussians_variance(keep, share, factor):
    """1 - 2 z phi(z) / q with z = Phi^-1((1 + q) / 2) for the likeliest q; the least likely half has what they lack.
    200,000 rows, four standard errors of a variance.
    """
    z = stats.norm.ppf((1 + share) / 2)
    exact = 1 - 2 * z * stats.norm.pdf(z) / share
    exact = exact if keep == "likeliest" else (1 - share * exact) / (1 - share)
    assert abs(exact - factor) < 6e-4
    points = generator(3).standard_normal(ROWS)
    check = settings(name="likelihood", keep=keep, keep_share=share)
    place = CHECKS["likelihood"](check, candidates(points, stats.norm.logpdf(points)), generator())
    assert len(place) == math.ceil(share * ROWS)
    kept = points[place]
    assert abs(kept.var() - exact) < 4 * np.sqrt(np.var((kept - kept.mean()) ** 2) / len(kept))


def test_the_middle_is_what_lies_between():
    """Catches a middle that is not one, and a judge that is not asked."""
    log_prob_N, source_N = generator(4).permutation(1000).astype(float), generator(5).permutation(1000).astype(float)
    of = candidates(np.arange(1000), log_prob_N, source=source_N)
    place = CHECKS["likelihood"](settings(name="likelihood", keep="middle", keep_share=0.2), of, generator())
    assert sorted(log_prob_N[place]) == list(range(400, 600))
    check = settings(name="likelihood", keep="likeliest", keep_share=0.1, judge="source")
    assert sorted(source_N[CHECKS["likelihood"](check, of, generator())]) == list(range(900, 1000))


def test_among_equals_of_a_likelihood_filter_chance_decides():
    """Catches rows that pass because they were written first: of equal rows each half has half of what passes."""
    check = settings(name="likelihood", keep_share=0.5)
    place = CHECKS["likelihood"](check, candidates(np.arange(ROWS), np.zeros(ROWS)), generator())
    assert within(np.mean(place < ROWS / 2), 0.5, len(place))


@pytest.mark.parametrize("most", [1, 3])
def test_no_row_has_more_copies_than_it_may(most):
    """Counts are at most the cap and singletons stay; the first copies pass."""
    points = generator(6).integers(0, 50, (500, 3)).astype(np.uint8) // 20
    place = CHECKS["most_copies"](settings(name="most_copies", most_copies=most), candidates(points), generator())
    _, before = np.unique(points, axis=0, return_counts=True)
    _, after = np.unique(points[place], axis=0, return_counts=True)
    assert np.array_equal(after, np.minimum(before, most))
    seen = {}
    for index, row in enumerate(map(bytes, points)):
        seen.setdefault(row, []).append(index)
    assert sorted(place) == sorted(index for indices in seen.values() for index in indices[:most])


@pytest.mark.parametrize("error", [0.0, 0.2, 0.5, 1.0])
def test_the_better_of_two_is_picked_but_for_errors(error):
    """K = 2, two kinds of rows: c' = c^2 + 2 c (1 - c) (1 - eps), 100,000 picks."""
    right = 0.3
    right_N = (generator(7).random(ROWS) < right).astype(float)
    check = settings(name="choice", choice_error=error, reward="truth")
    place = CHECKS["choice"](check, candidates(right_N, truth=right_N), generator())
    assert len(place) == ROWS // 2 and np.array_equal(place // 2, np.arange(ROWS // 2))
    assert within(right_N[place].mean(), right**2 + 2 * right * (1 - right) * (1 - error), ROWS // 2)


@pytest.mark.parametrize(("size", "temperature"), [(2, 0.5), (3, 1.0), (4, 0.0), (8, 0.3)])
def test_picks_among_k_have_the_enumerated_law_and_keep_its_bounds(size, temperature):
    """p'(x) = p(x) H_K(x), by enumeration of all K - 1 others (Ferbach et al. 2024), chi-square of 50,000 picks; the
    mean of e^r does not fall, KL(p', p) <= ln K - (K - 1) / K (Beirami et al. 2024), and at a temperature of 0 a row of
    the best kind is picked with 1 - (1 - c)^K.
    """
    p_X, reward_X = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 1.0, 0.2, 1.5])
    picks = 50_000
    kind_N = generator(8).choice(4, picks * size, p=p_X)
    check = settings(name="choice", choose_from=size, choice_temperature=temperature, reward="source")
    place = CHECKS["choice"](check, candidates(kind_N, source=reward_X[kind_N]), generator())
    picked_X = np.bincount(kind_N[place], minlength=4)

    law_X = np.zeros(4)
    for counts in np.array(_compositions(size, 4)):
        probability = stats.multinomial.pmf(counts, size, p_X)
        if temperature:
            weight_X = counts * np.exp(reward_X / temperature)
        else:
            weight_X = counts * (reward_X == reward_X[counts > 0].max())
        law_X += probability * weight_X / weight_X.sum()
    assert abs(law_X.sum() - 1) < 1e-12
    assert stats.chisquare(picked_X, picks * law_X).pvalue > 1e-4
    assert law_X @ np.exp(reward_X) >= p_X @ np.exp(reward_X)
    assert np.sum(law_X * np.log(law_X / p_X)) <= np.log(size) - (size - 1) / size
    if temperature == 0:
        assert abs(law_X[3] - (1 - (1 - p_X[3]) ** size)) < 1e-12


def _compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to write a number as an ordered sum of so many, zeros among them."""
    if parts == 1:
        return [(total,)]
    return [(first, *rest) for first in range(total + 1) for rest in _compositions(total - first, parts - 1)]


def test_rewards_that_say_nothing_leave_the_law():
    """A constant reward, and rows without any: each row is picked alike (minus infinity less itself is no number)."""
    kind_N = generator(9).choice(3, ROWS, p=[0.5, 0.3, 0.2])
    for reward in (7.0, -math.inf):
        for temperature in (0.0, 0.5):
            check = settings(name="choice", choice_temperature=temperature)
            of = candidates(kind_N, source=np.full(ROWS, reward))
            picked = np.bincount(kind_N[CHECKS["choice"](check, of, generator(1))])
            assert stats.chisquare(picked, ROWS / 2 * np.array([0.5, 0.3, 0.2])).pvalue > 1e-4


@pytest.mark.parametrize(("share", "error", "exponent"), [(0.2, 0.1, 1), (0.2, 0.3, 2), (0.5, 0.1, 10), (0.1, 0.5, 10)])
def test_a_detector_raises_the_share_of_what_nobody_generated(share, error, exponent):
    """f' = f (1 - e)^b / (f (1 - e)^b + (1 - f) e^b) of the rows that it draws (Drayson et al. 2025), 100,000 rows."""
    rows = 100_000
    fresh = int(share * rows)
    pool = join([mark(np.arange(fresh), FRESH, 3), mark(np.arange(rows - fresh), SAMPLED, 2)])
    check = settings(name="detector", detector_error=error, detector_exponent=float(exponent))
    found = detected(check, pool, generator)
    assert len(found.points) == rows
    weights = share * (1 - error) ** exponent, (1 - share) * error**exponent
    assert within(np.mean(found.kind_N == FRESH), weights[0] / sum(weights), rows)


def test_without_a_detector_and_where_it_is_sure_of_nothing():
    """Catches a detector that works unasked, real rows that it takes for generated ones, and a division by zero."""
    pool = join([mark(np.arange(50), REAL, 0), mark(np.arange(50), SAMPLED, 2)])
    assert detected(settings(), pool, generator) is pool
    for error, kinds in ((0.0, {REAL}), (1.0, {SAMPLED})):
        check = settings(name="detector", detector_error=error)
        assert set(detected(check, pool, generator).kind_N.tolist()) == kinds
    alone = mark(np.arange(50), SAMPLED, 2)
    assert len(detected(settings(name="detector", detector_error=0.0), alone, generator).points) == 50


# The chain.


def test_checks_work_in_the_order_in_which_they_are_named():
    """Catches another order: the likeliest half of what is right is not what is right of the likeliest half."""
    log_prob_N = np.arange(100.0)
    right_N = (np.arange(100) < 60).astype(float)
    of = candidates(np.arange(100), log_prob_N, truth=right_N)
    first = curate(settings(name=("verifier", "likelihood")), of, 30, generator)
    assert first.points.tolist() == list(range(30, 60)) and first.columns["accepted_share"] == 0.3
    second = curate(settings(name=("likelihood", "verifier"), shortfall="fresh"), of, 30, generator)
    assert second.points.tolist() == list(range(50, 60)) and second.columns["accepted_share"] == 0.1


def test_where_fewer_pass_they_are_repeated_evenly_or_left_to_fresh_rows():
    """Catches rows that are invented, repeated unevenly, or a shortfall that nobody counts."""
    of = candidates(np.arange(100), truth=(np.arange(100) % 10 == 0).astype(float))
    repeated = curate(settings(name="verifier"), of, 35, generator)
    values, counts = np.unique(repeated.points, return_counts=True)
    assert values.tolist() == list(range(0, 100, 10)) and sorted(counts) == [3] * 5 + [4] * 5
    assert repeated.columns == {
        "accepted_share": 0.1,
        "effective_rows": pytest.approx(35**2 / (5 * 9 + 5 * 16)),
        "human_rows": 0,
    }
    left = curate(settings(name="verifier", shortfall="fresh"), of, 35, generator)
    assert left.points.tolist() == list(range(0, 100, 10)) and left.columns["effective_rows"] == 10
    nothing = candidates(np.arange(100), truth=np.zeros(100))
    for shortfall in ("repeat", "fresh"):
        found = curate(settings(name="verifier", shortfall=shortfall), nothing, 35, generator)
        assert len(found.points) == 0 and found.columns == {"accepted_share": 0, "effective_rows": 0, "human_rows": 0}


def test_picks_are_counted_as_what_people_gave():
    """An annotator's picks are labels, whether the rows that he sees have passed something before or not."""
    of = candidates(np.arange(120), truth=(np.arange(120) < 90).astype(float), source=np.arange(120.0))
    assert curate(settings(name="choice", choose_from=3), of, 40, generator).columns["human_rows"] == 40
    chain = curate(settings(name=("verifier", "choice"), choose_from=3), of, 30, generator)
    assert chain.columns["human_rows"] == 30 and chain.points.tolist() == list(range(2, 90, 3))


def test_a_score_is_asked_for_once_and_of_all_rows():
    """Catches what is compiled for the rows that happen to be left, anew in each generation."""
    asked = []

    def score(name, points):
        asked.append((name, len(points)))
        return np.ones(len(points))

    of = Candidates(np.arange(64), np.zeros(64), score)
    curate(settings(name=("likelihood", "verifier", "choice"), reward="truth"), of, 10, generator)
    assert asked == [("truth", 64)]
