"""What rows of tokens mean and how they are built: canonical form, shape, root, operators; diversity of classes.

A class is whatever rows have in common, such as their canonical form; `rows.unique_rows` counts classes that
are rows themselves.

Legend: N rows, T tokens a row, V tokens of the vocabulary, U different rows, C classes, G n-grams.
"""

import math

import numpy as np

from jaxloop.loop.rows import unique_rows
from jaxloop.systems.logic.vocabulary import AND, CLOSE, EOS, FALSE, NOT, OPEN, OR, TRUE, VOCABULARY

_OPERATORS = (NOT, AND, OR)
_BYTE = tuple(bytes([token]) for token in range(VOCABULARY.size))
_NOT, _OPEN, _CLOSE, _EOS = _BYTE[NOT], _BYTE[OPEN], _BYTE[CLOSE], _BYTE[EOS]

_SHAPE_V = np.arange(VOCABULARY.size, dtype=np.uint8)
_SHAPE_V[OR] = AND
_SHAPE_V[FALSE] = TRUE


def _canonical(expression: bytes) -> bytes:
    """One valid expression, operands in byte order, from the innermost parentheses outwards."""
    stack = []
    for token in expression:
        if token == CLOSE:
            right, operator = stack.pop(), stack.pop()
            if operator == _NOT:
                stack.append(_OPEN + operator + right + _CLOSE)
            else:
                left = stack.pop()
                if right < left:
                    left, right = right, left
                stack.append(_OPEN + left + operator + right + _CLOSE)
        elif token != OPEN:
            stack.append(_BYTE[token])
    return stack[0]


def canonical_rows(tokens_NxT: np.ndarray) -> np.ndarray:
    """Each expression with the operands of every `and` and `or` in a fixed order, those of the operands included.

    Two expressions give the same row exactly when exchanging operands of `and` and `or` turns one into the other;
    nothing is regrouped or simplified.

    Args:
      tokens_NxT: (N, T) uint8, valid expressions only.

    Returns:
      (N, T) uint8, valid expressions of the same lengths and truth.
    """
    tokens_UxT, inverse_N, _ = unique_rows(tokens_NxT)
    width = tokens_NxT.shape[1]
    rows = (_canonical(row_T.tobytes().rstrip(_EOS)).ljust(width, _EOS) for row_T in tokens_UxT)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, width)[inverse_N]


def shape_rows(tokens_NxT: np.ndarray) -> np.ndarray:
    """The trees without their labels: `and` stands for `and` and `or`, `True` for `True` and `False`.

    `not` stays, as the operator of one operand. Shapes of valid expressions are valid expressions, so that
    `canonical_rows` of them are the shapes without the order of operands.

    Args:
      tokens_NxT: (N, T) uint8 token ids of any rows.

    Returns:
      (N, T) uint8.
    """
    return _SHAPE_V[tokens_NxT]


def operator_counts(tokens_NxT: np.ndarray) -> np.ndarray:
    """How many `not`, `and` and `or` each row of (N, T) uint8 token ids has, (N,) int64."""
    return np.isin(tokens_NxT, _OPERATORS).sum(axis=1)


def root_tokens(tokens_NxT: np.ndarray) -> np.ndarray:
    """The token at the root of each expression's tree.

    Args:
      tokens_NxT: (N, T) uint8, valid expressions only.

    Returns:
      (N,) uint8: NOT, AND or OR; TRUE or FALSE for an expression that is one leaf.
    """
    step_NxT = (tokens_NxT == OPEN).astype(np.int32) - (tokens_NxT == CLOSE)
    # One operator stands within a single parenthesis; a leaf has none, and argmax then points at the leaf itself.
    place_N = (np.isin(tokens_NxT, _OPERATORS) & (step_NxT.cumsum(axis=1) == 1)).argmax(axis=1)
    return tokens_NxT[np.arange(len(tokens_NxT)), place_N]


def _shares(counts_C: np.ndarray) -> np.ndarray:
    """Shares of the classes that occur."""
    counts_C = np.asarray(counts_C, np.float64)
    return counts_C[counts_C > 0] / counts_C.sum()


def shannon_entropy(counts_C: np.ndarray) -> float:
    """Entropy of the empirical distribution over classes, in nats (Shannon 1948), without any correction of its bias.

    Args:
      counts_C: (C,) how often each class occurs; classes of count 0 change nothing.

    Returns:
      A number in [0, log C]; not a number where nothing was counted.
    """
    share_C = _shares(counts_C)
    return max(0.0, float(-np.sum(share_C * np.log(share_C)))) if len(share_C) else math.nan


def hill_number(counts_C: np.ndarray, order: float) -> float:
    """Effective number of classes of the empirical distribution (Hill 1973).

        (sum over classes of  share ^ order) ^ (1 / (1 - order))

    the number of classes at order 0, the inverse of Simpson's concentration at order 2, and at order 1 its limit,
    the exponential of the Shannon entropy. Common classes weigh the more, the higher the order.

    Args:
      counts_C: (C,) how often each class occurs; classes of count 0 change nothing.
      order: finite, at least 0.

    Returns:
      A number of classes in [1, C]; not a number where nothing was counted.
    """
    share_C = _shares(counts_C)
    if not len(share_C):
        return math.nan
    if order == 1:
        return math.exp(shannon_entropy(counts_C))
    return float(np.sum(share_C**order) ** (1 / (1 - order)))


def distinct_ngrams(tokens_NxT: np.ndarray, n: int) -> float:
    """Distinct-n: different n-grams of tokens over all n-grams of all rows, as it is commonly computed.

    Li et al. (2016), who proposed it, divide by the number of tokens instead.

    An n-gram lies within one row, before its first `<eos>`. More rows make the number smaller, so compare equal
    numbers of rows.

    Args:
      tokens_NxT: (N, T) uint8 token ids of any rows.
      n: tokens of an n-gram, at least 1.

    Returns:
      A number in (0, 1]; not a number where no row has n tokens.
    """
    place_T = np.arange(tokens_NxT.shape[1])
    row_G, start_G = np.nonzero(place_T + n <= VOCABULARY.lengths(tokens_NxT)[:, None])
    if not len(row_G):
        return math.nan
    code_G = np.zeros(len(row_G), np.int64)
    for offset in range(n):
        # Long n-grams would overflow: the rank among up to 2^39 different ones leaves room for 8 more tokens.
        if offset and offset % 8 == 0:
            code_G = np.unique(code_G, return_inverse=True)[1]
        code_G = code_G * VOCABULARY.size + tokens_NxT[row_G, start_G + offset]
    return len(np.unique(code_G)) / len(code_G)
