"""Several run folders as one table: a column for every setting in which their loops differ.

Folders are only read, and no lock is taken, so that runs that are under way are summed up as they stand.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from jaxloop import layout
from jaxloop.analysis.cells import as_frame
from jaxloop.analysis.collapse import collapse_rows
from jaxloop.analysis.columns import Columns
from jaxloop.analysis.summary import summary_rows
from jaxloop.config.schema import Loop, as_in_a_table
from jaxloop.errors import InputError
from jaxloop.files import write_whole
from jaxloop.runs.stored import NO_SETTINGS_OF_A_LOOP, StoredRun


class Joined(NamedTuple):
    """A row per cell of all runs."""

    axes: list[str]  # the settings that differ
    columns: Columns  # what was measured
    rows: list[dict[str, Any]]  # as in summary.csv


def join_runs(folders: list[Path], warn: Callable[[str], None]) -> Joined:
    """The summary of several runs together.

    Loops of equal settings and different seeds are one cell, wherever they were run. A loop that stands in several
    folders counts once: the first folder's counts, and `warn` is told if another disagrees.

    Raises:
      InputError: a folder is not there, is no run folder, has no results yet, or its tables are damaged.
    """
    settings: list[dict[str, Any]] = []
    metrics, provenance = [], []
    kept: dict[tuple, tuple[Path, pd.DataFrame, int]] = {}
    for folder in dict.fromkeys(folders):
        of_run, measured, origins = _read(folder, warn)
        # Settings come from the config, and not from what one run has as axes.
        measured = measured[[column for column in map(str, measured) if "." not in column]]
        begun, place_of = set(measured["loop"]), {}
        for loop in of_run:
            if loop.index not in begun:
                continue
            flat = _flat_settings(loop)
            key = (*sorted((name, str(value)) for name, value in flat.items()), loop.seed)
            if key in kept:
                first, earlier, index = kept[key]
                if not _agree(_of_loop(earlier, index), _of_loop(measured, loop.index)):
                    warn(
                        f"{folder}: loop {loop.index} (seed {loop.seed}) differs from the same in {first}, which counts"
                    )
                continue
            kept[key] = (folder, measured, loop.index)
            place_of[loop.index] = len(settings)
            settings.append(flat)
        for frame, frames in ((measured, metrics), (origins, provenance)):
            frame = frame[frame["loop"].isin(place_of)]
            frames.append(frame.assign(loop=frame["loop"].map(place_of)))

    axes = [name for name in settings[0] if len({str(flat.get(name)) for flat in settings}) > 1]
    frame, origins = (
        pd.concat([one for one in frames if len(one)] or frames[:1], ignore_index=True)
        for frames in (metrics, provenance)
    )
    frame = frame.assign(**{axis: frame["loop"].map(pd.Series([flat.get(axis) for flat in settings])) for axis in axes})
    no_tails = as_frame([], "tails")
    columns = StoredRun(folder).columns
    return Joined(axes, columns, summary_rows(frame, collapse_rows(frame, no_tails, axes), origins, axes, columns))


def write_csv(joined: Joined, path: Path) -> None:
    """Write the whole table, or nothing.

    Raises:
      InputError: the file cannot be written.
    """
    try:
        write_whole(path, pd.DataFrame(joined.rows).to_csv(index=False, lineterminator="\n").encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _read(folder: Path, warn: Callable[[str], None]) -> tuple[list[Loop], pd.DataFrame, pd.DataFrame]:
    """A run's loops, and the rows of its metrics.csv and provenance.csv."""
    stored = StoredRun(folder)
    rows = stored.frames("metrics", "provenance")
    for index in layout.loops_with(folder, "tables"):
        for line in stored.left_out(stored.loop(index)):
            warn(line)
    try:
        metrics, provenance = map(as_frame, rows, ("metrics", "provenance"))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    if metrics.empty:
        raise InputError(f"{folder}: has no results yet; they come with the first generation")
    return stored.loops, metrics, provenance


def _of_loop(frame: pd.DataFrame, loop: int) -> pd.DataFrame:
    return frame[frame["loop"] == loop]


def _flat_settings(loop: Loop) -> dict[str, Any]:
    """Every setting of a loop that decides its results, its seed aside; not a number where it is unset."""
    sections = loop.config.model_dump(exclude=NO_SETTINGS_OF_A_LOOP) | {"cycle": loop.config.cycle.meaning}
    return {
        f"{name}.{key}": math.nan if value is None else as_in_a_table(value)
        for name, section in sections.items()
        for key, value in section.items()
    }


def _agree(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether two records of a loop are the same as far as both go."""
    shared = [column for column in first if column in second and column != "loop"]
    length = min(len(first), len(second))
    first, second = (
        frame.sort_values("generation")[shared].head(length).reset_index(drop=True) for frame in (first, second)
    )
    return first.equals(second)
