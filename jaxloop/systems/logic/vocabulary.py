"""The eight tokens, and the way between text and rows of token ids.

A *row* is an expression as the model sees it: its token ids, then `<eos>` up to the row's width.
A row without any `<eos>` was cut off by the context limit before it was finished.

Legend: N rows, T tokens a row (the context).
"""

from collections.abc import Iterable

import numpy as np

TOKENS = ("(", ")", "not", "and", "or", "True", "False", "<eos>")
OPEN, CLOSE, NOT, AND, OR, TRUE, FALSE, EOS = range(len(TOKENS))
VOCABULARY_SIZE = len(TOKENS)

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


def rows_from_ids(ids: Iterable[Iterable[int]], width: int) -> np.ndarray:
    """Rows (N, width) uint8 from lists of token ids, each shorter than or as long as the width."""
    ids = list(ids)
    tokens_NxT = np.full((len(ids), width), EOS, np.uint8)
    for row_T, row_ids in zip(tokens_NxT, ids, strict=True):
        row_T[: len(row_ids)] = row_ids
    return tokens_NxT


def lengths(tokens_NxT: np.ndarray) -> np.ndarray:
    """Tokens before the first `<eos>` of each row, (N,) int64; the row's width where there is none."""
    ended_NxT = tokens_NxT == EOS
    return np.where(ended_NxT.any(axis=1), ended_NxT.argmax(axis=1), tokens_NxT.shape[1])


def lengths_with_end(tokens_NxT: np.ndarray) -> np.ndarray:
    """Tokens of each row, its `<eos>` included: one that was cut off by the context has none. (N,) integers."""
    return np.minimum(lengths(tokens_NxT) + 1, tokens_NxT.shape[1])


def unique_rows(tokens_NxT: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different rows and how they map back.

    Returns:
      (tokens_UxT, inverse_N, counts_U): the different rows in byte order, for each row the index of its
      equal among them, and how often each occurs.
    """
    rows = np.ascontiguousarray(tokens_NxT)
    keys_N = rows.view(np.dtype((np.void, rows.shape[1]))).reshape(-1)
    keys_U, inverse_N, counts_U = np.unique(keys_N, return_inverse=True, return_counts=True)
    return keys_U.view(np.uint8).reshape(-1, rows.shape[1]), inverse_N, counts_U
