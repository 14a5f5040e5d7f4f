"""Rows of tokens of any vocabulary: where they end."""

import numpy as np
import pytest

from jaxloop.learners.vocabulary import Vocabulary


def random_rows(width: int, alphabet, rows: int = 500) -> np.ndarray:
    return np.random.default_rng(1).choice(np.array(alphabet, np.uint8), (rows, width))


@pytest.mark.parametrize("size", [2, 8, 12, 256])
@pytest.mark.parametrize("width", [1, 2, 5, 40])
def test_lengths_against_plain_python(width, size):
    """Catches counting every token but the end, 0 instead of the width for rows without any end, another vocabulary's
    end, and an end that is counted in a row that was cut off.
    """
    vocabulary = Vocabulary(size)
    end = vocabulary.end
    rows = np.concatenate(
        [random_rows(width, range(size)), random_rows(width, range(min(2, end))), np.full((1, width), end, np.uint8)]
    )
    expected = [[*row.tolist(), end].index(end) for row in rows]
    assert vocabulary.lengths(rows).tolist() == expected
    assert vocabulary.lengths_with_end(rows).tolist() == [min(length + 1, width) for length in expected]


def test_the_end_is_the_greatest_token():
    """Catches another end: rows of which several places write a part are put together by taking the least."""
    assert [Vocabulary(size).end for size in (2, 8, 256)] == [1, 7, 255]


def test_a_vocabulary_is_a_value():
    """Catches vocabularies that are told apart by identity: programs are compiled once for each of them."""
    assert Vocabulary(8) == Vocabulary(8) != Vocabulary(9) and len({Vocabulary(8), Vocabulary(8)}) == 1


@pytest.mark.parametrize("size", [-1, 0, 1, 257])
def test_sizes_that_ids_cannot_have(size):
    """Catches ids of 256 and more, which wrap around in uint8, and a vocabulary in which nothing can be written."""
    with pytest.raises(ValueError, match="from 2 to 256"):
        Vocabulary(size)
