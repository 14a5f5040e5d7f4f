"""Rows with their provenance: real, fresh or sampled, and of which generation.

A row is what the first axis of an array counts; of what dtype and shape it is, is the system's affair.

Legend: N rows, U different rows.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

KINDS = ("real", "fresh", "sampled")
REAL, FRESH, SAMPLED = range(len(KINDS))


class Rows(NamedTuple):
    """Rows and where each came from; the loop hands them on read-only, and who wants others copies them."""

    points: np.ndarray  # (N, ...)
    kind_N: np.ndarray  # uint8, an index into KINDS
    generation_N: np.ndarray  # int32: fresh rows, the generation drawn for; sampled rows, the model's; real rows, 0

    def take(self, index_N: np.ndarray | slice) -> "Rows":
        """The rows at these places."""
        return Rows(*(field[index_N] for field in self))

    def sealed(self) -> "Rows":
        """The same rows, read-only."""
        return Rows(*map(read_only, self))


def read_only(array: np.ndarray) -> np.ndarray:
    """The same array, which nobody who is handed it changes by mistake."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def mark(points: np.ndarray, kind: int, generation: int) -> Rows:
    """Rows of one provenance."""
    count = len(points)
    return Rows(points, np.full(count, kind, np.uint8), np.full(count, generation, np.int32))


def join(parts: list[Rows]) -> Rows:
    """All rows of the parts, in order."""
    return Rows(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def draw(rows: Rows, count: int, generator: np.random.Generator) -> Rows:
    """So many of the rows, drawn without replacement, in their order."""
    return rows.take(np.sort(generator.choice(len(rows.kind_N), count, replace=False)))


def row_count(share: float, rows: int) -> int:
    """A share of the rows as a whole number, halves rounded up."""
    return int(np.floor(share * rows + 0.5))


def unique_rows(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different rows and how they map back.

    Rows are equal where their bytes are: 0.0 is not -0.0, and a NaN is itself.

    Args:
      points: (N, ...) of any dtype.

    Returns:
      (points_U, inverse_N, counts_U): the different rows, (U, ...), in byte order; for each row the index of its equal
      among them; and how often each occurs.
    """
    rows, shape = np.ascontiguousarray(points), points.shape[1:]
    flat_NxK = rows.reshape(len(rows), math.prod(shape))
    keys_N = flat_NxK.view(np.dtype((np.void, flat_NxK.shape[1] * rows.itemsize))).reshape(-1)
    keys_U, inverse_N, counts_U = np.unique(keys_N, return_inverse=True, return_counts=True)
    return keys_U.view(rows.dtype).reshape(len(keys_U), *shape), inverse_N, counts_U


def ranks_within(group_N: np.ndarray) -> np.ndarray:
    """How many of the same group stand before each, (N,)."""
    order_N, counts_U = np.argsort(group_N, kind="stable"), np.unique(group_N, return_counts=True)[1]
    rank_N = np.empty(len(order_N), np.int64)
    rank_N[order_N] = np.arange(len(order_N)) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
    return rank_N


def provenance_counts(rows: Rows) -> list[tuple[str, int, int]]:
    """(kind, generation, number of rows) for every provenance that occurs, in that order."""
    # Rows of one provenance stand together, and sorting them all takes ten times as long.
    changes_N = (rows.kind_N[1:] != rows.kind_N[:-1]) | (rows.generation_N[1:] != rows.generation_N[:-1])
    borders = [0, *(np.flatnonzero(changes_N) + 1).tolist(), len(rows.kind_N)]
    counts: dict[tuple[int, int], int] = {}
    for begin, end in itertools.pairwise(borders):
        if begin < end:
            place = int(rows.kind_N[begin]), int(rows.generation_N[begin])
            counts[place] = counts.get(place, 0) + end - begin
    return [(KINDS[kind], generation, counts[kind, generation]) for kind, generation in sorted(counts)]
