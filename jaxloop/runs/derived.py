"""What is made of a run's tables: when loops collapsed, what each cell came to, and why."""

from typing import NamedTuple

import pandas as pd

from jaxloop import layout
from jaxloop.analysis.attribution import split_rows
from jaxloop.analysis.cells import as_frame
from jaxloop.analysis.collapse import collapse_rows, half_life_rows
from jaxloop.analysis.columns import Columns
from jaxloop.analysis.summary import summary_rows
from jaxloop.runs.stored import StoredRun


class Analysis(NamedTuple):
    """A run's tables as numbers, and what is made of them."""

    metrics: pd.DataFrame
    tails: pd.DataFrame
    columns: Columns  # what those of `metrics` are
    derived: dict[str, list[dict]]  # the rows of each of `layout.DERIVED`


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
    return Analysis(metrics, tails, columns, dict(zip(layout.DERIVED, tables, strict=True)))
