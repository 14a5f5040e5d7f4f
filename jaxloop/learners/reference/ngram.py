"""A back-off n-gram over tokens: the baseline that knows only what followed the last few tokens in its training rows.

Katz back-off (Katz 1987) with absolute discounting (Ney, Essen and Kneser 1994). Of k-grams, k = 1 .. order, with
count c(context token), and with the context without its first token as the shorter one:

    p_k(token | context) = max(c(context token) - D_k, 0) / c(context)      where the token was seen after the context
                         = a(context) p_{k-1}(token | shorter)              where it was not
                         = p_{k-1}(token | shorter)                         where the context was never seen

a(context) gives the tokens that were not seen all the mass that is left; p_0 is uniform over the vocabulary, so every
token is possible everywhere. D_k = n1 / (n1 + 2 n2), n1 and n2 being the k-grams that were seen once and twice; 1/2
where either number is 0, for the formula then gives 1, 0 or nothing, and seen or unseen tokens would be impossible. A
context after which all tokens were seen has nobody to give mass to, and is not discounted.

Legend: N rows, T tokens a row, V vocabulary, G k-grams or contexts counted, C different contexts of a length.
"""

import itertools
from typing import NamedTuple

import numpy as np

from jaxloop.learners.vocabulary import Vocabulary


def longest_order(vocabulary: Vocabulary) -> int:
    """Tokens of the longest k-gram that is a number in int64, to the base of the vocabulary's size."""
    return next(order for order in itertools.count(1) if vocabulary.size ** (order + 1) > np.iinfo(np.int64).max)


class Level(NamedTuple):
    """All contexts of one length that were seen."""

    context_C: np.ndarray  # int64, ascending
    log_prob_CxV: np.ndarray  # of the next token, nats


class NGramState(NamedTuple):
    """The last order - 1 tokens of each row, with `<eos>` before its first."""

    history_N: np.ndarray  # int64, to the base V, the last token the lowest digit


def _contexts(tokens_NxT: np.ndarray, vocabulary: Vocabulary, order: int) -> np.ndarray:
    """The order - 1 tokens before each token, (N, T) int64 to the base V."""
    rows, width = tokens_NxT.shape
    padded = np.concatenate([np.full((rows, order - 1), vocabulary.end), tokens_NxT], axis=1, dtype=np.int64)
    context_NxT = np.zeros((rows, width), np.int64)
    for first in range(order - 1):
        context_NxT = context_NxT * vocabulary.size + padded[:, first : first + width]
    return context_NxT


def _find(context_C: np.ndarray, context_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place_G, seen_G): where each context stands among the sorted ones, and whether it does."""
    if len(context_C) == 0:
        return np.zeros(len(context_G), int), np.zeros(len(context_G), bool)
    place_G = np.minimum(np.searchsorted(context_C, context_G), len(context_C) - 1)
    return place_G, context_C[place_G] == context_G


def _back_off(count_CxV: np.ndarray, shorter_CxV: np.ndarray) -> np.ndarray:
    """Probabilities (C, V) from counts and from the distributions after the shorter contexts."""
    once, twice = np.count_nonzero(count_CxV == 1), np.count_nonzero(count_CxV == 2)
    discount = once / (once + 2 * twice) if once and twice else 0.5
    seen_CxV = count_CxV > 0
    all_seen_Cx1 = seen_CxV.all(axis=1, keepdims=True)
    discount_CxV = np.where(seen_CxV & ~all_seen_Cx1, discount, 0)
    total_Cx1 = count_CxV.sum(axis=1, keepdims=True)
    left_Cx1 = discount_CxV.sum(axis=1, keepdims=True) / total_Cx1
    unseen_CxV = np.where(seen_CxV, 0, shorter_CxV)
    share_CxV = unseen_CxV / np.where(all_seen_Cx1, 1, unseen_CxV.sum(axis=1, keepdims=True))
    return (count_CxV - discount_CxV) / total_Cx1 + left_Cx1 * share_CxV


class NGram:
    """A back-off n-gram as a next-token model (`jaxloop.learners.reference.autoregressive.NextToken`).

    It holds 8 bytes for each token of the vocabulary, and 8 more, for each different context of each length.

    Args:
      training_NxT: (N, T) uint8 rows. `<eos>` is predicted too, and stands before the first token as context; what
        follows the first `<eos>` of a row is not counted.
      order: tokens of the longest k-gram, from 1 to `longest_order`; the last one is predicted from the others.
      vocabulary: of the rows.

    Raises:
      ValueError: the order is not one of these.
    """

    def __init__(self, training_NxT: np.ndarray, order: int, vocabulary: Vocabulary):
        if not 1 <= order <= longest_order(vocabulary):
            raise ValueError(f"the order must be from 1 to {longest_order(vocabulary)}, not {order}")
        training_NxT = np.asarray(training_NxT)
        self.vocabulary, size = vocabulary, vocabulary.size
        self._contexts = size ** (order - 1)
        counted_NxT = np.arange(training_NxT.shape[1]) < vocabulary.lengths_with_end(training_NxT)[:, None]
        grams_G = (_contexts(training_NxT, vocabulary, order) * size + training_NxT)[counted_NxT]
        # The longest k-grams, counted once, hold the shorter ones.
        gram_G, count_G = np.unique(grams_G, return_counts=True)
        self._levels = []
        for length in range(order):
            context_G, token_G = np.divmod(gram_G % size ** (length + 1), size)
            context_C, place_G = np.unique(context_G, return_inverse=True)
            count_CxV = np.zeros((len(context_C), size), np.int64)
            np.add.at(count_CxV, (place_G, token_G), count_G)
            shorter_CxV = np.exp(self._look_up(context_C))
            self._levels.append(Level(context_C, np.log(_back_off(count_CxV, shorter_CxV))))

    def _look_up(self, history_G: np.ndarray) -> np.ndarray:
        """Log-probabilities (G, V) after the longest context of each history that was seen, of the levels there are."""
        size = self.vocabulary.size
        log_prob_GxV = np.full((len(history_G), size), -np.log(size))
        waiting_G = np.arange(len(history_G))
        for length in reversed(range(len(self._levels))):
            context_C, log_prob_CxV = self._levels[length]
            place_G, seen_G = _find(context_C, history_G[waiting_G] % size**length)
            log_prob_GxV[waiting_G[seen_G]] = log_prob_CxV[place_G[seen_G]]
            waiting_G = waiting_G[~seen_G]
        return log_prob_GxV

    def start(self, rows: int) -> NGramState:
        """The state of this many rows before their first token."""
        return NGramState(np.full(rows, self._contexts - 1, np.int64))

    def log_probs(self, state: NGramState) -> np.ndarray:
        """Log-probability of each next token, (N, V) nats, all finite."""
        return self._look_up(state.history_N)

    def advance(self, state: NGramState, token_N: np.ndarray) -> NGramState:
        """The state after one more token a row."""
        return NGramState((state.history_N * self.vocabulary.size + token_N) % self._contexts)
