"""Memories: which earlier rows train the next generation beside the new ones.

With n rows, D_0 real rows, S_t the n rows sampled from the model of generation t and F_t fresh rows drawn from the
source for generation t, the *new* rows of generation t are rows of S_{t-1}, of which the fresh share of that generation
comes from F_t instead. The paper's four data cycles are four of these memories (Briesch et al. 2023; formulas
reconstructed; g is its generated share):

    full_synthetic   D_t = n new rows
    balanced         D_t = equal parts drawn from D_0, S_0, ..., S_{t-2}, and new rows
    incremental      D_t = (1 - g) n rows of D_{t-1}, drawn without replacement, and g n new rows
    expanding        D_t = D_{t-1} and n new rows
    window           D_t = the last W of D_0 and the sets of n new rows of each generation
    subsampled       D_t = n rows drawn without replacement from all that `expanding` would hold (Kazdan et al. 2024)
    fixed_real       D_t = D_0 and n new rows (Alemohammad et al. 2023)

A memory of one's own is a class like these, and a line in MEMORIES.

Legend: N rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxloop.config.imports import import_own, is_own, made
from jaxloop.config.schema import CycleSettings
from jaxloop.errors import InputError, RunError
from jaxloop.loop.rows import FRESH, REAL, SAMPLED, Rows, draw, join, mark, row_count

MOST_REPEATS = 10  # of a row in a memory of one's own: so a reader knows the most that there can be


class Carry(NamedTuple):
    """All that passes from one generation of a loop to the next."""

    training: Rows  # D_t
    archive: Rows  # what a later generation may draw again and D_t need not hold

    def sealed(self) -> "Carry":
        """The same, read-only."""
        return Carry(self.training.sealed(), self.archive.sealed())


class Memory:
    """Which rows train each generation, of those that have been; as it is here, n rows and nothing beside them.

    All rows that it is given are read-only: it takes, draws, joins or copies them.
    """

    def __init__(self, settings: CycleSettings):
        self.rows, self.settings = settings.rows, settings

    def first(self, real: Rows) -> Carry:
        """The carry of generation 0: the real rows, which the archive holds where there is one."""
        return Carry(real, real.take(slice(self.archived_rows(0))))

    def next(
        self,
        carry: Carry,
        generation: int,
        sampled: Rows,
        new: Callable[[int], Rows],
        generator: np.random.Generator,
    ) -> Carry:
        """The carry of a generation t >= 1.

        Args:
          carry: that of generation t - 1.
          generation: t.
          sampled: S_{t-1}.
          new: gives so many new rows, at most n; called once.
          generator: decides what is drawn from earlier rows.
        """
        raise NotImplementedError

    def training_rows(self, generation: int) -> int:
        """How many rows train a generation."""
        return self.rows

    def archived_rows(self, generation: int) -> int:
        """How many rows the archive of a generation has."""
        return 0


class FullSynthetic(Memory):
    """Nothing is remembered."""

    def next(self, carry, generation, sampled, new, generator) -> Carry:
        """N new rows."""
        return Carry(new(self.rows), carry.archive)


class Incremental(Memory):
    """A part of the training rows is replaced in each generation."""

    def next(self, carry, generation, sampled, new, generator) -> Carry:
        """Rows of the generation before, and new ones."""
        count = row_count(self.settings.new_part, self.rows)
        return Carry(join([draw(carry.training, self.rows - count, generator), new(count)]), carry.archive)


class Expanding(Memory):
    """Nothing is forgotten."""

    def next(self, carry, generation, sampled, new, generator) -> Carry:
        """All that has trained before, and n new rows."""
        return Carry(join([carry.training, new(self.rows)]), carry.archive)

    def training_rows(self, generation: int) -> int:
        """N more with each generation."""
        return self.rows * (generation + 1)


class Balanced(Memory):
    """The real rows and the samples of every generation have equal parts."""

    def next(self, carry, generation, sampled, new, generator) -> Carry:
        """Equal parts of every set before, and of the new rows."""
        parts = generation + 1
        # Rows that do not divide evenly go to parts chosen by lot, so every part has the same expected size.
        counts = np.full(parts, self.rows // parts) + (generator.permutation(parts) < self.rows % parts)
        sets = [carry.archive.take(slice(part * self.rows, (part + 1) * self.rows)) for part in range(generation)]
        earlier = [draw(one, count, generator) for one, count in zip(sets, counts, strict=False)]
        return Carry(join([*earlier, new(counts[-1])]), join([carry.archive, sampled]))

    def archived_rows(self, generation: int) -> int:
        """D_0, S_0, ..., S_{t-1}."""
        return self.rows * (generation + 1)


class Window(Memory):
    """The sets of the last generations are remembered."""

    def next(self, carry, generation, sampled, new, generator) -> Carry:
        """The sets of the window that have been, and n new rows."""
        kept = self.training_rows(generation) - self.rows
        before = carry.training.take(slice(len(carry.training.kind_N) - kept, None))
        return Carry(join([before, new(self.rows)]), carry.archive)

    def training_rows(self, generation: int) -> int:
        """N of each set in the window."""
        return self.rows * min(generation + 1, self.settings.window_sets)


class Subsampled(Memory):
    """Nothing is forgotten, and n rows of it train."""

    def next(self, carry, generation, sampled, new, generator) -> Carry:
        """Rows of all that has been, the new ones with it."""
        pool = join([carry.archive, new(self.rows)])
        return Carry(draw(pool, self.rows, generator), pool)

    def archived_rows(self, generation: int) -> int:
        """The real rows, and n of each generation after."""
        return self.rows * (generation + 1)


class FixedReal(Memory):
    """The real rows stay."""

    def next(self, carry, generation, sampled, new, generator) -> Carry:
        """The real rows, and n new ones."""
        return Carry(join([carry.training.take(slice(self.rows)), new(self.rows)]), carry.archive)

    def training_rows(self, generation: int) -> int:
        """N real rows, and n more after generation 0."""
        return self.rows * min(generation + 1, 2)


MEMORIES = {
    "full_synthetic": FullSynthetic,
    "balanced": Balanced,
    "incremental": Incremental,
    "expanding": Expanding,
    "window": Window,
    "subsampled": Subsampled,
    "fixed_real": FixedReal,
}


def memory_of(settings: CycleSettings) -> Memory:
    """The memory that a config names.

    Raises:
      InputError: it is one of one's own that cannot be imported.
    """
    if not is_own(settings.name):
        return MEMORIES[settings.name](settings)
    own = import_own(settings.name, "cycle.name", ("first", "next", "training_rows", "archived_rows"))
    memory = made(own, "cycle.name", settings.name, settings)
    rows = memory.training_rows(0), memory.archived_rows(0)
    if not all(isinstance(count, int) for count in rows) or rows[0] < 1 or rows[1] < 0:
        raise InputError(
            f"cycle.name = {settings.name!r}: training_rows and archived_rows must give whole numbers, not {rows}"
        )
    return memory


def first(settings: CycleSettings, real: np.ndarray) -> Carry:
    """The carry of generation 0, from n real rows."""
    memory = memory_of(settings)
    found = memory.first(mark(real, REAL, 0).sealed())
    if is_own(settings.name):
        _require(settings, found, 0, memory)
    return found


def following(
    settings: CycleSettings,
    carry: Carry,
    generation: int,
    sampled: np.ndarray,
    draw_fresh: Callable[[int, np.ndarray], np.ndarray],
    generator: np.random.Generator,
    detect: Callable[[Rows], Rows] = lambda rows: rows,
) -> Carry:
    """The carry of a generation t >= 1.

    Args:
      settings: the memory and the shares.
      carry: that of generation t - 1.
      generation: t.
      sampled: S_{t-1}, the n rows that the model of generation t - 1 wrote and that passed; where they are fewer, rows
        of F_t take the place of those that lack.
      draw_fresh: gives that many rows of F_t, beside so many sampled ones; called once at most.
      generator: decides what is drawn from earlier rows.
      detect: which of the new rows train, as many as it is given.
    """
    written, part = mark(sampled, SAMPLED, generation - 1), settings.fresh_part(generation)
    spare = None
    if lacking := settings.rows - len(sampled):
        drawn = mark(draw_fresh(lacking + row_count(part, settings.rows), sampled), FRESH, generation)
        written, spare = join([written, drawn.take(slice(lacking))]), drawn.take(slice(lacking, None))
    written = written.sealed()

    def new(count: int) -> Rows:
        fresh_count = row_count(part, count)
        # Samples are independent, so the first of them are as good a draw as any.
        rows = written.take(slice(count - fresh_count))
        if fresh_count:
            fresh = spare.take(slice(fresh_count)) if spare else None
            fresh = fresh or mark(draw_fresh(fresh_count, rows.points), FRESH, generation)
            rows = join([rows, fresh])
        return detect(rows).sealed()

    memory = memory_of(settings)
    found = memory.next(carry.sealed(), generation, written, new, generator)
    if is_own(settings.name):
        _require(settings, found, generation, memory)
    return found


def _require(settings: CycleSettings, found: Carry, generation: int, memory: Memory) -> None:
    """Refuse what a memory of one's own gives, where it is not what it says.

    Raises:
      RunError: it is not.
    """
    where = f"cycle.name = {settings.name!r}: generation {generation}"
    are_rows = isinstance(found, Carry) and all(isinstance(rows, Rows) for rows in found)
    if not are_rows or not all(isinstance(field, np.ndarray) for rows in found for field in rows):
        raise RunError(f"{where}: first and next must give a Carry of Rows; what was measured before is kept")
    counts = {"training": memory.training_rows(generation), "archived": memory.archived_rows(generation)}
    for name, rows, (method, count) in zip(Carry._fields, found, counts.items(), strict=True):
        most = MOST_REPEATS * settings.rows * (generation + 1)
        if count > most:
            raise RunError(
                f"{where}: has {count} {name} rows, and {most} are the most; what was measured before is kept"
            )
        if {len(field) for field in rows} != {count}:
            has, method = " and ".join(sorted({str(len(field)) for field in rows})), f"{method}_rows"
            raise RunError(
                f"{where}: {name} has {has} rows, and {method} says {count}; what was measured before is kept"
            )
