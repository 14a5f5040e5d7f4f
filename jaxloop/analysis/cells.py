"""The tables of a run as frames, and the cells of its grid in them."""

import json
import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxloop.errors import InputError

LEARNER = "learner.name"
_CONTROL_SAYS = ("cycle.fresh_share", "cycle.fresh_schedule", "cycle.generated_share")
TAIL_COLUMNS = ("classes", "class", "source_share", "model_share", "first_rows", "alive_share")
_NEEDED = {
    "metrics": ("loop", "seed", "generation", "control", "diversity", "training_diversity"),
    "tails": ("loop", "seed", "generation", *TAIL_COLUMNS),
    "provenance": ("loop", "seed", "generation", "kind", "from_generation", "rows"),
}
TEXT = ("classes", "class", "kind")


def as_frame(rows: list[dict[str, str]] | pd.DataFrame, table: str) -> pd.DataFrame:
    """The rows of metrics.csv, tails.csv or provenance.csv as a table of numbers, but for the columns of names.

    An axis of the grid (its name has a dot) is a column of numbers if nothing else stands in it but empty cells.

    Raises:
      InputError: a column that is needed is missing, or a cell is not a number.
    """
    frame = pd.DataFrame(rows, columns=None if len(rows) else list(_NEEDED[table]))

    def lacks(column: str) -> bool:
        if isinstance(rows, pd.DataFrame):  # In which an empty cell is text, and none at all is not a number.
            return column not in frame or bool(frame[column].isna().any())
        return any(column not in row for row in rows)

    missing = [column for column in _NEEDED[table] if lacks(column)]
    if missing:
        raise InputError(f"{table}.csv: has no column {missing[0]!r}; put it right, or start anew with --overwrite")

    def converted(column: pd.Series) -> pd.Series:
        if column.name in TEXT:
            return column
        try:
            return pd.to_numeric(column)
        except (TypeError, ValueError):
            if "." in str(column.name):
                return column
            raise

    try:
        return frame.apply(converted)
    except (TypeError, ValueError) as error:
        raise InputError(f"{table}.csv: {error}; put it right, or start anew with --overwrite") from None


def is_unset(value: Any) -> bool:
    """Whether a cell does not have this setting."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def axis_name(axis: str) -> str:
    """A setting in words: `fresh share`; of a section's `name` the section, such as `cycle`."""
    section, _, key = axis.rpartition(".")
    return (section if key == "name" else key).replace("_", " ")


def value_text(axis: str, value: Any) -> str:
    """A value of an axis in words that say what it is: `fresh share 0.5`, `full synthetic`, `not only true`."""
    name = axis_name(axis)
    if is_unset(value):
        return f"{name} unset"
    if isinstance(value, str) and value.startswith("[["):
        (_, first), *later = json.loads(value)
        return f"{name} {first:g}" + "".join(f", {share:g} from generation {begin}" for begin, share in later)
    if str(value) in ("True", "False"):
        return name if str(value) == "True" else f"not {name}"
    return value.replace("_", " ") if isinstance(value, str) else f"{name} {value:g}"


def cell_label(axes: dict, control: bool = False) -> str:
    """A cell of the grid in words: what differs from the other cells."""
    words = [
        value_text(axis, value)
        for axis, value in axes.items()
        if not is_unset(value) and not (control and axis in _CONTROL_SAYS)
    ]
    if control:
        words.append("fresh data only")
    # A cell in which every axis is unset is not all cells.
    return ", ".join(words or [value_text(axis, value) for axis, value in axes.items()]) or "all loops"


class Cell(NamedTuple):
    """One combination of values of the axes, or its control: loops that differ by their seed only."""

    label: str
    control: bool
    axes: dict[str, Any]
    rows: pd.DataFrame  # of metrics


def cells_of(metrics: pd.DataFrame, axes: list[str]) -> list[Cell]:
    """Every cell, in the order of the grid, with the controls last."""
    cells = []
    for (control, *values), rows in metrics.groupby(["control", *axes], sort=False, dropna=False):
        of_cell = dict(zip(axes, values, strict=True))
        cells.append(Cell(cell_label(of_cell, bool(control)), bool(control), of_cell, rows))
    return sorted(cells, key=lambda cell: cell.control)


class Courses(NamedTuple):
    """Columns of one cell's loops by seed and generation; not a number where they are not measured."""

    seed_S: np.ndarray
    generation_G: np.ndarray
    values_CxSxG: np.ndarray


def courses_of(rows: pd.DataFrame, columns: list[str]) -> Courses:
    """The courses of a cell, without a pivot of pandas, which takes some milliseconds: there may be 10,000 cells."""
    seed_S, row_N = np.unique(rows["seed"].to_numpy(), return_inverse=True)
    generation_G, column_N = np.unique(rows["generation"].to_numpy(), return_inverse=True)
    values_CxSxG = np.full((len(columns), len(seed_S), len(generation_G)), math.nan)
    for values_SxG, column in zip(values_CxSxG, columns, strict=True):
        values_SxG[row_N, column_N] = rows[column].to_numpy()
    return Courses(seed_S, generation_G, values_CxSxG)


def courses(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of one cell's loops as seeds by generations; not a number where it is not measured.

    Seeds in which it never is are left out, so that they do not hide those in which it is.
    """
    seed_S, generation_G, (course_SxG,) = courses_of(rows, [column])
    measured_S = ~np.isnan(course_SxG).all(axis=1)
    index, columns = pd.Index(seed_S[measured_S], name="seed"), pd.Index(generation_G, name="generation")
    return pd.DataFrame(course_SxG[measured_S], index, columns)


def with_kept_diversity(metrics: pd.DataFrame) -> pd.DataFrame:
    """Metrics with `kept_diversity`: that of the samples as a share of the same loop's first real data's.

    Not a number where those have none: what was not there is neither kept nor lost.
    """
    first = metrics[metrics["generation"] == 0].set_index("loop")["training_diversity"]
    return metrics.assign(kept_diversity=metrics["diversity"] / metrics["loop"].map(first.where(first > 0)))
