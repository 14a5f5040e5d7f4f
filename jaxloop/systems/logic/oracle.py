"""The source as a next-token model: the exact distribution of the next token after any prefix of an expression.

Conditioned on its truth, the source is a Doob h-transform of the free grammar:

    p(token | prefix, true) = p(token | prefix) h(prefix token) / h(prefix),      h = P(whole is true | prefix)

What lies outside the innermost open parenthesis matters only through the pair (P(whole is true | the node of that
parenthesis is false), the same if it is true), and everything above is linear in the pair. So there is one table: the
weight p(token) h(..) of each next token, by the depth and the state of the innermost parenthesis, as two coefficients
of its pair. The pair outside all parentheses is (0, 1); (1, 1) if false expressions are allowed too. The operator is
written after its left operand, so after "(" a weight sums over `and` and `or`. Weights are normalised at
the end only, and pairs are meant up to a factor: the choice of an operator counts in full where it is written, although
"(" and the left operand have told something of it before.

Legend: N rows, V vocabulary, D open parentheses, 0 to max_depth, S states of the judge, B the two values of a node.
"""

from typing import NamedTuple

import numpy as np

from jaxloop.systems.logic import judge
from jaxloop.systems.logic.judge import WANTS_OPERAND_S, AFTER_OPERAND_Sx2, AFTER_TOKEN_SxV
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import AND, CLOSE, EOS, FALSE, NOT, OPEN, OR, TRUE, VOCABULARY

_LEAVES = [FALSE, TRUE]
_CLOSES = [judge.CLOSES_FALSE, judge.CLOSES_TRUE]
_WHOLE = [judge.WHOLE_FALSE, judge.WHOLE_TRUE]


def _choice_probabilities(language: Language) -> np.ndarray:
    """Probability of each choice at each depth, (D, V)."""
    probability_DxV = np.zeros((language.max_depth + 1, VOCABULARY.size))
    for depth, probability_V in enumerate(probability_DxV):
        probability_V[list(language.choices(depth))] = language.probabilities(depth)
    return probability_DxV


def _operator_values(probability_DxV: np.ndarray) -> np.ndarray:
    """P(a node at this depth is an operator and has this value), (D, B), without any condition."""
    operator_DxB = np.zeros((len(probability_DxV), 2))
    for depth in reversed(range(len(probability_DxV) - 1)):
        false, true = operator_DxB[depth + 1] + probability_DxV[depth + 1, _LEAVES]
        # Sums without differences, which would lose values that are rare.
        p = probability_DxV[depth]
        operator_DxB[depth] = (
            p[NOT] * true + p[AND] * false * (1 + true) + p[OR] * false**2,
            p[NOT] * false + p[AND] * true**2 + p[OR] * true * (1 + false),
        )
    return operator_DxB


def _tables(language: Language) -> tuple[np.ndarray, np.ndarray]:
    """Two tables of coefficients of a parenthesis's pair, by how many are open and the state of the innermost.

    Returns:
      (weight_DxSxVxB, operand_DxSxBxB): the weight of each next token; and the pair of the operand that is next, its
      values on the first axis B.
    """
    probability_DxV = _choice_probabilities(language)
    operator_DxB = _operator_values(probability_DxV)
    weight_DxSxVxB = np.zeros((language.max_depth + 1, judge.BROKEN + 1, VOCABULARY.size, 2))
    operand_DxSxBxB = np.zeros((language.max_depth + 1, judge.BROKEN + 1, 2, 2))
    weight_DxSxVxB[:, _CLOSES, CLOSE] = weight_DxSxVxB[:, _WHOLE, EOS] = np.eye(2)
    for depth, weight_SxVxB in enumerate(weight_DxSxVxB):
        # A node within `depth` parentheses is at that depth; an operator stands in its own parentheses.
        operator_V = probability_DxV[depth - 1] if depth else np.zeros(VOCABULARY.size)
        # From the last state to the first: every token leads to a later one, whose weights sum to its h.
        for state in reversed(range(_CLOSES[0])):
            if WANTS_OPERAND_S[state]:
                operand_BxB = weight_SxVxB[AFTER_OPERAND_Sx2[state]].sum(axis=1)
                operand_DxSxBxB[depth, state] = operand_BxB
                weight_SxVxB[state, _LEAVES] = probability_DxV[depth, _LEAVES][:, None] * operand_BxB
                weight_SxVxB[state, OPEN] = operator_DxB[depth] @ operand_BxB
            for token in (NOT, AND, OR):
                h_B = weight_SxVxB[AFTER_TOKEN_SxV[state, token]].sum(axis=0)
                weight_SxVxB[state, token] = operator_V[token] * h_B
    return weight_DxSxVxB, operand_DxSxBxB


class OracleState(NamedTuple):
    """Every row's stack of open parentheses; below them, at 0, what stands outside all."""

    open_N: np.ndarray  # how many are open, int64
    state_NxD: np.ndarray  # what each has seen, a state of the judge, uint8
    pair_NxDxB: np.ndarray  # P(whole is true | value of its node), up to a factor


class Oracle:
    """The true source as a next-token model (`jaxloop.learners.reference.autoregressive.NextToken`).

    Args:
      language: the source; conditioned on truth where it is itself.
    """

    vocabulary = VOCABULARY

    def __init__(self, language: Language):
        self._weight_DxSxVxB, self._operand_DxSxBxB = _tables(language)
        self._outside_B = (0.0, 1.0) if language.only_true else (1.0, 1.0)

    def start(self, rows: int) -> OracleState:
        """The state of this many rows before their first token."""
        depths = len(self._weight_DxSxVxB)
        pair_NxDxB = np.zeros((rows, depths, 2))
        pair_NxDxB[:, 0] = self._outside_B
        return OracleState(np.zeros(rows, int), np.full((rows, depths), judge.WANTS_EXPRESSION, np.uint8), pair_NxDxB)

    def log_probs(self, state: OracleState) -> np.ndarray:
        """Log-probability of each next token, (N, V) nats; minus infinity throughout after an impossible prefix."""
        rows, top = np.arange(len(state.open_N)), state.open_N
        weight_NxVxB = self._weight_DxSxVxB[top, state.state_NxD[rows, top]]
        pair_NxB = state.pair_NxDxB[rows, top]
        weight_NxV = weight_NxVxB[..., 0] * pair_NxB[:, :1] + weight_NxVxB[..., 1] * pair_NxB[:, 1:]
        total_Nx1 = weight_NxV.sum(axis=1, keepdims=True)
        probability_NxV = weight_NxV / np.where(total_Nx1 > 0, total_Nx1, 1)
        return np.log(probability_NxV, out=np.full(weight_NxV.shape, -np.inf), where=probability_NxV > 0)

    def advance(self, state: OracleState, token_N: np.ndarray) -> OracleState:
        """The state after one more token a row; the judge's broken state where the grammar forbids the token."""
        state_NxD, pair_NxDxB = state.state_NxD.copy(), state.pair_NxDxB.copy()
        inner_N = state_NxD[np.arange(len(token_N)), state.open_N]
        opens_N = (token_N == OPEN) & WANTS_OPERAND_S[inner_N] & (state.open_N < state_NxD.shape[1] - 1)
        closes_N = (token_N == CLOSE) & np.isin(inner_N, _CLOSES)

        row, inner = np.nonzero(opens_N)[0], inner_N[opens_N]
        top = state.open_N[row]
        state_NxD[row, top + 1] = judge.OPENED
        pair_NxDxB[row, top + 1] = (self._operand_DxSxBxB[top, inner] @ pair_NxDxB[row, top, :, None])[..., 0]

        row, value = np.nonzero(closes_N)[0], (inner_N[closes_N] == judge.CLOSES_TRUE).astype(int)
        outer = state.open_N[row] - 1
        state_NxD[row, outer] = AFTER_OPERAND_Sx2[state_NxD[row, outer], value]

        row = np.nonzero(~(opens_N | closes_N))[0]
        state_NxD[row, state.open_N[row]] = AFTER_TOKEN_SxV[inner_N[row], token_N[row]]
        return OracleState(state.open_N + opens_N - closes_N, state_NxD, pair_NxDxB)
