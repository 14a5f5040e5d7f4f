"""What a run says at its end: which cells differ from which, by how much, and which collapsed when."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from jaxloop.analysis.cells import (
    LEARNER,
    Cell,
    axis_name,
    cell_label,
    cells_of,
    courses,
    is_unset,
    with_kept_diversity,
)
from jaxloop.analysis.columns import Columns
from jaxloop.analysis.stats import FEWEST_SEEDS, share_text
from jaxloop.analysis.summary import (
    MOSTLY_RIGHT,
    VanishedVariance,
    final,
    final_generations,
    final_of,
    last_generation,
    paired,
)
from jaxloop.config.schema import GROWING

_MOST_RANKED = 8
_MOST_LINES = 3  # of trends, and of collapsed cells
_FEWEST_VALUES = 3
_SAME_DATA = 1.1  # times the diversity of other cells' first data: so much is chance
_MARGIN = 0.1  # of the first data's diversity: what a fresh share that is enough may keep less than fresh data only
_FRESH = "cycle.fresh_share"
# In which a control differs from its cell.
_OF_SHARES = ("cycle.generated_share", "cycle.fresh_schedule")


def answer_lines(
    metrics: pd.DataFrame, collapse: list[dict], axes: list[str], learner: str, columns: Columns
) -> list[str]:
    """The answer of a run in some 20 lines at most.

    Cells of the transformer, or of the first learner without one, are ranked by mean kept diversity, each compared with
    the next one seed by seed; other learners have a line each. Then tests of trend, and collapse.

    Args:
      metrics: the rows of metrics.csv.
      collapse: the rows of collapse.csv.
      axes: the axes of the grid, which are columns of `metrics`.
      learner: whose loops they are, where that is no axis.
      columns: what the columns of `metrics` are.
    """
    if LEARNER not in axes:
        metrics = metrics.assign(**{LEARNER: learner})
    metrics = with_kept_diversity(metrics)
    axes = [axis for axis in axes if axis != LEARNER]
    learners = sorted(dict.fromkeys(metrics[LEARNER]), key=lambda name: name != "transformer")
    cells_by = {name: cells_of(metrics[metrics[LEARNER] == name], axes) for name in learners}
    cells = cells_by[learners[0]]
    return [
        *_ranking(learners[0], cells, columns),
        *_enough(cells, axes, columns),
        *_trends(cells, axes),
        *_collapses(cells, collapse),
        *(_extremes(name, cells_by[name]) for name in learners[1:]),
    ]


def _final_S(cell: Cell, column: str = "kept_diversity") -> np.ndarray:
    """Final kept diversity, or another measure, of each seed of a cell in which it is measured."""
    return final_of(cell.rows, column)


def _mean(values_S: np.ndarray) -> float:
    """Their mean; not a number where there are none."""
    return float(values_S.mean()) if len(values_S) else math.nan


def _when(last: int) -> str:
    """The generations that count as final, in words."""
    window = final_generations(last)
    return f"mean of generations {window[0]} to {last}" if len(window) > 1 else f"generation {last}"


def _longest(cells: list[Cell]) -> int:
    """How many generations the longest of them has."""
    return max((last_generation(cell.rows) for cell in cells), default=-1) + 1


def _is_unfinished(cell: Cell, generations: int) -> bool:
    """Whether a cell has come less than half as far as it should, as one that has diverged or waits for its turn.

    Args:
      generations: of the longest cell; so long are all, unless that is an axis.
    """
    return 2 * (last_generation(cell.rows) + 1) < cell.axes.get("cycle.generations", generations)


def _ranked(cells: list[Cell]) -> list[Cell]:
    """From the most kept diversity to the least; after them those that are unfinished, and have kept what they like."""
    longest = _longest(cells)
    return sorted(
        cells,
        key=lambda cell: (_is_unfinished(cell, longest), -np.nan_to_num(_mean(_final_S(cell)), nan=-1.0)),
    )


def _ranking(learner: str, cells: list[Cell], columns: Columns) -> list[str]:
    """What each cell kept, and how far it is above the next one."""
    generations = {last_generation(cell.rows) for cell in cells}
    most = max(cell.rows["seed"].nunique() for cell in cells)
    enough = most >= FEWEST_SEEDS
    when = _when(min(generations)) if len(generations) == 1 else "each cell's last generations"
    each = "; 95% intervals, each by itself" if enough else ""
    lines = [f"kept diversity ({learner}, {when}): share of the first real data's diversity{each}"]
    if not enough:
        lines.append(f"n too small for intervals: {_seeds(most)}")
    real = [cell.rows.loc[cell.rows["generation"] == 0, "training_diversity"].mean() for cell in cells]
    if max(real) > _SAME_DATA * min(real):
        lines.append(
            f"note: the cells begin with real data of different diversity, {min(real):.3f} to {max(real):.3f}; each is "
            "compared with its own"
        )
    ranked = _ranked(cells)
    longest, places = _longest(cells), list(range(len(ranked)))
    if len(ranked) > _MOST_RANKED:
        places = [*places[: _MOST_RANKED // 2], *places[-_MOST_RANKED // 2 :]]
    for at, place in enumerate(places):
        cell, final_S = ranked[place], _final_S(ranked[place])
        if at and place != places[at - 1] + 1:
            lines.append(f"  ... {place - places[at - 1] - 1} more cells, in summary.csv")
        if not len(final_S):
            lines.append(f"  {cell.label}: not defined, its first real data has no diversity")
            continue
        # A cell that has lost its seeds takes no interval from the others.
        few = f"{_mean(final_S):.3f}{f' ({_seeds(len(final_S))})' if enough else ''}"
        text = (share_text(final_S) if len(final_S) >= FEWEST_SEEDS else few) + _noise(cell, columns)
        if len(generations) > 1:
            text += f", {_when(last_generation(cell.rows))}"
        if place + 1 in places:
            below = ranked[place + 1]
            if len(_final_S(below)) and _is_unfinished(cell, longest) == _is_unfinished(below, longest):
                text += f"; {_comparison(cell, below)}"
        lines.append(f"  {cell.label}: {text}")
    return lines


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _noise(cell: Cell, columns: Columns) -> str:
    """What is said of a cell whose diversity is mostly that of noise."""
    if columns.right is None:
        return ""
    share = _mean(_final_S(cell, columns.right))
    return f", but only {share:.2g} of the samples {columns.parts[columns.right]}" if share < MOSTLY_RIGHT else ""


def _comparison(cell: Cell, below: Cell) -> str:
    """A cell against its neighbour, by the generations that both have; the ranking is by all that each has."""
    pair = paired(cell, below)
    if pair is None:
        return "shares no seed with the next"
    seeds = len(pair.difference_S)
    of_all = f" of {seeds} seeds"
    own = {last_generation(cell.rows), last_generation(below.rows)} == {pair.generation}
    at = "" if own else f" ({_when(pair.generation)})"
    if not pair.difference_S.any():
        return f"the same as the next{f' in {seeds}{of_all}' if seeds > 1 else ''}{at}"
    mean, low, high, _ = pair.difference
    of_this_sign = int(np.sum(np.sign(pair.difference_S) == np.sign(mean)))
    direction = "above"
    if mean < 0:
        direction, mean, low, high = "below", -mean, -high, -low
    interval = f" ({low:.3f} to {high:.3f})" if seeds >= FEWEST_SEEDS else ""
    apart = ": not told apart" if interval and low <= 0 <= high else ""
    in_seeds = f", in {of_this_sign}{of_all}" if seeds > 1 else ""
    return f"{direction} the next by {mean:.3f}{interval}{in_seeds}{at}{apart}"


def _extremes(learner: str, cells: list[Cell]) -> str:
    """A learner in one line: what keeps most and what least."""
    ranked = [cell for cell in _ranked(cells) if len(_final_S(cell))]
    if not ranked:
        return f"{learner}: not defined, its first real data has no diversity"
    most, least = (f"{_mean(_final_S(cell)):.3f} ({cell.label})" for cell in (ranked[0], ranked[-1]))
    return f"{learner} keeps {most}" if len(ranked) == 1 else f"{learner} keeps {most} to {least}"


def _enough(cells: list[Cell], axes: list[str], columns: Columns) -> list[str]:
    """The smallest fresh share that keeps about as much as fresh data only, for each combination of the other axes."""
    others = [axis for axis in axes if axis != _FRESH]
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if _FRESH in axes and not cell.control and not is_unset(cell.axes[_FRESH]) and len(_final_S(cell)):
            groups.setdefault(cell_label({other: cell.axes[other] for other in others}), []).append(cell)
    compared = [
        (label, group, healthy)
        for label, group in groups.items()
        if len(group) > 1 and (healthy := _healthy(group[0], cells, others))
    ]
    if not compared:
        return []
    if all(healthy.rows["seed"].nunique() < FEWEST_SEEDS for _, _, healthy in compared):
        return [f"how much fresh data is enough: not told with fewer than {FEWEST_SEEDS} seeds"]
    lines = []
    for label, group, healthy in compared[:_MOST_LINES]:
        where = "" if label == "all loops" else f"{label}: "
        lines.append(f"  {where}{_smallest(sorted(group, key=lambda cell: cell.axes[_FRESH]), healthy, columns)}")
    if len(compared) > _MOST_LINES:
        lines.append(f"  ... and for {len(compared) - _MOST_LINES} more rows of cells")
    title = (
        f"how much fresh data is enough (kept diversity at most {_MARGIN:g} below that of fresh data only, by the 95% "
    )
    return [f"{title}interval of the difference seed by seed):", *lines]


def _healthy(cell: Cell, cells: list[Cell], others: list[str]) -> Cell | None:
    """The control of a cell: like it in all but its shares; of most memories it is full_synthetic."""
    axes = {axis: cell.axes[axis] for axis in others if axis not in _OF_SHARES}
    if axes.get("cycle.name", GROWING[0]) not in GROWING:
        axes["cycle.name"] = "full_synthetic"
    alike = [other for other in cells if other.control and all(other.axes[axis] == axes[axis] for axis in axes)]
    return next((other for other in alike if len(_final_S(other))), None)


def _smallest(group: list[Cell], healthy: Cell, columns: Columns) -> str:
    """Which of the cells, in order of their fresh share, is the first from which on all are within the margin.

    From the largest share down, each is tested only where all above it have passed: so the error of the whole statement
    is that of a single test.
    """
    longest = _longest([*group, healthy])
    if _is_unfinished(healthy, longest):
        return f"not told, fresh data only has come to generation {last_generation(healthy.rows)}"
    within, words = [], []
    for cell in group:
        share, pair = f"{cell.axes[_FRESH]:g}", paired(cell, healthy)
        if _is_unfinished(cell, longest):
            within.append(False)
            words.append(f"{share}, which has come to generation {last_generation(cell.rows)} only")
        elif not pair or len(pair.difference_S) < FEWEST_SEEDS:
            within.append(False)
            words.append(f"{share}, which shares too few seeds with fresh data only")
        else:
            mean, low, high, _ = pair.difference
            noise = _noise(cell, columns)
            within.append(low > -_MARGIN and not noise)
            words.append(f"{share}, difference {mean:.3f} ({low:.3f} to {high:.3f}){noise}")
    first = len(within) - within[::-1].index(False) if False in within else 0
    if first == len(within):
        return f"none of {', '.join(f'{cell.axes[_FRESH]:g}' for cell in group)} is shown to be; {words[-1]}"
    return f"{words[first]}; " + (f"not shown for {words[first - 1]}" if first else "the smallest that was tried")


def _trends(cells: list[Cell], axes: list[str]) -> list[str]:
    """Page's test along every numeric axis, within each combination of the others."""
    lines = []
    for axis in axes:
        others = [other for other in axes if other != axis]
        groups: dict[str, list[Cell]] = {}
        for cell in cells:
            value = cell.axes[axis]
            if not isinstance(value, str) and not is_unset(value) and len(_final_S(cell)):
                # Along the fresh share a control is one value more; along all else it stands apart.
                apart = cell.control and axis != "cycle.fresh_share"
                groups.setdefault(cell_label({other: cell.axes[other] for other in others}, apart), []).append(cell)
        lines += [_trend(axis, label, group) for label, group in groups.items() if len(group) >= _FEWEST_VALUES]
    lines = [line for line in lines if line]
    more = len(lines) - _MOST_LINES
    if more > 0:
        lines = [*lines[:_MOST_LINES], f"  ... and along {more} more rows of cells"]
    title = "trend (Page's L over seeds, two-sided; tested: kept diversity has no order along the axis):"
    return [title, *lines] if lines else []


def _trend(axis: str, label: str, cells: list[Cell]) -> str | None:
    """Page's L over seeds for final kept diversity along one axis; nothing with fewer than three seeds."""
    # One that diverged, or has few seeds, would leave the others no generation or no seed to be compared by.
    cells = [cell for cell in cells if cell.rows["seed"].nunique() >= FEWEST_SEEDS]
    longest = _longest(cells)
    cells = [cell for cell in cells if not _is_unfinished(cell, longest)]
    if len(cells) < _FEWEST_VALUES:
        return None
    cells = sorted(cells, key=lambda cell: cell.axes[axis])
    by_cell = [courses(cell.rows, "kept_diversity") for cell in cells]
    shared = pd.concat(by_cell, axis=1, keys=range(len(cells)), join="inner")
    generations = by_cell[0].columns.to_numpy().tolist()
    complete = [generation for generation in generations if _complete(shared, generation, len(cells))]
    if len(shared) < FEWEST_SEEDS or not complete:
        return None
    by_cell = [course.loc[shared.index] for course in by_cell]
    final_SxC = np.stack([final(course, complete[-1]) for course in by_cell], axis=1)
    # The direction is not foretold: both are tested.
    p_up, p_down = (stats.page_trend_test(ordered).pvalue for ordered in (final_SxC, final_SxC[:, ::-1]))
    p = min(1.0, 2 * min(p_up, p_down))
    values = ", ".join(f"{cell.axes[axis]:g}" for cell in cells)
    course = f"it {'rises' if p_up < p_down else 'falls'}" if p < 0.05 else "no trend shown"
    where = "" if label == "all loops" else f", {label}"
    p_text = "p < 0.001" if p < 1e-3 else f"p = {p:.2g}"
    return f"  {axis_name(axis)} {values}{where}: {course}, {p_text}, {len(shared)} seeds"


def _complete(shared: pd.DataFrame, generation: int, cells: int) -> bool:
    """Whether every shared seed of every cell has finished a generation."""
    columns = [(place, generation) for place in range(cells)]
    return all(column in shared for column in columns) and bool(shared[columns].notna().all(axis=None))


def _collapses(cells: list[Cell], collapse: list[dict]) -> list[str]:
    """When cells collapsed, by the one meaning that is summed up."""
    vanished = VanishedVariance(collapse)
    lines, alive, unfinished, longest = [], [], [], _longest(cells)
    for cell in cells:
        found = vanished.of(cell.rows)
        if not found.loops:
            continue
        if not found.collapsed:
            (unfinished if _is_unfinished(cell, longest) else alive).append(found)
            continue
        median, low, high = found.time
        if math.isinf(median):
            when = (
                f"not by generation {found.last_generation} in {found.loops - found.collapsed} of {found.loops} loops"
            )
        else:
            when = f"generation {median:g}"
            if found.loops >= FEWEST_SEEDS and math.isfinite(low):
                when += f" (95% interval {low:g} to {'no limit' if math.isinf(high) else f'{high:g}'})"
            when += f", met by {found.collapsed} of {found.loops} loops" if found.loops > 1 else ""
        lines.append(f"  {cell.label}: {when}")
    more = len(lines) - _MOST_LINES
    if more > 0:
        lines = [*lines[:_MOST_LINES], f"  ... {more} more cells that met it, in summary.csv"]
    met = bool(lines)
    for group, kind in ((alive, ""), (unfinished, "unfinished ")):
        if group:
            which = f"{len(group)} {kind}cells" if len(group) > 1 else f"{'' if met and not kind else '1 '}{kind}cell"
            which = f"the other {which}" if met and not kind else which
            which = "all loops" if len(group) == len(cells) else which
            loops, until = sum(found.loops for found in group), min(found.last_generation for found in group)
            in_loops = f" in {loops} of {loops} loops" if loops > 1 else ""
            lines.append(f"  {which}: not by generation {until:g}{in_loops}")
    return [f"collapse (first met: {vanished.criterion}), median generation:", *lines] if lines else []
