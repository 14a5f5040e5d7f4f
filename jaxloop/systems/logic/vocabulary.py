"""The eight tokens, and the way between text and rows of token ids.

Expressions as models see them are rows of ids, as `jaxloop.learners.vocabulary` has them.

Legend: N rows, T tokens a row (the context).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from jaxloop.learners.vocabulary import Vocabulary

TOKENS = ("(", ")", "not", "and", "or", "True", "False", "<eos>")
OPEN, CLOSE, NOT, AND, OR, TRUE, FALSE, EOS = range(len(TOKENS))
VOCABULARY = Vocabulary(len(TOKENS))

_ID_OF_WORD = {word: index for index, word in enumerate(TOKENS[:EOS])}


def split_words(text: str) -> list[bytes]:
    """The words of a text: only ASCII white space separates, any other character belongs to a word."""
    return text.encode("utf-8", "replace").split()


def encode(text: str) -> list[int]:
    """Token ids of an expression in text, without `<eos>`.

    Raises:
      ValueError: a word is not one of the seven of the language; names the word and its place.
    """
    ids = []
    for place, word in enumerate(split_words(text), start=1):
        word = word.decode("utf-8")
        if word not in _ID_OF_WORD:
            shown = word if len(word) <= 40 else word[:40] + "..."
            hint = " (tokens are separated by spaces)" if "(" in word or ")" in word else ""
            raise ValueError(f"unknown word {shown!r} at token {place}{hint}")
        ids.append(_ID_OF_WORD[word])
    return ids


def decode(row_T: Iterable[int]) -> str:
    """Text of one row up to its first `<eos>`, tokens separated by single spaces."""
    words = []
    for token in row_T:
        if token == EOS:
            break
        words.append(TOKENS[token])
    return " ".join(words)


def rows_from_ids(ids: Iterable[Sequence[int]], width: int) -> np.ndarray:
    """Rows (N, width) uint8 from lists of token ids, each shorter than or as long as the width."""
    ids = list(ids)
    tokens_NxT = np.full((len(ids), width), EOS, np.uint8)
    for row_T, row_ids in zip(tokens_NxT, ids, strict=True):
        row_T[: len(row_ids)] = row_ids
    return tokens_NxT
