"""Packing: several expressions share one row of the model's input, so that little of it is padding.

Each expression stands whole in one row and begins with `<eos>`, which serves as the start token too: for
`( not True )` the inputs are `<eos> ( not True )` and the targets `( not True ) <eos>`. No expression is cut, so every
token of every expression is trained on equally often.

Legend: N rows of token ids, T tokens a row, P packed rows, L tokens a packed row.
"""

from typing import NamedTuple

import numpy as np

from jaxloop.vocabulary import EOS, lengths

NO_TARGET = 255


class Packed(NamedTuple):
    """Inputs and targets of a set of expressions; the rows past `row_count` are padding."""

    inputs_PxL: np.ndarray  # uint8, `<eos>` at the start of each expression and in the padding
    targets_PxL: np.ndarray  # uint8, NO_TARGET in the padding
    row_count: np.ndarray  # int32
    expression_count: np.ndarray  # int32


def pack(tokens_NxT: np.ndarray, row_tokens: int, capacity_rows: int) -> Packed:
    """Pack expressions into rows, best fit first, longest first.

    Args:
      tokens_NxT: (N, T) uint8.
      row_tokens: L, at least T.
      capacity_rows: P, fixed so that no generation changes a shape; N always suffices.
    """
    width = tokens_NxT.shape[1]
    length_N = lengths(tokens_NxT)
    # A row that was cut off by the context has no `<eos>` to predict.
    cost_N = np.minimum(length_N + 1, width)
    order_N = np.argsort(-cost_N, kind="stable")

    row_N, start_N = np.empty(len(order_N), np.int64), np.empty(len(order_N), np.int64)
    rows_with_room = [[] for _ in range(row_tokens + 1)]
    rooms = 0  # bit r is set while some row has room for exactly r more tokens
    row_count = 0
    for place, cost in zip(order_N.tolist(), cost_N[order_N].tolist(), strict=True):
        fitting = rooms >> cost
        if fitting:
            room = cost + (fitting & -fitting).bit_length() - 1
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = row_tokens, row_count
            row_count += 1
        row_N[place], start_N[place] = row, row_tokens - room
        left = room - cost
        if left:
            rows_with_room[left].append(row)
            rooms |= 1 << left

    inputs_PxL = np.full((capacity_rows, row_tokens), EOS, np.uint8)
    targets_PxL = np.full((capacity_rows, row_tokens), NO_TARGET, np.uint8)
    source, place = np.nonzero(np.arange(width) < cost_N[:, None])
    row, column = row_N[source], start_N[source] + place
    targets_PxL[row, column] = tokens_NxT[source, place]
    inputs_PxL[row, column] = np.where(place == 0, EOS, tokens_NxT[source, place - 1])
    return Packed(inputs_PxL, targets_PxL, np.int32(row_count), np.int32(len(tokens_NxT)))


def batch_order(generator: np.random.Generator, row_count: int, steps: int, batch_rows: int) -> np.ndarray:
    """Which packed rows each step trains on, (steps, batch_rows) int32: one random order after another.

    Within every run of row_count places each row stands once, so all rows are trained on equally often.
    """
    epochs = -(-steps * batch_rows // row_count)
    order = np.tile(np.arange(row_count, dtype=np.int32), (epochs, 1))
    return generator.permuted(order, axis=1).reshape(-1)[: steps * batch_rows].reshape(steps, batch_rows)
