"""What is made of a run's tables: when loops collapsed, what each cell came to, and why."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxloop import layout
from jaxloop.analysis.attribution import split_rows
from jaxloop.analysis.cells import as_frame
from jaxloop.analysis.collapse import collapse_rows, half_life_rows
from jaxloop.analysis.columns import Columns
from jaxloop.analysis.summary import summary_rows
from jaxloop.config.schema import StoredConfig
from jaxloop.runs.stored import StoredRun
from jaxloop.systems.registry import system_of


class Analysis(NamedTuple):
    """A run's tables as numbers, and what is made of them."""

    metrics: pd.DataFrame
    tails: pd.DataFrame
    columns: Columns  # what those of `metrics` are
    derived: dict[str, list[dict]]  # the rows of each of `layout.DERIVED`
    expected: dict[int, dict[str, np.ndarray]]  # by loop, means over seeds that are known in closed form, by column


def analyse(run: StoredRun) -> Analysis | None:
    """Make everything that is made of a run's tables; nothing where no generation is finished.

    Raises:
      DamageError: a table is not what was sealed.
    """
    rows = run.frames("metrics", "tails", "provenance")
    if rows[0].empty:
        return None
    metrics, tails, provenance = map(as_frame, rows, ("metrics", "tails", "provenance"))
    axes, columns = run.config.axes, run.columns
    collapse = collapse_rows(metrics, tails, axes)
    tables = (
        summary_rows(metrics, collapse, provenance, axes, columns),
        collapse,
        half_life_rows(metrics, tails, axes),
        split_rows(metrics, axes),
    )
    return Analysis(metrics, tails, columns, dict(zip(layout.DERIVED, tables, strict=True)), _expected(run))


def _expected(run: StoredRun) -> dict[int, dict[str, np.ndarray]]:
    """By loop, what its system knows of it beforehand; nothing of loops of which nothing is known."""
    if isinstance(run.config, StoredConfig):
        return {}  # Of a system of one's own, which a reader does not import.
    system, of_config = system_of(run.config), {}
    for loop in run.loops:
        if id(loop.config) not in of_config:  # Loops of a cell share theirs.
            of_config[id(loop.config)] = system.expected(loop.config)
    found = {loop.index: of_config[id(loop.config)] for loop in run.loops}
    return {index: known for index, known in found.items() if known}
