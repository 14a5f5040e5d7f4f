"""Measures of rows, each against a slow and obvious computation of the same number."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from jaxloop.loop.rows import FRESH, REAL, SAMPLED, join, mark
from jaxloop.systems.logic import measures
from jaxloop.systems.logic.judge import FAULTS, INVALID, TRUE_VERDICT, VERDICTS, Judgement
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import EOS, decode, encode, rows_from_ids


def levenshtein(a, b):
    """The textbook dynamic programme."""
    above = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        row = [i]
        for j, right in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (left != right)))
        above = row
    return above[-1]


def brute_diversity(sequences):
    """The definition, over every pair of a list that holds duplicates."""
    pairs = list(itertools.combinations(sequences, 2))
    distances = [levenshtein(a, b) / max(len(a), len(b), 1) for a, b in pairs]
    return math.fsum(distances) / len(pairs) if pairs else math.nan


def measured_diversity(sequences):
    counts = Counter(sequences)
    return measures.pairwise_diversity(list(counts), list(counts.values()))


def texts(seed, count, longest, letters="abc", shortest=0):
    generator = np.random.default_rng(seed)
    return [
        "".join(generator.choice(list(letters), length)) for length in generator.integers(shortest, longest + 1, count)
    ]


CORPORA = {
    "short": texts(0, 40, 2),  # many duplicates, some empty
    "mixed": texts(1, 30, 15, "abcdefg"),
    "binary": texts(2, 30, 12, "ab"),
    "one_empty": ["", "abc", "abd", "abc"],
    "two_empty": ["", "", "a"],
    "two": ["kitten", "sitting"],
    "unequal_lengths": ["a" * length for length in (1, 2, 4, 8, 16, 32)],
    "over_255": [*texts(3, 3, 300, "abcdefg", 250), "h" * 280, "i" * 270, "", "i" * 270],
    "exactly_255": ["a" * 255, "b" * 255, "b" * 254],
    "exactly_256": ["a" * 256, "b" * 256, "b" * 255],
}


@pytest.mark.parametrize("block_pairs", [None, 1, 7, 100])
@pytest.mark.parametrize("name", CORPORA)
def test_pairwise_diversity_is_the_mean_over_all_pairs(name, block_pairs, monkeypatch):
    """Catches wrong weights of duplicates, a wrong normaliser, overflowing distances, pairs lost between blocks."""
    if block_pairs:
        monkeypatch.setattr(measures, "_BLOCK_PAIRS", block_pairs)
    assert measured_diversity(CORPORA[name]) == pytest.approx(brute_diversity(CORPORA[name]), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("count", [2, 3, 1000])
@pytest.mark.parametrize("sequence", ["", "a", "abc"])
def test_equal_sequences_have_no_diversity(sequence, count):
    """Catches pairs of equal sequences that count as different, or divide by zero when empty."""
    assert measures.pairwise_diversity([sequence], [count]) == 0


@pytest.mark.parametrize("sequences", [[], ["abc"], [""]])
def test_fewer_than_two_sequences_have_no_pairs(sequences):
    """Catches a number, or an error, where there is no pair: it must be nan."""
    assert math.isnan(measured_diversity(sequences))


@pytest.mark.parametrize("sequences", [["abc", "def"], ["", "a"], ["a" * 300, "b"]])
def test_diversity_reaches_one(sequences):
    """Catches a normaliser other than the longer length: sequences with nothing in common are at distance 1."""
    assert measured_diversity(sequences) == 1


def random_rows(seed, count, longest=9, width=10):
    generator = np.random.default_rng(seed)
    return rows_from_ids(
        [generator.integers(EOS, size=size) for size in generator.integers(0, longest + 1, count)], width
    )


def words(rows):
    """Rows as byte strings, up to `<eos>`."""
    return [bytes(row).split(bytes([EOS]))[0] for row in rows]


# A longest expression of 10 tokens in rows of 10 is cut off by the context: no `<eos>`.
ROWS = {"short": random_rows(0, 60, 1), "mixed": random_rows(1, 40), "cut_off": random_rows(2, 30, longest=10)}


@pytest.mark.parametrize("block_pairs", [None, 50])
@pytest.mark.parametrize("name", ROWS)
def test_diversity_of_rows(name, block_pairs, monkeypatch):
    """Catches `<eos>` and padding that count as tokens, and counts that go to the wrong row."""
    if block_pairs:
        monkeypatch.setattr(measures, "_BLOCK_PAIRS", block_pairs)
    assert measures.diversity(ROWS[name]) == pytest.approx(brute_diversity(words(ROWS[name])), rel=1e-9)


def test_diversity_does_not_depend_on_order_or_width():
    """Catches a diversity of the padding, or of neighbours only."""
    rows = ROWS["mixed"]
    wider = np.pad(rows, ((0, 0), (0, 7)), constant_values=EOS)
    expected = measures.diversity(rows)
    assert measures.diversity(np.random.default_rng(0).permutation(rows)) == pytest.approx(expected, rel=1e-9)
    assert measures.diversity(wider) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ids", [[], [5], [0, 2, 5, 1]])
def test_equal_rows_have_no_diversity(ids):
    """Catches a collapsed loop, the paper's end, that would not be measured as exactly 0."""
    assert measures.diversity(rows_from_ids([ids] * 50, 6)) == 0


def test_diversity_of_ten_thousand_samples():
    """Catches a measure that does not survive the paper's sample size; duplicates must not change its value."""
    rows = Language(max_depth=5).draw(np.random.default_rng(0), 10_000)
    diversity = measures.diversity(rows)
    assert 0.6 < diversity < 0.7  # 0.649 in an independent measurement
    few = rows[:1000]
    # Every row 10 times: of the (10 N)(10 N - 1) ordered pairs, 100 N (N - 1) are pairs of different rows.
    expected = measures.diversity(few) * 100 * 1000 * 999 / (10_000 * 9_999)
    assert measures.diversity(np.repeat(few, 10, axis=0)) == pytest.approx(expected, rel=1e-9)


def test_corpus_diversity():
    """Catches characters compared instead of words, and a unique share of words instead of lines."""
    lines = [b"a b c", b"a b c", b"", b"ab c", b"c b a a", b""]
    lines = [line.split() for line in lines]
    diversity, unique_share = measures.corpus_diversity(lines)
    assert diversity == pytest.approx(brute_diversity(lines), rel=1e-9)
    assert unique_share == 4 / 6


def test_corpus_diversity_of_nothing():
    """Catches a division by zero lines."""
    assert all(map(math.isnan, measures.corpus_diversity([])))
    diversity, unique_share = measures.corpus_diversity([[b"one", b"line"]])
    assert math.isnan(diversity)
    assert unique_share == 1


def test_corpus_of_many_words_confuses_none():
    """Catches words that share a character past code point 0xD800 or 0x10000, and distances over 65,535."""
    vocabulary = [b"%d" % number for number in range(70_000)]
    # Words where a character could wrap, or fall among the surrogates.
    edges = (0, 0x800, 0xD7FF, 0xD800, 0xDFFF, 0xE000, 0xE7FF, 0xE800, 0xF7FF, 0xF800, 0xFFFF, 0x10000, 0x10800, 69_999)
    lines = [vocabulary, *([vocabulary[edge]] for edge in edges)]
    diversity, unique_share = measures.corpus_diversity(lines)
    # Different words are at distance 1; the line of all words is at 69,999 / 70,000 of each.
    among, pairs = math.comb(len(edges), 2), math.comb(len(lines), 2)
    assert diversity == pytest.approx((among + len(edges) * 69_999 / 70_000) / pairs, rel=1e-9)
    assert unique_share == 1


def broken_rows(seed, count, width):
    """Rows of random tokens: mostly invalid, some empty, some cut off."""
    return random_rows(seed, count, longest=width, width=width)


def samples(seed):
    """True, false, broken, cut-off and empty rows, many of them twice."""
    language = Language(max_depth=3, only_true=False)
    drawn = language.draw(np.random.default_rng(seed), 300)
    return np.concatenate([drawn, drawn[:100], broken_rows(seed, 100, drawn.shape[1]), rows_from_ids([[]] * 5, 30)])


@pytest.mark.parametrize("seed", [0, 1])
def test_shares_sum_to_one(seed):
    """Catches a verdict or a fault that no column counts."""
    rows = samples(seed)
    measured = measures.measure_rows(rows, measures.verdicts(rows))
    shares = [measured[f"{name}_share"] for name in VERDICTS]
    assert math.fsum(shares) == pytest.approx(1, abs=1e-12)
    assert all(share > 0 for share in shares)
    faults = [measured[f"{name}_share"] for name in ("syntax", "unfinished", "empty")]
    assert math.fsum(faults) == pytest.approx(measured["invalid_share"], abs=1e-12)
    assert measured["empty_share"] == words(rows).count(b"") / len(rows)


@pytest.mark.parametrize("seed", [0, 1])
def test_measures_of_rows_against_slow_ones(seed):
    """Catches a column that holds another measure, or one over the wrong rows; each is computed again slowly."""
    rows = samples(seed)
    judgement = measures.verdicts(rows)
    measured = measures.measure_rows(rows, judgement)
    for code, name in enumerate(VERDICTS):
        assert measured[f"{name}_share"] == judgement.verdict_N.tolist().count(code) / len(rows)
    for code, name in list(enumerate(FAULTS))[1:]:
        assert measured[f"{name}_share"] == judgement.fault_N.tolist().count(code) / len(rows)
    counts = Counter(words(rows))
    shares = [count / len(rows) for count in counts.values()]
    assert measured["unique_share"] == len(counts) / len(rows)
    assert measured["entropy_nats"] == pytest.approx(-math.fsum(share * math.log(share) for share in shares), rel=1e-12)
    assert measured["mean_length_tokens"] == pytest.approx(np.mean([len(word) for word in words(rows)]), rel=1e-12)
    assert measured["diversity"] == measures.diversity(rows)
    true_rows = [row for row, verdict in zip(rows, judgement.verdict_N, strict=True) if verdict == TRUE_VERDICT]
    assert measured["true_diversity"] == measures.diversity(np.array(true_rows))
    depths = []
    for row, verdict in zip(rows, judgement.verdict_N, strict=True):
        if verdict != INVALID:
            steps = [{"(": 1, ")": -1}.get(word, 0) for word in decode(row).split()]
            depths.append(max(itertools.accumulate(steps)))
    assert measured["mean_depth"] == pytest.approx(np.mean(depths), rel=1e-12)


def test_entropy_of_different_rows_is_the_logarithm():
    """Catches bits for nats and a wrong normaliser; all 300 expressions of depth 2, once each and three times each."""
    rows = Language(max_depth=2).enumerate()
    for repeats in (1, 3):
        repeated = np.repeat(rows, repeats, axis=0)
        measured = measures.measure_rows(repeated, measures.verdicts(repeated))
        assert measured["entropy_nats"] == pytest.approx(math.log(len(rows)), rel=1e-12)
        assert measured["unique_share"] == 1 / repeats


@pytest.mark.parametrize("text", ["True", "( False", "False", ""])
def test_one_row_over_and_over(text):
    """Catches a minus before zero, an error, or a number for nan where nothing is true, in any collapsed loop."""
    rows = rows_from_ids([encode(text)] * 20, 6)
    measured = measures.measure_rows(rows, measures.verdicts(rows))
    assert measured["entropy_nats"] == 0
    assert math.copysign(1, measured["entropy_nats"]) == 1
    assert (measured["diversity"], measured["unique_share"]) == (0, 1 / 20)
    assert math.isnan(measured["true_diversity"]) == (text != "True")
    assert math.isnan(measured["mean_depth"]) == (text not in ("True", "False"))


def test_one_true_row_has_no_true_diversity():
    """Catches a diversity of a single row: there is no pair."""
    rows = rows_from_ids([encode("True"), encode("False"), encode("( not True )")], 6)
    assert math.isnan(measures.measure_rows(rows, measures.verdicts(rows))["true_diversity"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_seen_share(seed):
    """Catches samples that are counted once however often they occur, and rows compared by their start only."""
    language = Language(max_depth=2)
    training, sampled = (language.draw(np.random.default_rng([seed, which]), 200) for which in (0, 1))
    sampled = np.concatenate([sampled, broken_rows(seed, 30, sampled.shape[1]), training[:20]])
    measured = measures.measure_training(sampled, mark(training, REAL, 0))
    known = words(training)
    assert measured["seen_in_training_share"] == sum(word in known for word in words(sampled)) / len(sampled)
    assert 0 < measured["seen_in_training_share"] < 1
    assert measured["training_rows"] == 200
    assert measured["training_unique_share"] == len(set(known)) / 200
    assert measured["training_diversity"] == measures.diversity(training)


def test_seen_share_at_its_ends():
    """Catches an exchange of samples and training rows: everything seen, and nothing."""
    rows = Language(max_depth=2).enumerate()
    few, others = mark(rows[:10], REAL, 0), rows[10:]
    assert measures.measure_training(rows[:3], few)["seen_in_training_share"] == 1
    assert measures.measure_training(others, few)["seen_in_training_share"] == 0
    assert measures.measure_training(rows, few)["seen_in_training_share"] == 10 / len(rows)


def test_provenance_shares():
    """Catches shares of provenance in each other's columns."""
    rows = random_rows(0, 100)
    kinds = ((REAL, 0, 20), (FRESH, 3, 30), (SAMPLED, 2, 43), (SAMPLED, 1, 7))
    measured = measures.measure_training(rows, join([mark(rows[:size], kind, source) for kind, source, size in kinds]))
    assert [measured[f"{name}_rows_share"] for name in ("real", "fresh", "sampled")] == [0.2, 0.3, 0.5]


@pytest.mark.parametrize("seed", [0, 1])
def test_top_samples(seed):
    """Catches a wrong order, a wrong count and a verdict that belongs to another row."""
    rows = np.random.default_rng(seed).permutation(samples(seed))
    counts = Counter(map(bytes, rows))
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: measures.TOP_SAMPLES]
    judgement = measures.verdicts(rows)
    verdict = {bytes(row): VERDICTS[code] for row, code in zip(rows, judgement.verdict_N, strict=True)}
    found = measures.top_samples(rows, judgement)
    assert found == [(decode(row), count, verdict[row]) for row, count in expected]
    assert len({verdict for _, _, verdict in found}) == 3


def test_top_samples_verdict_follows_its_row():
    """Catches verdicts that are looked up in the order of the samples instead of that of the different rows."""
    rows = rows_from_ids([[6], [5], [5], [0], [6], [6]], 3)
    verdict_N = np.array([1, 2, 2, 0, 1, 1], np.int8)
    judgement = Judgement(verdict_N, np.where(verdict_N, 0, 1), np.zeros(6, np.int32))
    expected = [("False", 3, "false"), ("True", 2, "true"), ("(", 1, "invalid")]
    assert measures.top_samples(rows, judgement) == expected
