"""Means over seeds beside what is known of them in closed form: whether a loop does what its theory says."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxloop.analysis.cells import LEARNER, cells_of, courses
from jaxloop.analysis.columns import Columns
from jaxloop.report.style import chosen, colours_of, draw_course, few_cells, spread_handles

# By the number of a loop the mean over seeds of columns of metrics.csv, by name, in each generation, (G,).
Expected = Mapping[int, Mapping[str, np.ndarray]]

_MOST_CELLS = 6
_MOST_BANDS = 40  # generations of which an interval is drawn
_MOST_COLUMNS = 3
_MOST_SPAN = 1000  # times the least value: beyond it, to scale the first generations would all be 0
_KNOWN = {"color": "black", "linestyle": (0, (4, 3)), "linewidth": 1.1, "zorder": 3}


def draw_closed_form(metrics: pd.DataFrame, axes: list[str], expected: Expected, columns: Columns) -> Figure | None:
    """A panel for each column of which something is known: a cell's mean with its 95% band, and dashed what is known.

    None where nothing is known of any loop.

    Args:
      metrics: the rows of metrics.csv, with the learner's name.
      axes: the axes of the grid but for the learner, which are columns of `metrics`.
      expected: what is known.
      columns: what the columns of `metrics` are.
    """
    metrics = metrics[metrics["loop"].isin([loop for loop, known in expected.items() if known])]
    if metrics.empty:
        return None
    metrics, left_out = few_cells(metrics, [*axes, LEARNER], _MOST_CELLS)
    cells = cells_of(metrics, [*axes, LEARNER] if metrics[LEARNER].nunique() > 1 else axes)
    known = [expected[int(cell.rows["loop"].iloc[0])] for cell in cells]
    names = [column.name for column in columns.declared if any(column.name in of_cell for of_cell in known)]
    across = min(len(names), _MOST_COLUMNS)
    down = -(-len(names) // across)
    figure = Figure(figsize=(max(3.4 * across, 6.8), 2.5 * down + 0.9), layout="constrained")
    figure.suptitle(left_out)
    grid = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    colours = colours_of(cells)
    for panel, name in zip(grid, names, strict=False):
        for cell, colour, of_cell in zip(cells, colours, known, strict=True):
            if name in of_cell:
                _draw_cell(panel, courses(cell.rows, name), of_cell[name], colour, cell.rows[LEARNER].iloc[0])
        panel.set_title(name.replace("_", " "), fontsize="medium")
        panel.set_ylabel(columns.axis(name), fontsize="small")
        panel.grid(linewidth=0.4, alpha=0.5)
        panel.set_xlim(0, max(int(metrics["generation"].max()), 1))
        panel.locator_params(axis="x", integer=True)
        everything = np.concatenate([of_cell[name] for of_cell in known if name in of_cell])
        if everything.min() > 0 and everything.max() > _MOST_SPAN * everything.min():
            panel.set_yscale("log")
    for place, panel in enumerate(grid):
        if place >= len(names):
            panel.set_axis_off()
        elif place + across >= len(names):
            panel.set_xlabel("generation")
            panel.tick_params(labelbottom=True)
    handles = [
        *(
            Line2D([], [], color=colour, linewidth=2.2, label=cell.label)
            for cell, colour in zip(cells, colours, strict=True)
        ),
        *spread_handles(cells),
        Line2D([], [], label="closed form", **_KNOWN),
    ]
    figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=min(len(handles), 4))
    return figure


def _draw_cell(panel: Axes, course: pd.DataFrame, known_G: np.ndarray, colour, learner: str) -> None:
    """One cell's mean with its band, and what is known of it, in as many generations as there are."""
    shown = course[chosen(list(course.columns), _MOST_BANDS)]
    draw_course(panel, shown, colour, learner)
    generation_G = course.columns.to_numpy()
    generation_G = generation_G[generation_G < len(known_G)]
    panel.plot(generation_G, known_G[generation_G], **_KNOWN)
