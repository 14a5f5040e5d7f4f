"""Writing and scoring rows with any model that gives the distribution of the next token, on the host in float64.

As in `transformer.sample`, exactly N sequences are started and all are finished, one that fills the width without
`<eos>` is kept cut off, and the random numbers belong to the sequence and the place in it. Temperature divides the
log-probabilities, which are then normalised anew, token by token.

Legend: N rows, T tokens a row (the width), V vocabulary, U different rows, A of them (or of N) still under way.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.loop.rows import unique_rows

# What a model knows of what it has read: a NamedTuple of arrays whose leading axis is the rows.
State = Any


class NextToken(Protocol):
    """A model that reads rows from left to right. No method changes the state that it is given."""

    vocabulary: Vocabulary  # of what it reads and writes

    def start(self, rows: int) -> State:
        """The state of this many rows before their first token."""
        ...

    def log_probs(self, state: State) -> np.ndarray:
        """Log-probability of each next token, (N, V) float64 in nats; minus infinity where it is impossible."""
        ...

    def advance(self, state: State, token_N: np.ndarray) -> State:
        """The state after one more token a row, never `<eos>`."""
        ...


def _take(state: State, index) -> State:
    """The state of some of the rows."""
    return state._make(array[index] for array in state)


def temper(log_probs_NxV: np.ndarray, temperature: float) -> np.ndarray:
    """log softmax(log_probs / temperature), (N, V) nats; a row of nothing but minus infinity stays as it is.

    Raises:
      ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    scaled_NxV = log_probs_NxV / temperature
    peak_Nx1 = scaled_NxV.max(axis=1, keepdims=True)
    scaled_NxV -= np.where(np.isneginf(peak_Nx1), 0, peak_Nx1)
    total_Nx1 = np.exp(scaled_NxV).sum(axis=1, keepdims=True)
    return scaled_NxV - np.log(np.where(total_Nx1 > 0, total_Nx1, 1))


def _choose(log_probs_NxV: np.ndarray, uniform_N: np.ndarray) -> np.ndarray:
    """The token in whose slice of the cumulated probabilities the uniform number falls; `<eos>` if all are 0."""
    cumulated_NxV = np.exp(log_probs_NxV).cumsum(axis=1)
    # Scaling by the last sum, which rounding keeps from being 1, leaves no gap above it.
    token_N = (cumulated_NxV <= uniform_N[:, None] * cumulated_NxV[:, -1:]).sum(axis=1)
    return np.minimum(token_N, log_probs_NxV.shape[1] - 1).astype(np.uint8)


def write(
    model: NextToken, generator: np.random.Generator, rows: int, width: int, temperature: float = 1.0
) -> np.ndarray:
    """Rows written by the model.

    Args:
      model: gives the next token.
      generator: gives one uniform number a token, row by row, so that the first rows of many are those of few.
      rows: how many, N.
      width: tokens a row at most, T.
      temperature: divides the log-probabilities; positive.

    Returns:
      tokens_NxT: (N, T) uint8, `<eos>` from the end of each row on; a row without any was cut off by the width. A
      prefix after which the model holds every token impossible is ended by `<eos>`.
    """
    uniform_NxT = generator.random((rows, width))
    end = model.vocabulary.end
    tokens_NxT = np.full((rows, width), end, np.uint8)
    alive_A, state = np.arange(rows), model.start(rows)
    for place in range(width):
        token_A = _choose(temper(model.log_probs(state), temperature), uniform_NxT[alive_A, place])
        tokens_NxT[alive_A, place] = token_A
        goes_on_A = token_A != end
        alive_A = alive_A[goes_on_A]
        if len(alive_A) == 0 or place == width - 1:
            break
        state = model.advance(_take(state, goes_on_A), token_A[goes_on_A])
    return tokens_NxT


def log_prob(model: NextToken, tokens_NxT: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log-probability with which `write` writes each row at this width and temperature.

    Args:
      model: gives the next token.
      tokens_NxT: (N, T) uint8; what follows the first `<eos>` is not read.
      temperature: divides the log-probabilities; positive.

    Returns:
      (N,) float64 nats: the sum over the tokens up to and including the first `<eos>`, over all T where there is none;
      minus infinity where a token is impossible.
    """
    tokens_UxT, inverse_N, _ = unique_rows(np.asarray(tokens_NxT, np.uint8))
    length_U = model.vocabulary.lengths_with_end(tokens_UxT)
    log_prob_U = np.zeros(len(tokens_UxT))
    alive_A, state = np.arange(len(tokens_UxT)), model.start(len(tokens_UxT))
    for place in range(tokens_UxT.shape[1]):
        token_A = tokens_UxT[alive_A, place]
        log_probs_AxV = temper(model.log_probs(state), temperature)
        log_prob_U[alive_A] += log_probs_AxV[np.arange(len(alive_A)), token_A]
        goes_on_A = (length_U[alive_A] > place + 1) & (log_prob_U[alive_A] > -np.inf)
        alive_A = alive_A[goes_on_A]
        if len(alive_A) == 0:
            break
        state = model.advance(_take(state, goes_on_A), token_A[goes_on_A])
    return log_prob_U[inverse_N]


class Autoregressive(NamedTuple):
    """A model that gives the distribution of the next token, as a distribution over rows (see `learner.Fitted`)."""

    model: NextToken
    width: int  # tokens a row

    def write(self, generator: np.random.Generator, rows: int, temperature: float) -> np.ndarray:
        """Rows written token by token."""
        return write(self.model, generator, rows, self.width, temperature)

    def log_prob(self, tokens_NxT: np.ndarray, temperature: float) -> np.ndarray:
        """Sums of the tokens' log-probabilities."""
        return log_prob(self.model, tokens_NxT, temperature)
