"""The overview of a run: what its samples and its models became, for the eye."""

import functools
import textwrap
from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxloop.analysis.cells import LEARNER, Cell, cells_of, courses
from jaxloop.analysis.columns import Columns
from jaxloop.report.style import (
    MOST_PANELS,
    colours_of,
    draw_course,
    few_cells,
    learners_of,
    legend_handles,
    part_colours,
)

_MOST_COLUMNS = 4


def draw_overview(metrics: pd.DataFrame, tails: pd.DataFrame, axes: list[str], columns: Columns) -> Figure:
    """Correctness, the source's tails and diversity against generation.

    Above, two panels per cell, means over seeds: the parts that the samples fall into; and where the model's
    probability lies, by tenths of the source. Below, diversity, and what is alive of the first real data's rows
    in the least probable tenth: a thick line per cell for the mean, with its 95% band, or with thin lines where seeds
    are two. Reference learners have a line in the colour of their cell there, and no panels; controls are black.

    Args:
      metrics: the rows of metrics.csv, with a column of the learner's name.
      tails: the rows of tails.csv.
      axes: the axes of the grid but for the learner, which are columns of `metrics`.
      columns: what the columns of `metrics` are.
    """
    learners = learners_of(metrics[LEARNER])
    shown = learners[0]
    metrics, left_out = few_cells(metrics, axes, MOST_PANELS)
    cells = cells_of(metrics, axes)
    colours = colours_of(cells)
    main = cells_of(metrics[metrics[LEARNER] == shown], axes)
    panels = [cell for cell in main if not cell.control] or main
    across = min(len(panels), _MOST_COLUMNS)
    panel_rows = -(-len(panels) // across)
    tenths = tails[(tails["classes"] == "tenth") & tails["loop"].isin(metrics["loop"])]
    parts = part_colours(columns)
    kinds = [
        *([functools.partial(_draw_parts, parts)] if parts else []),
        *([_draw_tenths] if len(tenths) else []),
    ]

    lines = 1 + bool(len(tenths))
    heights = [0.25] + [2.1] * panel_rows * len(kinds) + [3.2] * lines
    figure = Figure(figsize=(max(7.6, 3.2 * across), sum(heights) + 0.5), layout="constrained")
    figure.suptitle(left_out)
    grid = figure.add_gridspec(len(heights), across, height_ratios=heights)
    bands = {}
    last_generation = max(int(metrics["generation"].max()), 1)
    # Where nearly all samples are right, the axis begins higher, or the rise could not be seen.
    are_right = parts and metrics.loc[metrics[LEARNER] == shown, columns.right].min() > 0.85
    lowest_share = 0.8 if are_right else 0
    for place, cell in enumerate(panels):
        for kind, draw in enumerate(kinds):
            panel = figure.add_subplot(grid[1 + (place // across) * len(kinds) + kind, place % across])
            bands |= draw(panel, cell.rows, tenths[tenths["loop"].isin(cell.rows["loop"])])
            panel.set(xlim=(0, last_generation), ylim=(0 if draw is _draw_tenths else lowest_share, 1))
            panel.locator_params(axis="x", integer=True)
            if kind == 0:
                title = cell.label if shown == "transformer" else f"{cell.label}, {shown}"
                panel.set_title(textwrap.fill(title, 30), fontsize="medium")
            if place % across:
                panel.set_ylabel("")
                panel.set_yticklabels([])

    # Above all panels, for in each of them something dies in the corner where a legend would be.
    top = figure.add_subplot(grid[0, :])
    top.set_axis_off()
    top.legend(bands.values(), bands.keys(), fontsize="small", loc="center", ncols=len(bands), frameon=False)

    panel = figure.add_subplot(grid[len(heights) - lines, :])
    real = metrics.loc[metrics["generation"] == 0, "training_diversity"].mean()
    panel.axhline(real, color="black", linewidth=0.8, alpha=0.6)
    panel.annotate("real data", (0, real), xytext=(3, 2), textcoords="offset points", fontsize="small")
    _draw_lines(panel, cells, colours, lambda rows: rows.assign(value=rows["diversity"]), shown)
    room_for_the_words = max(panel.get_ylim()[1], 1.12 * real)
    panel.set(ylabel=f"diversity of samples\n({columns.axis('diversity')})", ylim=(0, room_for_the_words))
    handles = legend_handles(cells, colours, learners)
    if len(handles) <= 4:
        panel.legend(handles=handles, fontsize="small", loc="lower left")
    else:
        figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=min(len(handles), 3))
    if lines > 1:
        tail = tenths[tenths["class"] == "10"].rename(columns={"alive_share": "value"})

        def tail_of(rows: pd.DataFrame) -> pd.DataFrame:
            return rows.merge(tail[["loop", "generation", "value"]], on=["loop", "generation"])

        below = figure.add_subplot(grid[len(heights) - 1, :], sharex=panel)
        _draw_lines(below, cells, colours, tail_of, shown)
        below.set(ylabel="least probable tenth of the source:\nshare of its rows alive", ylim=(0, 1.05))
        panel = below
    panel.set(xlabel="generation", xlim=(0, last_generation))
    panel.locator_params(axis="x", integer=True)
    return figure


def _draw_parts(
    parts: dict[str, tuple[str, str]], panel: Axes, rows: pd.DataFrame, tenths: pd.DataFrame
) -> dict[str, Artist]:
    """The parts that the samples fall into; the bands by their names."""
    means = _widened(rows.groupby("generation")[list(parts)].mean())
    colours = [colour for _, colour in parts.values()]
    bands = panel.stackplot(means.index, *(means[share] for share in parts), colors=colours)
    panel.set_ylabel("share of samples")
    return {name: band for (name, _), band in zip(parts.values(), bands, strict=True)}


def _draw_tenths(panel: Axes, rows: pd.DataFrame, tenths: pd.DataFrame) -> dict[str, Artist]:
    """The model's mass in each tenth of the source, and what lies outside of its support; some bands by their names."""
    panel.set_ylabel("the model's mass,\nby tenths of the source")
    if tenths["model_share"].isna().all():
        return {}
    means = _widened(tenths.pivot_table(index="generation", columns="class", values="model_share"))
    means = means[sorted(means.columns, key=int)]
    colours = list(matplotlib.colormaps["cividis"](np.linspace(0, 1, len(means.columns))))
    if "outside_share" in rows:
        means, colours = means.assign(outside=1 - means.sum(axis=1)), [*colours, "#999999"]
    bands = panel.stackplot(means.index, means.to_numpy().T, colors=colours, linewidth=0.4, edgecolor="white")
    names = {"1": "most probable tenth", "10": "least probable", "outside": "outside the source"}
    found = dict(zip(means.columns, bands, strict=True))
    return {name: found[column] for column, name in names.items() if column in found}


def _widened(means: pd.DataFrame) -> pd.DataFrame:
    """A single generation as wide as one, so that it can be seen."""
    return means.reindex([means.index[0], means.index[0] + 1], method="ffill") if len(means) == 1 else means


def _draw_lines(
    panel: Axes, cells: list[Cell], colours: list, values_of: Callable[[pd.DataFrame], pd.DataFrame], shown: str
) -> None:
    """A line per cell and learner; `values_of` gives rows of metrics a column `value`; `shown` has its bands drawn."""
    for cell, colour in zip(cells, colours, strict=True):
        for learner, of_learner in values_of(cell.rows).groupby(LEARNER, sort=False):
            draw_course(panel, courses(of_learner, "value"), colour, str(learner), spread=learner == shown)
