"""The rows of summary.csv: what each cell of a run came to, with its uncertainty over seeds.

A cell is one combination of values of the axes, or its control. Its loops differ by their seed only, and a seed's
course is one observation.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxloop.analysis.cells import Cell, Courses, cells_of, courses_of, with_kept_diversity
from jaxloop.analysis.columns import Columns
from jaxloop.analysis.stats import (
    CollapseTime,
    Difference,
    FloorOrDecline,
    bootstrap_band,
    collapse_time,
    floor_or_decline,
    paired_difference,
    slope_test,
)

# With a smaller share of samples that are right, diversity is mostly that of noise.
MOSTLY_RIGHT = 0.8
MEANING = "vanishing variance"  # of the eight in collapse.csv

# What is called final is the mean over this part of the generations, the last ones: a single one has the luck of the
# training of one model in it.
FINAL_SHARE = 0.2
FLOOR_WEIGHT = 0.9
# A tenth of a second for each cell, so that tables of more of them would keep everybody waiting.
MOST_FITTED = 64


class Collapse(NamedTuple):
    """When the loops of one cell collapsed."""

    loops: int
    collapsed: int
    time: CollapseTime
    last_generation: int  # observed in any of them; -1 without loops


class Paired(NamedTuple):
    """Two cells compared over the seeds that both have."""

    generation: int  # the last that all of these have finished
    difference_S: np.ndarray
    difference: Difference


def summary_rows(
    metrics: pd.DataFrame, collapse: list[dict], provenance: pd.DataFrame, axes: list[str], columns: Columns
) -> list[dict[str, Any]]:
    """A row for each cell; README.md gives each column's meaning.

    Args:
      metrics: the rows of metrics.csv.
      collapse: the rows of collapse.csv.
      provenance: the rows of provenance.csv.
      axes: the axes of the grid, which are columns of `metrics`.
      columns: what the columns of `metrics` are.

    Returns:
      Rows with the same columns; not a number where something is not measured, or too few loops or generations.
    """
    metrics = with_kept_diversity(metrics)
    measures = {"kept_diversity": (0.0, 1.0)}
    measures |= {
        name: columns.bounds(name) for name in columns.summed_up if name in metrics and metrics[name].notna().any()
    }
    cells = cells_of(metrics, axes)
    found, fresh = VanishedVariance(collapse), _fresh_by_loop(provenance)
    first = courses_of(cells[0].rows, ["kept_diversity"])
    fits = len(cells) <= MOST_FITTED
    return [_row(cell, first if place else None, measures, found, fresh, fits) for place, cell in enumerate(cells)]


def _row(
    cell: Cell,
    first: Courses | None,
    measures: dict[str, tuple[float, float]],
    found: "VanishedVariance",
    fresh: dict[int, list],
    fits: bool,
) -> dict[str, Any]:
    courses = courses_of(cell.rows, list(measures))
    last = last_generation(cell.rows)
    row = {
        **cell.axes,
        "control": int(cell.control),
        "seeds": len(courses.seed_S),
        "last_generation": last,
        "final_generations": len(final_generations(last)),
        "fresh_rows": _fresh_rows(fresh, cell.rows, last),
    }
    for name, course_SxG in zip(measures, courses.values_CxSxG, strict=True):
        final_S = _final(_measured(course_SxG), courses.generation_G, last)
        mean, low, high = _mean_and_interval(final_S, *measures[name])
        row |= {name: mean, f"{name}_low": low, f"{name}_high": high}

    collapsed = found.of(cell.rows)
    row |= {
        "collapse_criterion": found.criterion,
        "collapsed_loops": collapsed.collapsed,
        "collapse_generation": collapsed.time.median,
        "collapse_generation_low": collapsed.time.low,
        "collapse_generation_high": collapsed.time.high,
    }
    until_G = courses.generation_G <= last
    course_SxG, generation_G = _measured(courses.values_CxSxG[0])[:, until_G], courses.generation_G[until_G]
    late_G = generation_G >= last / 2
    slope = slope_test(generation_G[late_G], course_SxG[:, late_G])
    floor = floor_or_decline(generation_G, course_SxG) if fits else FloorOrDecline(math.nan, math.nan)
    # A floor that the evidence does not favour, or that the course was far below of, is none.
    has_floor = floor.floor_weight >= FLOOR_WEIGHT and pd.DataFrame(course_SxG).mean().min() > floor.floor / 2
    row |= {
        "late_slope_per_generation": slope.slope,
        "late_slope_standard_error": slope.standard_error,
        "late_slope_p": slope.p,
        "floor": floor.floor if has_floor else math.nan,
        "floor_weight": floor.floor_weight,
    }
    pair = _paired(courses, first) if first else None
    difference = pair.difference if pair else Difference(math.nan, math.nan, math.nan, math.nan)
    return row | {
        "difference_seeds": len(pair.difference_S) if pair else 0,
        "difference_generation": pair.generation if pair else math.nan,
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "improvement": difference.improvement,
    }


def last_generation(rows: pd.DataFrame) -> int:
    """The last generation that all loops of a cell have finished."""
    loop_N, generation_N = rows["loop"].to_numpy(), rows["generation"].to_numpy()
    return int(min(generation_N[loop_N == loop].max() for loop in set(loop_N.tolist())))


def final_generations(last: int) -> range:
    """The generations over which a course that ends with this one is averaged."""
    return range(last + 1 - max(round(FINAL_SHARE * (last + 1)), 1), last + 1)


def final(course: pd.DataFrame, last: int) -> pd.Series:
    """The final value of each seed: its mean over the last generations, of those in which it is measured.

    Args:
      course: seeds by generations.
      last: the last generation that counts.
    """
    return pd.Series(_final(course.to_numpy(), course.columns.to_numpy(), last), course.index)


def final_of(rows: pd.DataFrame, column: str) -> np.ndarray:
    """The final value of a column of one cell for each of its seeds in which it is measured, (S,)."""
    courses = courses_of(rows, [column])
    return _final(_measured(courses.values_CxSxG[0]), courses.generation_G, last_generation(rows))


def _final(course_SxG: np.ndarray, generation_G: np.ndarray, last: int, in_order: bool = False) -> np.ndarray:
    """What `final` gives; `in_order` adds generation by generation where nothing is left out, too."""
    window = final_generations(last)
    window_GxS = course_SxG.T[(generation_G >= window.start) & (generation_G < window.stop)]
    known_G = ~np.isnan(window_GxS).any(axis=1)
    if not known_G.any():
        return np.full(len(course_SxG), math.nan)
    # NumPy adds neighbours in memory pairwise, and rows in order. Which of the two decides the last bits of
    # summary.csv, and those stay what they have been.
    if known_G.all() and not in_order:
        return np.ascontiguousarray(window_GxS.T).sum(axis=1) / len(window_GxS)
    return np.ascontiguousarray(window_GxS[known_G]).sum(axis=0) / known_G.sum()


def _measured(course_SxG: np.ndarray) -> np.ndarray:
    """The seeds in which it is measured: the others do not hide these."""
    return course_SxG[~np.isnan(course_SxG).all(axis=1)]


def paired(first: Cell, second: Cell) -> Paired | None:
    """Final kept diversity of one cell less that of another, up to the last generation that all shared seeds have.

    None where the two share no seed.
    """
    return _paired(*(courses_of(cell.rows, ["kept_diversity"]) for cell in (first, second)))


def _paired(first: Courses, second: Courses) -> Paired | None:
    both, measured = (first, second), []
    for courses in both:
        measured.append(courses.seed_S[~np.isnan(courses.values_CxSxG[0]).all(axis=1)])
    seeds = np.intersect1d(*measured, assume_unique=True)
    if not len(seeds):
        return None
    shared = [courses.values_CxSxG[0][np.searchsorted(courses.seed_S, seeds)] for courses in both]
    complete = [
        courses.generation_G[~np.isnan(course_SxG).any(axis=0)]
        for courses, course_SxG in zip(both, shared, strict=True)
    ]
    generations = np.intersect1d(*complete, assume_unique=True)
    if not len(generations):
        return None
    last = int(generations[-1])
    first_S, second_S = (
        _final(course_SxG[:, np.isin(courses.generation_G, generations)], generations, last, in_order=True)
        for courses, course_SxG in zip(both, shared, strict=True)
    )
    return Paired(last, first_S - second_S, paired_difference(first_S, second_S))


class VanishedVariance:
    """The one meaning of collapse that is summed up, by loop."""

    def __init__(self, collapse: list[dict]):
        """Look up the rows of collapse.csv once, for there may be as many cells as loops."""
        of_meaning = [row for row in collapse if row["meaning"] == MEANING]
        self.criterion = of_meaning[0]["criterion"] if of_meaning else ""
        self._met = {row["loop"]: str(row["met_in_generation"]) for row in of_meaning}

    def of(self, rows: pd.DataFrame) -> Collapse:
        """When the loops of a cell collapsed, those that have not counting as long as they were observed."""
        met = [self._met.get(loop, "not measured") for loop in np.unique(rows["loop"]).tolist()]
        met = [words for words in met if words != "not measured"]
        # Either a generation, or "not by generation 12".
        time_S = np.array([int(words.split()[-1]) for words in met], int)
        observed_S = np.array([words.isdigit() for words in met], bool)
        time = collapse_time(time_S, observed_S)
        return Collapse(len(met), int(observed_S.sum()), time, int(max(time_S, default=-1)))


def _fresh_by_loop(provenance: pd.DataFrame) -> dict[int, list[tuple[int, int]]]:
    """Of each loop the generations in which rows were drawn from the source, and how many; never the rows of before."""
    drawn = provenance[(provenance["kind"] == "fresh") & (provenance["from_generation"] == provenance["generation"])]
    found: dict[int, list] = {}
    for loop, generation, rows in zip(*(drawn[name].tolist() for name in ("loop", "generation", "rows")), strict=True):
        found.setdefault(loop, []).append((generation, rows))
    return found


def _fresh_rows(fresh: dict[int, list[tuple[int, int]]], rows: pd.DataFrame, last: int) -> float:
    """Rows drawn from the source after generation 0, mean over seeds; each counts once, however long it is kept."""
    loops = np.unique(rows["loop"]).tolist()
    return sum(count for loop in loops for generation, count in fresh.get(loop, ()) if generation <= last) / len(loops)


def _mean_and_interval(values_S: np.ndarray, least: float, most: float) -> tuple[float, float, float]:
    """The mean and its 95% interval, cut at what is possible; an infinite mean has none."""
    if not len(values_S):
        return math.nan, math.nan, math.nan
    if len(values_S) == 1 and not np.isneginf(values_S[0]):
        return float(values_S[0]), math.nan, math.nan
    if np.isposinf(values_S).any() and not np.isnan(values_S).any():
        return math.inf, math.nan, math.nan
    mean, low, high = (float(limit_G[0]) for limit_G in bootstrap_band(values_S[:, None]))
    # Kept diversity is above 1 by chance, or for noise: then 1 is no limit.
    most = math.inf if values_S.max() > most else most
    # Not a number stays what it is only as the first of the two.
    return mean, max(low, least), min(high, most)
