import re

import numpy as np
import pytest

from jaxloop.systems.logic.vocabulary import EOS, TOKENS, VOCABULARY, decode, encode, rows_from_ids

WORDS = ["(", ")", "not", "and", "or", "True", "False"]


def test_ids_of_the_tokens():
    """Catches renumbered tokens: ids lie in the samples of every run folder."""
    assert list(TOKENS) == [*WORDS, "<eos>"]
    assert (VOCABULARY.size, VOCABULARY.end, EOS) == (8, 7, 7)
    assert encode(" ".join(WORDS)) == list(range(7))


def test_encode_and_decode_are_inverse():
    """Catches a swapped pair of words, a lost token, and reading past the first `<eos>`."""
    rng = np.random.default_rng(0)
    for length in list(range(31)) * 10:
        ids = rng.integers(0, 7, length).tolist()
        text = decode(ids)
        assert text.split(" ") == [WORDS[token] for token in ids] or (text, ids) == ("", [])
        assert encode(text) == ids
        after_end = np.array([*ids, EOS, *rng.integers(0, 8, 5)], np.uint8)
        assert decode(after_end) == text


@pytest.mark.parametrize("space", [" ", "   ", "\t", "\n", "\r\n", "\v", "\f", " \t "])
def test_ascii_space_separates(space):
    """Catches a split at single spaces, which makes empty words of runs, tabs and line ends."""
    assert encode(space.join(["", *WORDS, ""])) == list(range(7))
    assert encode(space) == []


@pytest.mark.parametrize(
    "space", ["\xa0", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\u1680", "\u2003", "\u2028", "\u3000", "\ufeff", "\0"]
)
def test_other_space_does_not_separate(space):
    """Catches `str.split()`, which takes Unicode's spaces and the separators \\x1c to \\x1f for white space."""
    with pytest.raises(ValueError, match=re.escape(f"unknown word {'True' + space + 'and'!r} at token 2")):
        encode(f"( True{space}and True )")


@pytest.mark.parametrize(
    ("text", "word", "place"),
    [
        ("( True and Maybe )", "Maybe", 4),
        ("true", "true", 1),
        ("( NOT True )", "NOT", 2),
        ("<eos>", "<eos>", 1),
        ("( True  and\tTrue ) <eos>", "<eos>", 6),
        ("( not True)", "True)", 3),
        ("(True and True )", "(True", 1),
        ("( True and first ) second", "first", 4),
        ("0", "0", 1),
        ("( not \u22a4 )", "\u22a4", 3),
        ("True True \ufffd\ufffd", "\ufffd\ufffd", 3),
    ],
)
def test_unknown_word_is_named_with_its_place(text, word, place):
    """Catches a word that slips in (`<eos>` has an id, but is no word), and a place counted from 0 or in characters."""
    with pytest.raises(ValueError, match=re.escape(f"unknown word {word!r} at token {place}")) as caught:
        encode(text)
    glued = "(" in word or ")" in word
    assert ("separated by spaces" in str(caught.value)) == glued


def test_unknown_word_is_shown_short():
    """Catches a message as long as the input: errors are one readable line."""
    with pytest.raises(ValueError, match="at token 1") as caught:
        encode("x" * 100_000)
    assert len(str(caught.value)) < 200


def test_surrogates_are_refused_like_any_word():
    """Catches an encoding error that escapes instead of naming the word's place."""
    with pytest.raises(ValueError, match=r"unknown word .* at token 2"):
        encode("not \ud800")


def test_rows_from_ids_pads_with_eos():
    """Catches padding with 0, which is `(`, and a lost last row or last token."""
    ids = [[], [5], [0, 2, 6, 1], [0, 5, 3, 5, 1]]
    rows = rows_from_ids(iter(ids), 5)
    assert rows.dtype == np.uint8
    assert rows.tolist() == [row + [7] * (5 - len(row)) for row in ids]
    assert rows_from_ids([], 5).shape == (0, 5)


def test_rows_from_ids_refuses_what_does_not_fit():
    """Catches an expression that is silently cut at the width."""
    with pytest.raises(ValueError, match=r"\b6\b"):
        rows_from_ids([[0] * 6], 5)
