"""Packing: the expressions of a step share rows, and what they begin alike is computed once.

A row holds a prefix tree. Each position stands for one prefix of one or more expressions: its input is the prefix's
last token (`<eos>` for the empty prefix, which serves as the start token), its depth is the prefix's length, and its
targets are how often each token comes next. Positions follow each other depth first, so a position is an ancestor of
all that follow it until the first that is no deeper. Attention looks at ancestors only; for each expression that is
what causal attention over it alone would be. So the loss and its gradient are those of separate expressions, each of
them whole and each token counted equally often, at the cost of the different prefixes only. (With dropout, expressions
share the masks of what they share: the expected gradient is the same, and varies a little more.)

The host plans which expression lies where; the device writes the rows of a step from that.

Legend: N expressions, T tokens an expression (the context), S steps, E expressions a step, R rows, L positions a row,
V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.learners.placement import Array
from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.loop.rows import unique_rows

# Rows that are filled at the same time: with four, a step fills nearly as few rows as with all of them open.
_OPEN_ROWS = 4


class RowShape(NamedTuple):
    """How long rows are, and how many are computed at once."""

    row_tokens: int
    chunk_rows: int


class Plan(NamedTuple):
    """Which expressions each step reads, in the order of their places, and where in its rows each lies."""

    expression_SxE: Array  # int32, among the sorted expressions
    shared_SxE: Array  # int32, positions that it shares with the one before it, which lies in the same row
    place_SxE: Array  # int32, its first own position, counted through all rows
    row_count_S: Array  # int32, rows that hold something


class Rows(NamedTuple):
    """The prefix trees of one step."""

    inputs_RxL: jax.Array  # uint8
    depth_RxL: jax.Array  # uint8 or wider, 0 for padding
    targets_RxLxV: jax.Array  # float32, how often each token comes next; 0 for padding


def sort_rows(tokens_NxT: np.ndarray) -> np.ndarray:
    """The rows in byte order, in which those that begin alike are neighbours."""
    tokens_UxT, _, counts_U = unique_rows(tokens_NxT)
    return np.repeat(tokens_UxT, counts_U, axis=0)


def batch_order(generator: np.random.Generator, expressions: int, steps: int, batch_expressions: int) -> np.ndarray:
    """Which expressions each step trains on, (steps, batch_expressions) int32: one random order after another.

    Within every run of `expressions` places each expression stands once, so all are trained on equally often.
    """
    epochs = -(-steps * batch_expressions // expressions)
    order = np.tile(np.arange(expressions, dtype=np.int32), (epochs, 1))
    return generator.permuted(order, axis=1).reshape(-1)[: steps * batch_expressions].reshape(steps, batch_expressions)


def most_rows(expressions: int, width: int, row_tokens: int) -> int:
    """Rows that suffice for any expressions of this width: one is begun when no open row has room for `width` more."""
    return min(expressions, expressions * width // (row_tokens - width + 1) + _OPEN_ROWS)


def plan(tokens_NxT: np.ndarray, vocabulary: Vocabulary, expression_SxE: np.ndarray, row_tokens: int) -> Plan:
    """Decide where the expressions of each step lie: in byte order, each in the open row with the tightest fit.

    Args:
      tokens_NxT: sorted by `sort_rows`, uint8.
      vocabulary: what they are tokens of.
      expression_SxE: which of them each step reads.
      row_tokens: L, at least T.
    """
    expression_SxE = np.sort(expression_SxE, axis=1)
    positions_SxE = vocabulary.lengths_with_end(tokens_NxT)[expression_SxE]
    shared_SxE, place_SxE = np.zeros_like(positions_SxE), np.zeros_like(positions_SxE)
    alike_SxE = _alike(tokens_NxT, vocabulary, expression_SxE)

    steps_S = np.arange(len(expression_SxE))
    shape = (len(steps_S), _OPEN_ROWS)
    room, row, alike = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    row_count_S = np.zeros(len(steps_S), np.int64)
    for index, positions_S in enumerate(positions_SxE.T):
        # What an expression and the last one of a row begin with alike is what all between them begin with.
        alike = np.minimum(alike, alike_SxE[:, index, None])
        left = room + alike - positions_S[:, None]
        chosen_S = np.where(left >= 0, left, row_tokens).argmin(axis=1)
        full_S = steps_S[left[steps_S, chosen_S] < 0]
        chosen_S[full_S] = fullest = room[full_S].argmin(axis=1)
        room[full_S, fullest], alike[full_S, fullest] = row_tokens, 0
        row[full_S, fullest] = row_count_S[full_S]
        row_count_S[full_S] += 1
        here = steps_S, chosen_S
        shared_SxE[:, index] = alike[here]
        place_SxE[:, index] = (row[here] + 1) * row_tokens - room[here]
        room[here] -= positions_S - alike[here]
        alike[here] = positions_S

    # Rows have grown side by side. At equal places, expressions that bring no position belong to what lies before.
    by_place = np.argsort(2 * place_SxE + (positions_SxE > shared_SxE), axis=1, kind="stable")
    expression_SxE, shared_SxE, place_SxE = (
        np.take_along_axis(a, by_place, axis=1).astype(np.int32) for a in (expression_SxE, shared_SxE, place_SxE)
    )
    return Plan(expression_SxE, shared_SxE, place_SxE, row_count_S.astype(np.int32))


def whole_plan(tokens_NxT: np.ndarray, vocabulary: Vocabulary, row_tokens: int, capacity: int) -> Plan:
    """One step that reads all N expressions, padded to a capacity of expressions, for a shape that never changes."""
    count = len(tokens_NxT)
    whole = plan(tokens_NxT, vocabulary, np.arange(count, dtype=np.int32)[None], row_tokens)
    missing = ((0, 0), (0, capacity - count))
    return Plan(
        expression_SxE=np.pad(whole.expression_SxE, missing),
        shared_SxE=np.pad(whole.shared_SxE, missing),
        # Past every row: `lay_out` drops it.
        place_SxE=np.pad(whole.place_SxE, missing, constant_values=np.iinfo(np.int32).max // 2),
        row_count_S=whole.row_count_S,
    )


def _alike(tokens_NxT: np.ndarray, vocabulary: Vocabulary, expression_SxE: np.ndarray) -> np.ndarray:
    """Positions that each expression of a step could share with the one before it, (S, E): 1 + tokens begun alike.

    Two sorted expressions begin alike in as many tokens as the least of the neighbours between them do.
    """
    differ_NxT = tokens_NxT[1:] != tokens_NxT[:-1]
    first_N = np.where(differ_NxT.any(axis=1), differ_NxT.argmax(axis=1), tokens_NxT.shape[1])
    least = [np.append(first_N, 0)]  # least[k][i]: over the 2^k neighbours from i on
    while 2 ** len(least) < len(tokens_NxT):
        reach = 2 ** (len(least) - 1)
        least.append(np.minimum(least[-1], np.append(least[-1][reach:], np.zeros(reach, np.int64))))
    before_SxE, after_SxE = expression_SxE[:, :-1], expression_SxE[:, 1:]
    apart_SxE = after_SxE - before_SxE
    level_SxE = np.maximum(np.frexp(apart_SxE)[1] - 1, 0)
    table = np.stack(least)
    tokens_SxE = np.minimum(table[level_SxE, before_SxE], table[level_SxE, np.maximum(after_SxE - 2**level_SxE, 0)])
    tokens_SxE = np.where(apart_SxE == 0, tokens_NxT.shape[1], tokens_SxE)
    length_SxE = vocabulary.lengths(tokens_NxT)[expression_SxE]
    tokens_SxE = np.minimum(tokens_SxE, np.minimum(length_SxE[:, :-1], length_SxE[:, 1:]))
    return np.pad(np.minimum(tokens_SxE + 1, tokens_NxT.shape[1]), ((0, 0), (1, 0)))


class Step(NamedTuple):
    """What one step of a plan reads, and where each of its tokens is predicted."""

    tokens_ExT: jax.Array  # uint8
    place_ExT: jax.Array  # the position, counted through all rows, whose target a token is; past every row for padding


def step_of(tokens_NxT: Array, vocabulary: Vocabulary, plan: Plan, step: jax.Array, positions: int) -> Step:
    """One step of a plan for these sorted expressions, whose rows have so many positions in all; traced."""
    expression_E, shared_E, place_E = plan.expression_SxE[step], plan.shared_SxE[step], plan.place_SxE[step]
    tokens_ExT, depth_1xT = tokens_NxT[expression_E], jnp.arange(tokens_NxT.shape[1])[None]
    # A prefix lies with the first expression that has it: the last one before here that shares less than its length.
    origin_ExT = jnp.where(shared_E[:, None] <= depth_1xT, (place_E - shared_E)[:, None], -1)
    place_ExT = jax.lax.cummax(origin_ExT, axis=0) + depth_1xT
    length_Ex1 = jnp.sum(tokens_ExT != vocabulary.end, axis=1, keepdims=True)
    return Step(tokens_ExT, jnp.where(depth_1xT <= length_Ex1, jnp.minimum(place_ExT, positions), positions))


def lay_out(step: Step, vocabulary: Vocabulary, rows: int, row_tokens: int) -> Rows:
    """Write the rows of one step; traced.

    Args:
      step: what `step_of` gives for so many rows of this length.
      vocabulary: what its tokens are of.
      rows: R, as many as the step fills, or more.
      row_tokens: L.
    """
    tokens_ExT, place_ExT = step
    width, size = tokens_ExT.shape[1], vocabulary.size
    inputs_ExT = jnp.pad(tokens_ExT[:, :-1], ((0, 0), (1, 0)), constant_values=vocabulary.end)
    depth_ExT = jnp.broadcast_to(jnp.arange(width)[None], place_ExT.shape)
    depth_ExT = depth_ExT.astype(jnp.uint8 if width <= 256 else jnp.int32)

    def positions(fill, dtype):
        return jnp.full(rows * row_tokens, fill, dtype).at[place_ExT]

    targets = jnp.zeros(rows * row_tokens * size).at[place_ExT * size + tokens_ExT]
    return Rows(
        inputs_RxL=positions(vocabulary.end, jnp.uint8).set(inputs_ExT, mode="drop").reshape(rows, row_tokens),
        depth_RxL=positions(0, depth_ExT.dtype).set(depth_ExT, mode="drop").reshape(rows, row_tokens),
        targets_RxLxV=targets.add(1, mode="drop").reshape(rows, row_tokens, size),
    )
