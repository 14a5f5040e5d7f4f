"""The overview of a run: what its samples and its models became, for the eye."""

import textwrap
from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxloop.analysis.cells import LEARNER, Cell, cells_of, courses
from jaxloop.report.style import MOST_PANELS, SHARES, colours_of, draw_course, few_cells, learners_of, legend_handles

_MOST_COLUMNS = 4


def draw_overview(metrics: pd.DataFrame, tails: pd.DataFrame, axes: list[str]) -> Figure:
    """Correctness, the source's tails and diversity against generation.

    Above, two panels per cell, means over seeds: the shares of true, false and invalid samples; and where the model's
    probability lies, by tenths of the source. Below, diversity, and what is alive of the first real data's expressions
    in the least probable tenth: a thick line per cell for the mean, with its 95% band, or with thin lines where seeds
    are two. Reference learners have a line in the colour of their cell there, and no panels; controls are black.

    Args:
      metrics: the rows of metrics.csv, with a column of the learner's name.
      tails: the rows of tails.csv.
      axes: the axes of the grid but for the learner, which are columns of `metrics`.
    """
    learners = learners_of(metrics[LEARNER])
    shown = learners[0]
    metrics, left_out = few_cells(metrics, axes, MOST_PANELS)
    cells = cells_of(metrics, axes)
    colours = colours_of(cells)
    main = cells_of(metrics[metrics[LEARNER] == shown], axes)
    panels = [cell for cell in main if not cell.control] or main
    columns = min(len(panels), _MOST_COLUMNS)
    panel_rows = -(-len(panels) // columns)
    tenths = tails[(tails["classes"] == "tenth") & tails["loop"].isin(metrics["loop"])]
    kinds = [_draw_correctness, *([_draw_tenths] if len(tenths) else [])]

    lines = 1 + bool(len(tenths))
    heights = [0.25] + [2.1] * panel_rows * len(kinds) + [3.2] * lines
    figure = Figure(figsize=(max(7.6, 3.2 * columns), sum(heights) + 0.5), layout="constrained")
    figure.suptitle(left_out)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    bands = {}
    last_generation = max(int(metrics["generation"].max()), 1)
    # Where nearly all samples are true, the axis begins higher, or the rise could not be seen.
    lowest_share = 0.8 if metrics.loc[metrics[LEARNER] == shown, "true_share"].min() > 0.85 else 0
    for place, cell in enumerate(panels):
        for kind, draw in enumerate(kinds):
            panel = figure.add_subplot(grid[1 + (place // columns) * len(kinds) + kind, place % columns])
            bands |= draw(panel, cell.rows, tenths[tenths["loop"].isin(cell.rows["loop"])])
            panel.set(xlim=(0, last_generation), ylim=(0 if kind else lowest_share, 1))
            panel.xaxis.get_major_locator().set_params(integer=True)
            if kind == 0:
                title = cell.label if shown == "transformer" else f"{cell.label}, {shown}"
                panel.set_title(textwrap.fill(title, 30), fontsize="medium")
            if place % columns:
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
    panel.set(ylabel="diversity of samples\n(mean normalised Levenshtein distance)", ylim=(0, room_for_the_words))
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
        below.set(ylabel="least probable tenth of the source:\nshare of its expressions alive", ylim=(0, 1.05))
        panel = below
    panel.set(xlabel="generation", xlim=(0, last_generation))
    panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _draw_correctness(panel: Axes, rows: pd.DataFrame, tenths: pd.DataFrame) -> dict[str, Artist]:
    """The shares of true, false and invalid samples; the bands by their names."""
    means = _widened(rows.groupby("generation")[list(SHARES)].mean())
    colours = [colour for _, colour in SHARES.values()]
    bands = panel.stackplot(means.index, *(means[share] for share in SHARES), colors=colours)
    panel.set_ylabel("share of samples")
    return {name: band for (name, _), band in zip(SHARES.values(), bands, strict=True)}


def _draw_tenths(panel: Axes, rows: pd.DataFrame, tenths: pd.DataFrame) -> dict[str, Artist]:
    """The model's mass in each tenth of the source, and what lies outside of its support; some bands by their names."""
    panel.set_ylabel("the model's mass,\nby tenths of the source")
    if tenths["model_share"].isna().all():
        return {}
    means = _widened(tenths.pivot_table(index="generation", columns="class", values="model_share"))
    means = means[sorted(means.columns, key=int)].assign(outside=lambda inside: 1 - inside.sum(axis=1))
    colours = [*matplotlib.colormaps["cividis"](np.linspace(0, 1, len(means.columns) - 1)), "#999999"]
    bands = panel.stackplot(means.index, means.to_numpy().T, colors=colours, linewidth=0.4, edgecolor="white")
    return {"most probable tenth": bands[0], "least probable": bands[-2], "outside the source": bands[-1]}


def _widened(means: pd.DataFrame) -> pd.DataFrame:
    """A single generation as wide as one, so that it can be seen."""
    return means.reindex([means.index[0], means.index[0] + 1], method="ffill") if len(means) == 1 else means


def _draw_lines(
    panel: Axes, cells: list[Cell], colours: list, values_of: Callable[[pd.DataFrame], pd.DataFrame], shown: str
) -> None:
    """A line per cell and learner; `values_of` gives rows of metrics a column `value`; `shown` has its bands drawn."""
    for cell, colour in zip(cells, colours, strict=True):
        for learner, of_learner in values_of(cell.rows).groupby(LEARNER, sort=False):
            draw_course(panel, courses(of_learner, "value"), colour, learner, spread=learner == shown)
