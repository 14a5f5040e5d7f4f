"""What all figures share: colours of cells, lines of learners, courses with their bands, files written whole."""

import io
import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jaxloop.analysis.cells import Cell
from jaxloop.analysis.columns import Columns
from jaxloop.analysis.stats import FEWEST_SEEDS, bootstrap_band
from jaxloop.files import write_whole

# Of the parts that samples fall into, what is right first.
_PART_COLOURS = ("#0072B2", "#E69F00", "#999999", "#CC79A7", "#56B4E9", "#009E73")
# Of each learner: line, marker, width.
STYLES = {
    "transformer": {"linestyle": "-", "marker": "o", "markersize": 4, "linewidth": 2.2},
    "resample": {"linestyle": ":", "linewidth": 1.6},
    "oracle": {"linestyle": "-.", "linewidth": 1.4},
    "grammar": {"linestyle": "--", "linewidth": 1.4},
    "ngram": {"linestyle": "-", "marker": "x", "markersize": 5, "linewidth": 0.9},
}
_OTHER_STYLE = {"linestyle": "-", "linewidth": 2.2}
# Okabe and Ito's palette, distinguishable for the colour-blind; beyond it an ordered map.
_CELL_COLOURS = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9")


MOST_PANELS = 12
MOST_LINES = 24
_MOST_CONTROLS = 4
_MOST_PIXELS = 3900


def style_of(learner: str) -> dict:
    """How the line of a learner is drawn; those of the references are thinner, and broken."""
    return STYLES.get(learner, _OTHER_STYLE)


def chosen(items: list, most: int) -> list:
    """At most so many of the items: the first, the last, and what lies evenly between them."""
    if len(items) <= most:
        return list(items)
    return [items[place] for place in np.unique(np.linspace(0, len(items) - 1, most).round().astype(int))]


def few_cells(rows: pd.DataFrame, axes: list[str], most: int) -> tuple[pd.DataFrame, str]:
    """The rows of at most so many cells, and of a few controls, and in words how many were left out, if any.

    Args:
      rows: of metrics or of summary.csv.
      axes: what tells cells apart, beside whether they are controls.
      most: how many cells are shown, controls aside.
    """
    number = rows.groupby(["control", *axes], sort=False, dropna=False).ngroup()
    is_control = rows["control"].to_numpy() == 1
    kinds = [list(dict.fromkeys(number[of_kind])) for of_kind in (~is_control, is_control)]
    kept = [*chosen(kinds[0], most), *chosen(kinds[1], _MOST_CONTROLS)]
    total = sum(map(len, kinds))
    words = f"{len(kept)} of {total:,} shown, all are in summary.csv" if len(kept) < total else ""
    return rows[number.isin(kept)], words


def colours(varied: int, controls: int) -> list:
    """A colour for each cell, then black for a control, and greys where there are several."""
    chosen = _CELL_COLOURS[:varied]
    if varied > len(_CELL_COLOURS):
        chosen = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, varied))
    return [*chosen, *map(str, np.linspace(0.1, 0.6, controls))]


def colours_of(cells: list[Cell]) -> list:
    """A colour for each cell; the controls come last."""
    controls = sum(cell.control for cell in cells)
    return colours(len(cells) - controls, controls)


def learners_of(learner_column: pd.Series) -> list[str]:
    """Every learner of a run, the transformer first."""
    return sorted(dict.fromkeys(learner_column), key=lambda name: name != "transformer")


def part_colours(columns: Columns) -> dict[str, tuple[str, str]]:
    """Of each part that samples fall into the name and the colour, by its column."""
    return {
        column: (name, colour)
        for (column, name), colour in zip(columns.parts.items(), itertools.cycle(_PART_COLOURS), strict=False)
    }


def draw_course(panel: Axes, course: pd.DataFrame, colour, learner: str, spread: bool = True) -> None:
    """The mean over seeds where all seeds have a value, with its 95% band; a thin line each where seeds are two.

    Args:
      course: seeds by generations.
      spread: whether band or thin lines are drawn.
    """
    complete = course.dropna(axis="columns")
    if spread and len(course) >= FEWEST_SEEDS:
        band = bootstrap_band(complete.to_numpy())
        panel.fill_between(complete.columns, band.low_G, band.high_G, color=colour, alpha=0.12, linewidth=0)
        for limit_G in (band.low_G, band.high_G):
            panel.plot(complete.columns, limit_G, color=colour, linewidth=0.6, alpha=0.6)
    elif spread and len(course) > 1:
        for _, one in course.iterrows():
            panel.plot(course.columns, one, color=colour, linewidth=0.8, alpha=0.45)
    style = style_of(learner) if complete.shape[1] > 1 else {"marker": "o", **style_of(learner)}
    panel.plot(complete.columns, complete.mean(), color=colour, **style)


def legend_handles(cells: list[Cell], cell_colours: list, learners: list[str]) -> list[Artist]:
    """Colours for cells, where there are several line styles for learners, and what is drawn of seeds."""
    handles = [
        Line2D([], [], color=colour, linewidth=2.2, label=cell.label)
        for cell, colour in zip(cells, cell_colours, strict=True)
    ]
    if learners != ["transformer"]:
        handles += [Line2D([], [], color="#777777", label=learner, **style_of(learner)) for learner in learners]
    return handles + spread_handles(cells)


def spread_handles(cells: list[Cell]) -> list[Artist]:
    """What is drawn of seeds, in the words of a legend."""
    seeds = max((cell.rows["seed"].nunique() for cell in cells), default=0)
    if seeds < FEWEST_SEEDS:
        return [Line2D([], [], color="#777777", linewidth=0.8, label=f"each of {seeds} seeds")] if seeds > 1 else []
    return [Patch(color="#777777", alpha=0.3, linewidth=0, label=f"95% band of the mean, {seeds} seeds")]


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=min(150, _MOST_PIXELS / max(figure.get_size_inches())))
    write_whole(path, content.getvalue())
