"""Data cycles: which rows train the next generation, each with its provenance.

With n rows, D_0 real rows, S_t the n rows sampled from the model of generation t, F_t fresh rows drawn from the
source for generation t, generated share g and fresh share f (Briesch et al. 2023; formulas reconstructed):

    full_synthetic   D_t = S_{t-1}
    balanced         D_t = equal parts drawn from D_0, S_0, ..., S_{t-1}
    incremental      D_t = (1 - g) n rows of D_{t-1}, drawn without replacement, and g n new rows
    expanding        D_t = D_{t-1} and n new rows

The *new* rows of a generation are those of S_{t-1} (all of D_t, its newest part, g n, and n). In each cycle a part f
of the new rows comes from F_t instead. In `expanding` that is the paper's 1 - g.

Legend: N rows, T tokens a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxloop.config.schema import CycleSettings

KINDS = ("real", "fresh", "sampled")
REAL, FRESH, SAMPLED = range(len(KINDS))


class Rows(NamedTuple):
    """Rows of token ids and where each came from."""

    tokens_NxT: np.ndarray  # uint8
    kind_N: np.ndarray  # uint8, an index into KINDS
    generation_N: np.ndarray  # int32: fresh rows, the generation drawn for; sampled rows, the model's; real rows, 0

    def take(self, index_N: np.ndarray | slice) -> "Rows":
        """The rows at these places."""
        return Rows(*(field[index_N] for field in self))


class Carry(NamedTuple):
    """All that passes from one generation of a loop to the next."""

    training: Rows  # D_t
    archive: Rows  # what a later generation may draw again and D_t does not hold: D_0, S_0, ... in `balanced`


def mark(tokens_NxT: np.ndarray, kind: int, generation: int) -> Rows:
    """Rows of one provenance."""
    count = len(tokens_NxT)
    return Rows(tokens_NxT, np.full(count, kind, np.uint8), np.full(count, generation, np.int32))


def join(parts: list[Rows]) -> Rows:
    """All rows of the parts, in order."""
    return Rows(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def row_count(share: float, rows: int) -> int:
    """A share of the rows as a whole number, halves rounded up."""
    return int(np.floor(share * rows + 0.5))


def first(settings: CycleSettings, real_NxT: np.ndarray) -> Carry:
    """The carry of generation 0: real rows."""
    real = mark(real_NxT, REAL, 0)
    return Carry(training=real, archive=real if settings.name == "balanced" else real.take(slice(0)))


def following(
    settings: CycleSettings,
    carry: Carry,
    generation: int,
    sampled_NxT: np.ndarray,
    draw_fresh: Callable[[int], np.ndarray],
    generator: np.random.Generator,
) -> Carry:
    """The carry of a generation t >= 1.

    Args:
      settings: the cycle and its shares.
      carry: that of generation t - 1.
      generation: t.
      sampled_NxT: S_{t-1}, all n rows that the model of generation t - 1 wrote.
      draw_fresh: gives that many rows of F_t.
      generator: decides what is drawn from earlier rows.
    """
    sampled = mark(sampled_NxT, SAMPLED, generation - 1)

    def new_rows(count: int) -> Rows:
        fresh_count = row_count(settings.fresh_part(generation), count)
        fresh = mark(draw_fresh(fresh_count), FRESH, generation)
        # Samples are independent, so the first of them are as good a draw as any.
        return join([sampled.take(slice(count - fresh_count)), fresh])

    def draw(rows: Rows, count: int) -> Rows:
        return rows.take(np.sort(generator.choice(len(rows.kind_N), count, replace=False)))

    rows, archive = settings.rows, carry.archive
    if settings.name == "full_synthetic":
        training = new_rows(rows)
    elif settings.name == "incremental":
        new_count = row_count(settings.new_part, rows)
        training = join([draw(carry.training, rows - new_count), new_rows(new_count)])
    elif settings.name == "expanding":
        training = join([carry.training, new_rows(rows)])
    else:
        parts = generation + 1
        # Rows that do not divide evenly go to parts chosen by lot, so every part has the same expected size.
        counts = np.full(parts, rows // parts) + (generator.permutation(parts) < rows % parts)
        earlier = [
            draw(archive.take(slice(part * rows, (part + 1) * rows)), count) for part, count in enumerate(counts[:-1])
        ]
        training = join([*earlier, new_rows(counts[-1])])
        archive = join([archive, sampled])
    return Carry(training, archive)


def rows_of_generation(settings: CycleSettings, generation: int) -> int:
    """Number of rows that train a generation: n, or n (t + 1) in `expanding`."""
    return settings.rows * (generation + 1 if settings.name == "expanding" else 1)


def provenance_counts(rows: Rows) -> list[tuple[str, int, int]]:
    """(kind, generation, number of rows) for every provenance that occurs, in that order."""
    pairs, counts = np.unique(np.stack([rows.kind_N, rows.generation_N], axis=1), axis=0, return_counts=True)
    return [(KINDS[kind], int(generation), int(count)) for (kind, generation), count in zip(pairs, counts, strict=True)]
