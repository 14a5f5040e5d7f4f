"""Figures of a run, from its metrics."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxloop.errors import InputError

_SHARES = {
    "true_share": ("true", "#0072B2"),
    "false_share": ("false", "#E69F00"),
    "invalid_share": ("invalid", "#999999"),
}
# Okabe and Ito's palette, distinguishable for the colour-blind; beyond it an ordered map.
_CELL_COLOURS = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9")
_MOST_COLUMNS = 4
_NEEDED = ("loop", "seed", "generation", *_SHARES, "diversity", "unique_share", "training_diversity")


def as_frame(rows: list[dict[str, str]]) -> pd.DataFrame:
    """The rows of metrics.csv as a table of numbers.

    Raises:
      InputError: a column that is drawn is missing, or a cell is not a number.
    """
    frame = pd.DataFrame(rows, columns=None if rows else list(_NEEDED))
    missing = [column for column in _NEEDED if column not in frame]
    if missing:
        raise InputError(f"metrics.csv: has no column {missing[0]!r}; put it right, or start anew with --overwrite")
    try:
        return frame.apply(pd.to_numeric)
    except (TypeError, ValueError) as error:
        raise InputError(f"metrics.csv: {error}; put it right, or start anew with --overwrite") from None


def cell_label(axes: dict) -> str:
    """A cell of the grid in words: what differs from the other cells."""
    return (
        ", ".join(f"{axis.split('.')[-1].replace('_', ' ')} {value:g}" for axis, value in axes.items()) or "all loops"
    )


def cells_of(metrics: pd.DataFrame, axes: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """(label, rows) of every cell, in the order in which the grid has them."""
    if not axes:
        return [(cell_label({}), metrics)]
    return [
        (cell_label(dict(zip(axes, values, strict=True))), rows) for values, rows in metrics.groupby(axes, sort=False)
    ]


def draw_overview(metrics: pd.DataFrame, axes: list[str], path: Path) -> Path:
    """Draw correctness and diversity against generation, and write the figure.

    Above, a panel per cell: the shares of true, false and invalid samples, mean over seeds. Below, diversity: a thick
    line per cell for the mean, a thin one per seed, and the level of the real data.

    Args:
      metrics: the rows of metrics.csv.
      axes: the axes of the grid, which are columns of it.
      path: where to write; its folder is made.
    """
    cells = cells_of(metrics, axes)
    columns = min(len(cells), _MOST_COLUMNS)
    panel_rows = -(-len(cells) // columns)
    colours = (
        _CELL_COLOURS
        if len(cells) <= len(_CELL_COLOURS)
        else matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(cells)))
    )

    figure = Figure(figsize=(max(7.0, 3.2 * columns), 2.3 * panel_rows + 3.8), layout="constrained")
    grid = figure.add_gridspec(panel_rows + 1, columns, height_ratios=[2.3] * panel_rows + [3.5])
    last_generation = int(metrics["generation"].max())
    # Where nearly all samples are true, the axis begins higher, or the rise could not be seen.
    lowest_share = 0.8 if metrics["true_share"].min() > 0.85 else 0
    for place, (label, rows) in enumerate(cells):
        panel = figure.add_subplot(grid[place // columns, place % columns])
        means = rows.groupby("generation")[list(_SHARES)].mean()
        panel.stackplot(
            means.index,
            *(means[share] for share in _SHARES),
            colors=[colour for _, colour in _SHARES.values()],
            labels=[name for name, _ in _SHARES.values()],
        )
        panel.set(xlim=(0, max(last_generation, 1)), ylim=(lowest_share, 1), title=label)
        panel.title.set_fontsize("medium")
        panel.xaxis.get_major_locator().set_params(integer=True)
        if place % columns == 0:
            panel.set_ylabel("share of samples")
        else:
            panel.set_yticklabels([])
        if place == 0:
            panel.legend(loc="lower left", fontsize="small", framealpha=0.9)

    panel = figure.add_subplot(grid[panel_rows, :])
    real = metrics.loc[metrics["generation"] == 0, "training_diversity"].mean()
    panel.axhline(real, color="black", linestyle="--", linewidth=1, label="real data")
    for (label, rows), colour in zip(cells, colours, strict=False):
        for _, one in rows.groupby("loop"):
            panel.plot(one["generation"], one["diversity"], color=colour, linewidth=0.8, alpha=0.45)
        means = rows.groupby("generation")["diversity"].mean()
        seeds = rows["seed"].nunique()
        note = f" (mean of {seeds} seeds)" if seeds > 1 else ""
        panel.plot(means.index, means, color=colour, linewidth=2.2, marker="o", markersize=4, label=label + note)
    panel.set(
        xlabel="generation",
        ylabel="diversity of samples\n(mean normalised Levenshtein distance)",
        xlim=(0, max(last_generation, 1)),
        ylim=(0, None),
    )
    panel.xaxis.get_major_locator().set_params(integer=True)
    if len(cells) <= 4:
        panel.legend(fontsize="small", loc="lower left")
    else:
        panel.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", dpi=150)
    partial.replace(path)
    return path
