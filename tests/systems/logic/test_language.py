"""The language against its grammar, written a second time as plain sums over every expression."""

import functools
import math
from collections import Counter

import numpy as np
import pytest

from jaxloop.errors import InputError
from jaxloop.systems.logic.judge import judge_jitted
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY, encode, rows_from_ids

# (min_depth, max_depth) of languages that can be enumerated.
SMALL = [(0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2)]
ENUMERABLE = [*SMALL, (0, 3), (1, 3), (3, 3)]


@functools.cache
def expressions(min_depth, max_depth, depth=0, probabilities=None):
    """{expression: (probability, truth)} of all below a node at this depth, each token written as its first letter."""
    letters = "TF" if depth >= max_depth else "nao" if depth < min_depth else "naoTF"
    shares = probabilities[depth] if probabilities else [1 / len(letters)] * len(letters)
    share = dict(zip(letters, shares, strict=True))
    found = {leaf: (share[leaf], leaf == "T") for leaf in "TF" if leaf in share}
    if depth >= max_depth:
        return found
    operands = expressions(min_depth, max_depth, depth + 1, probabilities).items()
    found |= {f"(n{operand})": (share["n"] * p, not value) for operand, (p, value) in operands}
    for left, (p, a) in operands:
        for right, (q, b) in operands:
            found[f"({left}a{right})"] = (share["a"] * p * q, a and b)
            found[f"({left}o{right})"] = (share["o"] * p * q, a or b)
    return found


def random_probabilities(min_depth, max_depth, seed, zero=None):
    """Probabilities of the choices at each depth; that of the choice with this place, if there is one, is 0."""
    generator, language = np.random.default_rng(seed), Language(min_depth, max_depth)
    weights = [generator.random(len(language.choices(depth))) + 0.05 for depth in range(max_depth + 1)]
    for weight in weights:
        if zero is not None and zero < len(weight):
            weight[zero] = 0
    return tuple(tuple((weight / weight.sum()).tolist()) for weight in weights)


def count_of(min_depth, max_depth, depth=0):
    """(all, true) expressions below a node at this depth."""
    if depth >= max_depth:
        return 2, 1
    everything, true = count_of(min_depth, max_depth, depth + 1)
    false = everything - true
    leaves = depth >= min_depth
    return everything + 2 * everything**2 + 2 * leaves, false + true**2 + (everything**2 - false**2) + leaves


def letters_of(rows):
    """Every row up to its `<eos>`, each token written as its first letter."""
    table = bytes.maketrans(bytes(range(EOS)), b"()naoTF")
    return [row.tobytes().partition(bytes([EOS]))[0].translate(table).decode() for row in rows]


@functools.cache
def enumerated(min_depth, max_depth):
    """(rows, their letters, their verdicts) of a whole language."""
    rows = Language(min_depth, max_depth).enumerate()
    return rows, letters_of(rows), np.asarray(judge_jitted(rows).verdict_N)


def row_of(text, width=64):
    return rows_from_ids([encode(text)], width)


def surprise(language, generator, rows):
    """Mean of -log_prob over draws, less the entropy, in standard errors."""
    nats = -language.log_prob(language.draw(generator, rows))
    return (nats.mean() - language.entropy_nats) / (nats.std() / math.sqrt(rows))


def test_defaults():
    """Catches a changed default: DESIGN.md and every preset build on depths 1 to 5, true expressions only."""
    language = Language()
    assert (language.min_depth, language.max_depth, language.only_true) == (1, 5, True)


def test_size_of_the_documented_language():
    """Catches a grammar that differs from the documented one: depths 1 to 3, the two counts in the manual."""
    rows, letters, verdict = enumerated(1, 3)
    assert len(rows) == len(set(letters)) == Language(1, 3).expression_count == 182_710
    assert np.count_nonzero(verdict == 2) == 91_355
    assert (verdict != 0).all()


@pytest.mark.parametrize(("min_depth", "max_depth"), ENUMERABLE)
def test_enumeration_is_the_grammar(min_depth, max_depth):
    """Catches expressions that are missing, listed twice, foreign, or wrongly counted by the closed recursion."""
    language = Language(min_depth, max_depth)
    rows, letters, verdict = enumerated(min_depth, max_depth)
    count, true_count = count_of(min_depth, max_depth)
    assert set(letters) == expressions(min_depth, max_depth).keys()
    assert len(set(letters)) == len(letters) == language.expression_count == count
    assert np.count_nonzero(verdict == 2) == true_count
    assert VOCABULARY.lengths(rows).max() == language.longest_tokens == rows.shape[1] - 1


@pytest.mark.parametrize("only_true", [True, False])
@pytest.mark.parametrize(("min_depth", "max_depth"), ENUMERABLE)
def test_probabilities_sum_to_one_and_to_the_entropy(min_depth, max_depth, only_true):
    """Catches a log_prob that is no distribution, a wrong condition on truth, and a wrong recursion of the entropy."""
    language = Language(min_depth, max_depth, only_true)
    rows, _, verdict = enumerated(min_depth, max_depth)
    log_prob = language.log_prob(rows)
    inside = log_prob[np.isfinite(log_prob)]
    assert (np.isfinite(log_prob) == (verdict >= 1 + only_true)).all()
    assert np.exp(inside).sum() == pytest.approx(1, abs=1e-9)
    assert -(np.exp(inside) * inside).sum() == pytest.approx(language.entropy_nats, abs=1e-9)


@pytest.mark.parametrize("only_true", [True, False])
@pytest.mark.parametrize(("min_depth", "max_depth"), ENUMERABLE)
def test_mean_tokens_is_the_mean_over_every_expression(min_depth, max_depth, only_true):
    """Catches parentheses that are not counted, an operand too few, and a mean that ignores the condition on truth."""
    language = Language(min_depth, max_depth, only_true)
    rows, _, _ = enumerated(min_depth, max_depth)
    assert language.mean_tokens == pytest.approx(np.exp(language.log_prob(rows)) @ VOCABULARY.lengths(rows), rel=1e-12)


@pytest.mark.parametrize(("min_depth", "max_depth"), [(1, 5), (0, 8)])
def test_mean_tokens_of_draws(min_depth, max_depth):
    """Catches a recursion that is right for few depths only."""
    language = Language(min_depth, max_depth)
    tokens = VOCABULARY.lengths(language.draw(np.random.default_rng(5), 4000))
    assert abs(tokens.mean() - language.mean_tokens) < 5 * tokens.std() / math.sqrt(len(tokens))


@pytest.mark.parametrize(("min_depth", "max_depth"), [*SMALL, (1, 3), (3, 3)])
def test_probability_of_every_expression(min_depth, max_depth):
    """Catches errors that cancel in sums: `and` more probable than `or`, depths off by one, truth of single rows."""
    free, conditioned = Language(min_depth, max_depth, False), Language(min_depth, max_depth, True)
    rows, letters, _ = enumerated(min_depth, max_depth)
    probability, truth = np.array([expressions(min_depth, max_depth)[expression] for expression in letters]).T
    np.testing.assert_allclose(np.exp(free.log_prob(rows)), probability, rtol=1e-12)
    assert free.true_probability == pytest.approx(probability @ truth, rel=1e-12)
    np.testing.assert_allclose(
        np.exp(conditioned.log_prob(rows)), probability * truth / (probability @ truth), rtol=1e-12
    )


@pytest.mark.parametrize("zero", [None, 0, 1])
@pytest.mark.parametrize(("min_depth", "max_depth"), [*SMALL, (1, 3)])
def test_given_probabilities(min_depth, max_depth, zero):
    """Catches sums that take the choices for uniform, mix up their order or their depths, or break on a zero."""
    probabilities = random_probabilities(min_depth, max_depth, 9, zero)
    rows, letters, _ = enumerated(min_depth, max_depth)
    stated = expressions(min_depth, max_depth, 0, probabilities)
    p, truth = np.array([stated[expression] for expression in letters]).T
    free = Language(min_depth, max_depth, False, probabilities)
    assert [free.probabilities(depth) for depth in range(max_depth + 1)] == [
        pytest.approx(shares, abs=1e-15) for shares in probabilities
    ]
    assert free.true_probability == pytest.approx(p @ truth, abs=1e-14)
    for only_true, mass in ((False, p), (True, p * truth)):
        if not mass.sum():
            with pytest.raises(InputError, match="no expression is true"):
                Language(min_depth, max_depth, True, probabilities)
            continue
        language, mass = Language(min_depth, max_depth, only_true, probabilities), mass / mass.sum()
        np.testing.assert_allclose(np.exp(language.log_prob(rows)), mass, rtol=1e-12)
        inside = mass[mass > 0]
        assert language.entropy_nats == pytest.approx(-(inside * np.log(inside)).sum(), abs=1e-12)
        assert language.mean_tokens == pytest.approx(mass @ VOCABULARY.lengths(rows), rel=1e-12)


def assert_frequencies(language, generator, rows):
    """Draws against exact probabilities: each expression by itself, and all by chi-square."""
    observed = Counter(letters_of(language.draw(generator, rows)))
    everything, letters, _ = enumerated(language.min_depth, language.max_depth)
    probability = np.exp(language.log_prob(everything))
    support = probability > 0
    expected = rows * probability[support]
    found = np.array(
        [observed.pop(expression, 0) for expression, inside in zip(letters, support, strict=True) if inside]
    )
    assert not observed
    sigma = np.sqrt(expected * (1 - probability[support]))
    common = expected > 1
    assert (np.abs(found - expected) <= 5 * sigma)[common].all()
    freedom = max(np.count_nonzero(common) - 1, 1)
    chi_square = ((found - expected) ** 2 / expected)[common].sum()
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("min_depth", "max_depth", "only_true"), [(1, 2, True), (0, 2, False), (2, 2, True), (0, 1, True)]
)
def test_draws_have_the_stated_frequencies(min_depth, max_depth, only_true):
    """Catches biased choices, and a draw and a log_prob that describe two different sources."""
    assert_frequencies(Language(min_depth, max_depth, only_true), np.random.default_rng(2), 200_000)


@pytest.mark.parametrize("zero", [None, 0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    ("min_depth", "max_depth", "only_true"), [(1, 2, True), (0, 2, False), (2, 2, False), (0, 1, True), (0, 0, False)]
)
def test_draws_have_given_frequencies(min_depth, max_depth, only_true, zero):
    """Catches draws that ignore the probabilities or the values they are to have, and choices of probability 0."""
    probabilities = random_probabilities(min_depth, max_depth, 10, zero)
    assert_frequencies(Language(min_depth, max_depth, only_true, probabilities), np.random.default_rng(2), 200_000)


def test_uniform_probabilities_are_the_default():
    """Catches a second path for the uniform language."""
    given = Language(1, 2, True, [[1 / 3] * 3, [1 / 5] * 5, [1 / 2] * 2])
    default = Language(1, 2)
    assert [given.probabilities(depth) for depth in range(3)] == [default.probabilities(depth) for depth in range(3)]
    drawn = [language.draw(np.random.default_rng(0), 500).tobytes() for language in (given, default)]
    assert drawn[0] == drawn[1]


def test_draws_where_truth_is_rare():
    """Catches rejection: at this probability of truth it would not end."""
    language = Language(1, 1, True, [[1, 0, 0], [1 - 1e-200, 1e-200]])
    assert language.true_probability == 1e-200
    assert set(letters_of(language.draw(np.random.default_rng(0), 1000))) == {"(nF)"}
    assert language.log_prob(row_of("( not False )"))[0] == pytest.approx(0, abs=1e-12)


def test_refuses_a_language_without_truth():
    """Catches a condition that nothing fulfils, and draws that wait for it for ever."""
    assert Language(1, 1, False, [[1, 0, 0], [1, 0]]).true_probability == 0
    with pytest.raises(InputError, match="no expression is true"):
        Language(1, 1, True, [[1, 0, 0], [1, 0]])


REFUSED = [
    [[1.0], [0.5, 0.5]],
    [[0.5, 0.5, 0.0]],
    [[0.5, 0.5, 0.0], [0.5, 0.5], [0.5, 0.5]],
    [[0.5, 0.5, 0.1], [0.5, 0.5]],
    [[0.5, 0.6, -0.1], [0.5, 0.5]],
    [[math.nan, 0.5, 0.5], [0.5, 0.5]],
]


@pytest.mark.parametrize("probabilities", REFUSED)
def test_refuses_what_is_no_distribution(probabilities):
    """Catches probabilities for other depths or choices, and weights that are not normalised."""
    with pytest.raises(ValueError, match="probabilities of"):
        Language(1, 1, False, probabilities)


@pytest.mark.parametrize("only_true", [True, False])
@pytest.mark.parametrize(
    ("min_depth", "max_depth", "rows"), [(1, 5, 20_000), (0, 5, 20_000), (4, 5, 5_000), (1, 8, 2_000)]
)
def test_mean_surprise_of_draws_is_the_entropy(min_depth, max_depth, rows, only_true):
    """Catches a wrong entropy, or draws from elsewhere, in languages too large to enumerate."""
    assert abs(surprise(Language(min_depth, max_depth, only_true), np.random.default_rng(3), rows)) < 4


@pytest.mark.parametrize("only_true", [True, False])
@pytest.mark.parametrize(
    ("min_depth", "max_depth", "rows"),
    [(1, 5, 10_000), (0, 3, 10_000), (3, 3, 1_000), (0, 0, 50), (1, 8, 500), (8, 8, 20)],
)
def test_draws_lie_in_the_support(min_depth, max_depth, rows, only_true):
    """Catches too few rows, false or invalid ones, leaves too high, operators too deep, and rows without `<eos>`."""
    language = Language(min_depth, max_depth, only_true)
    drawn = language.draw(np.random.default_rng(4), rows)
    assert drawn.shape == (rows, language.longest_tokens + 1)
    assert drawn.dtype == np.uint8
    judgement = judge_jitted(drawn)
    verdict, depth = np.asarray(judgement.verdict_N), np.asarray(judgement.depth_N)
    assert set(verdict.tolist()) == ({2} if only_true else {1, 2})
    assert min_depth <= depth.min() <= depth.max() <= max_depth
    assert np.isfinite(language.log_prob(drawn)).all()
    length = VOCABULARY.lengths(drawn)
    assert (np.arange(drawn.shape[1]) < length[:, None]).tolist() == (drawn != EOS).tolist()


def test_any_number_of_rows():
    """Catches a draw that stops short when fewer than expected of the first block are true."""
    language = Language(1, 2)
    for seed in range(100):
        for rows in (0, 1, 100):
            assert len(language.draw(np.random.default_rng(seed), rows)) == rows


def test_draws_of_many_blocks(monkeypatch):
    """Catches blocks (of millions of nodes, here of 50 trees) that repeat each other or do not make up the rows."""
    draw_nodes = Language._draw_nodes
    monkeypatch.setattr(
        Language, "_draw_nodes", lambda self, generator, count: draw_nodes(self, generator, min(count, 50))
    )
    language = Language(1, 3)
    drawn = language.draw(np.random.default_rng(5), 5001)
    assert drawn.shape == (5001, 30)
    assert np.isfinite(language.log_prob(drawn)).all()
    assert len({drawn[start : start + 10].tobytes() for start in range(0, 5000, 10)}) == 500
    assert abs(surprise(language, np.random.default_rng(5), 5001)) < 4


@pytest.mark.parametrize("only_true", [True, False])
def test_draws_follow_from_the_generator_alone(only_true):
    """Catches hidden state, a seed that is not used, and rows that depend on the width they are stored in."""
    language = Language(1, 4, only_true)
    generator = np.random.default_rng(6)
    first, second = language.draw(generator, 300), language.draw(generator, 300)
    again = language.draw(np.random.default_rng(6), 300)
    wider = language.draw(np.random.default_rng(6), 300, width=100)
    assert (first == again).all()
    assert (first == wider[:, : first.shape[1]]).all()
    assert (wider[:, first.shape[1] :] == EOS).all()
    assert (first != second).any()
    assert (first != language.draw(np.random.default_rng(7), 300)).any()


@pytest.mark.parametrize("max_depth", [0, 1, 3, 5])
def test_draw_refuses_rows_that_are_too_narrow(max_depth):
    """Catches expressions cut at the width, and a longest one that loses its `<eos>`."""
    language = Language(0, max_depth)
    for width in (language.longest_tokens, 1, -1):
        with pytest.raises(ValueError, match=rf"{language.longest_tokens} tokens"):
            language.draw(np.random.default_rng(0), 5, width)
    assert language.draw(np.random.default_rng(0), 5, language.longest_tokens + 1).shape[0] == 5


def test_draw_refuses_a_width_of_zero():
    """Catches a width of 0 taken for no width."""
    with pytest.raises(ValueError, match="tokens"):
        Language(1, 2).draw(np.random.default_rng(0), 5, 0)


def test_worked_example():
    """Catches a formula that has parted from the one worked out in the module's docstring."""
    row = row_of("( True and ( not False ) )")
    for max_depth in (3, 5, 8):
        assert Language(1, max_depth, False).log_prob(row)[0] == pytest.approx(math.log(1 / 375), abs=1e-12)
        assert Language(1, max_depth, True).log_prob(row)[0] == pytest.approx(math.log(2 / 375), abs=1e-12)
    # `not False` at the deepest level: the leaf is one of two, not one of five.
    assert Language(1, 2, False).log_prob(row)[0] == pytest.approx(math.log(1 / 150), abs=1e-12)


OUTSIDE = [
    (1, 3, True, "True", "a leaf at the root"),
    (2, 3, True, "( True or ( not False ) )", "a leaf at depth 1 beside a deeper one"),
    (3, 3, True, "( not ( not True ) )", "leaves at depth 2"),
    (0, 1, True, "( not ( not True ) )", "an operator at depth 1 of 1"),
    (0, 0, True, "( not False )", "an operator at the root of depth 0"),
    (1, 3, True, "( not ( not ( not ( not True ) ) ) )", "an operator at depth 3 of 3"),
    (1, 3, True, "( True and False )", "false"),
    (1, 3, True, "( True and True", "unfinished"),
    (1, 3, False, "( True and True", "unfinished"),
    (0, 3, False, "True and True", "no parentheses"),
    (0, 3, False, "( True )", "parentheses around nothing"),
    (0, 3, False, "( True and True ) )", "one too many"),
    (0, 3, False, ") True (", "a count of parentheses below 0"),
    (0, 3, False, "True True", "two expressions"),
    (0, 3, False, "", "empty"),
]
INSIDE = [
    (1, 3, True, "( not False )"),
    (2, 3, True, "( ( not False ) or ( not False ) )"),
    (3, 3, True, "( not ( not ( not False ) ) )"),
    (0, 1, True, "( not False )"),
    (0, 0, True, "True"),
    (1, 3, False, "( True and False )"),
    (0, 3, False, "False"),
]


@pytest.mark.parametrize(("min_depth", "max_depth", "only_true", "text", "why"), OUTSIDE)
def test_log_prob_is_minus_infinity_outside(min_depth, max_depth, only_true, text, why):
    """Catches probability given to rows that the source never draws."""
    assert Language(min_depth, max_depth, only_true).log_prob(row_of(text))[0] == -math.inf, why


@pytest.mark.parametrize(("min_depth", "max_depth", "only_true", "text"), INSIDE)
def test_log_prob_is_finite_inside(min_depth, max_depth, only_true, text):
    """Catches limits of depth that exclude one level too much."""
    p, value = expressions(min_depth, max_depth)["".join(word[0] for word in text.split())]
    expected = math.log(p / 0.5 if only_true else p)
    assert value or not only_true
    assert Language(min_depth, max_depth, only_true).log_prob(row_of(text))[0] == pytest.approx(expected, abs=1e-12)


def test_log_prob_reads_up_to_the_first_eos():
    """Catches tokens after `<eos>` that count, and a row without any `<eos>` that is taken for finished."""
    language = Language(1, 3)
    row = row_of("( True and ( not False ) )", 16)
    expected = language.log_prob(row)[0]
    row[0, 10:] = encode("( ( True False and )")
    assert language.log_prob(row)[0] == language.log_prob(row[:, :9])[0] == expected
    assert language.log_prob(row[:, :8])[0] == -math.inf


def test_log_prob_with_given_verdicts():
    """Catches a second way through log_prob that disagrees with the first."""
    language = Language(1, 3)
    rows = np.concatenate([Language(0, 4, False).draw(np.random.default_rng(8), 2000), np.full((5, 62), EOS, np.uint8)])
    rows[::3, 4] = 2
    given = language.log_prob(rows, np.asarray(judge_jitted(rows).verdict_N))
    assert given.tolist() == language.log_prob(rows).tolist()
    assert given.dtype == np.float64
    assert 0 < np.isfinite(given).sum() < len(rows)


@pytest.mark.parametrize("min_depth", [0, 1, 4])
def test_enumerate_refuses_large_languages(min_depth):
    """Catches an enumeration that fills the memory instead of saying how many there are."""
    count = count_of(min_depth, 4)[0]
    language = Language(min_depth, 4)
    assert language.expression_count == count
    with pytest.raises(InputError, match=f" {count:,} expressions"):
        language.enumerate()


def test_enumerate_states_astronomic_counts_short():
    """Catches a message with hundreds of digits, or a float overflow while it is written."""
    for max_depth in (5, 8, 11):
        count = count_of(1, max_depth)[0]
        with pytest.raises(InputError, match=r"about 10\^(\d+) expressions") as caught:
            Language(1, max_depth).enumerate()
        stated = int(str(caught.value).split("10^")[1].split()[0])
        assert abs(stated - math.log10(count)) <= 0.5 + 1e-9


def test_width_of_an_enumeration():
    """Catches rows that run into each other at a width of one's own."""
    language = Language(1, 2)
    rows = language.enumerate(20)
    assert rows.shape == (300, 20)
    assert (rows[:, :14] == language.enumerate()).all()
    assert (rows[:, 14:] == EOS).all()


@pytest.mark.parametrize("width", [13, 12, 5])
def test_enumerate_refuses_rows_that_are_too_narrow(width):
    """Catches longest expressions without their `<eos>`, which the judge calls unfinished; draw refuses that width."""
    with pytest.raises(ValueError):
        Language(1, 2).enumerate(width)
