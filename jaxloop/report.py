"""The figure of a run, from its tables."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxloop.errors import InputError

_SHARES = {
    "true_share": ("true", "#0072B2"),
    "false_share": ("false", "#E69F00"),
    "invalid_share": ("invalid", "#999999"),
}
# Okabe and Ito's palette, distinguishable for the colour-blind; beyond it an ordered map.
_CELL_COLOURS = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9")
_CONTROL_COLOUR = "#333333"
# Of each learner: line, marker, width.
_STYLES = {
    "transformer": {"linestyle": "-", "marker": "o", "markersize": 4, "linewidth": 2.2},
    "resample": {"linestyle": ":", "linewidth": 1.6},
    "oracle": {"linestyle": "-.", "linewidth": 1.4},
    "grammar": {"linestyle": "--", "linewidth": 1.4},
    "ngram": {"linestyle": "-", "marker": "x", "markersize": 5, "linewidth": 0.9},
}
_MOST_COLUMNS = 4
_LEARNER = "learner.name"
_NEEDED = {
    "metrics": (
        "loop", "seed", "generation", "control", *_SHARES, "diversity", "unique_share", "training_diversity",
        "outside_share", "held_out_nats", "source_entropy_nats",
        "untempered_forward_kl_nats", "untempered_forward_kl_standard_error_nats",
    ),
    "tails": (
        "loop", "seed", "generation", "classes", "class", "source_share", "model_share", "first_expressions",
        "alive_share",
    ),
}  # fmt: skip
_TEXT = ("classes", "class", _LEARNER)


def as_frame(rows: list[dict[str, str]], table: str) -> pd.DataFrame:
    """The rows of metrics.csv or tails.csv as a table of numbers, but for the columns of names.

    Raises:
      InputError: a column that is drawn is missing, or a cell is not a number.
    """
    frame = pd.DataFrame(rows, columns=None if rows else list(_NEEDED[table]))
    missing = [column for column in _NEEDED[table] if column not in frame]
    if missing:
        raise InputError(f"{table}.csv: has no column {missing[0]!r}; put it right, or start anew with --overwrite")
    try:
        return frame.apply(lambda column: column if column.name in (*_TEXT, "cycle.name") else pd.to_numeric(column))
    except (TypeError, ValueError) as error:
        raise InputError(f"{table}.csv: {error}; put it right, or start anew with --overwrite") from None


def cell_label(axes: dict, control: bool = False) -> str:
    """A cell of the grid in words: what differs from the other cells."""
    words = []
    for axis, value in axes.items():
        if value is None or value != value or value == "":
            continue
        if isinstance(value, str):
            words.append(value.replace("_", " "))
        elif not (control and axis.startswith("cycle.")):
            words.append(f"{axis.split('.')[-1].replace('_', ' ')} {value:g}")
    if control:
        words.append("fresh data only")
    return ", ".join(words) or "all loops"


def cells_of(metrics: pd.DataFrame, axes: list[str]) -> list[tuple[str, bool, pd.DataFrame]]:
    """(label, whether it is a control, rows) of every cell, in the order of the grid, with the controls last."""
    cells = []
    for (control, *values), rows in metrics.groupby(["control", *axes], sort=False, dropna=False):
        cells.append((cell_label(dict(zip(axes, values, strict=True)), bool(control)), bool(control), rows))
    return sorted(cells, key=lambda cell: cell[1])


def draw_overview(metrics: pd.DataFrame, tails: pd.DataFrame, axes: list[str], learner: str, path: Path) -> Path:
    """Draw correctness, the source's tails and diversity against generation, and write the figure.

    Above, two panels per cell, means over seeds: the shares of true, false and invalid samples; and where the model's
    probability lies, by tenths of the source. Below, diversity, and what is alive of the first real data's expressions
    in the least probable tenth: a thick line per cell for the mean, a thin one per seed. Reference learners have a line
    in the colour of their cell there, and no panels; controls are black.

    Args:
      metrics: the rows of metrics.csv.
      tails: the rows of tails.csv.
      axes: the axes of the grid, which are columns of `metrics`.
      learner: whose loops they are, where that is no axis.
      path: where to write; its folder is made.
    """
    plain_axes = [axis for axis in axes if axis != _LEARNER]
    if _LEARNER not in axes:
        metrics = metrics.assign(**{_LEARNER: learner})
    learners = list(dict.fromkeys(metrics[_LEARNER]))
    shown = "transformer" if "transformer" in learners else learners[0]
    main = metrics[metrics[_LEARNER] == shown]
    cells = cells_of(metrics, plain_axes)
    colours = _colours_of(cells)
    panels = [(label, rows) for label, control, rows in cells_of(main, plain_axes) if not control]
    panels = panels or [(label, rows) for label, _, rows in cells_of(main, plain_axes)]
    columns = min(len(panels), _MOST_COLUMNS)
    panel_rows = -(-len(panels) // columns)
    tenths = tails[tails["classes"] == "tenth"]
    kinds = [_draw_correctness, *([_draw_tenths] if len(tenths) else [])]

    lines = 1 + bool(len(tenths))
    heights = [2.1] * panel_rows * len(kinds) + [3.2] * lines
    figure = Figure(figsize=(max(7.6, 3.2 * columns), sum(heights) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    last_generation = max(int(metrics["generation"].max()), 1)
    # Where nearly all samples are true, the axis begins higher, or the rise could not be seen.
    lowest_share = 0.8 if main["true_share"].min() > 0.85 else 0
    for place, (label, rows) in enumerate(panels):
        for kind, draw in enumerate(kinds):
            panel = figure.add_subplot(grid[(place // columns) * len(kinds) + kind, place % columns])
            draw(panel, rows, tenths[tenths["loop"].isin(rows["loop"])], first=place == 0)
            panel.set(xlim=(0, last_generation), ylim=(0 if kind else lowest_share, 1))
            panel.xaxis.get_major_locator().set_params(integer=True)
            if kind == 0:
                panel.set_title(label if shown == "transformer" else f"{label}, {shown}", fontsize="medium")
            if place % columns:
                panel.set_ylabel("")
                panel.set_yticklabels([])

    panel = figure.add_subplot(grid[len(heights) - lines, :])
    real = metrics.loc[metrics["generation"] == 0, "training_diversity"].mean()
    panel.axhline(real, color="black", linewidth=0.8, alpha=0.6)
    panel.annotate("real data", (0, real), xytext=(3, 2), textcoords="offset points", fontsize="small")
    _draw_lines(panel, cells, colours, lambda rows: rows.assign(value=rows["diversity"]))
    panel.set(ylabel="diversity of samples\n(mean normalised Levenshtein distance)", ylim=(0, None))
    handles = _legend_handles(cells, colours, learners)
    if len(handles) <= 4:
        panel.legend(handles=handles, fontsize="small", loc="lower left")
    else:
        figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=min(len(handles), 3))
    if lines > 1:
        tail = tenths[tenths["class"] == "10"].rename(columns={"alive_share": "value"})

        def tail_of(rows: pd.DataFrame) -> pd.DataFrame:
            return rows.merge(tail[["loop", "generation", "value"]], on=["loop", "generation"])

        below = figure.add_subplot(grid[len(heights) - 1, :], sharex=panel)
        _draw_lines(below, cells, colours, tail_of)
        below.set(ylabel="least probable tenth of the source:\nshare of its expressions alive", ylim=(0, 1.05))
        panel = below
    panel.set(xlabel="generation", xlim=(0, last_generation))
    panel.xaxis.get_major_locator().set_params(integer=True)

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", dpi=150)
    partial.replace(path)
    return path


def _colours_of(cells: list[tuple[str, bool, pd.DataFrame]]) -> list:
    """A colour for each cell."""
    controls = sum(control for _, control, _ in cells)
    varied = len(cells) - controls
    colours = _CELL_COLOURS[:varied]
    if varied > len(_CELL_COLOURS):
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, varied))
    return [*colours, *[_CONTROL_COLOUR] * controls]


def _draw_correctness(panel: Axes, rows: pd.DataFrame, tenths: pd.DataFrame, first: bool) -> None:
    """The shares of true, false and invalid samples."""
    means = _widened(rows.groupby("generation")[list(_SHARES)].mean())
    panel.stackplot(
        means.index,
        *(means[share] for share in _SHARES),
        colors=[colour for _, colour in _SHARES.values()],
        labels=[name for name, _ in _SHARES.values()],
    )
    panel.set_ylabel("share of samples")
    if first:
        panel.legend(loc="lower left", fontsize="small", framealpha=0.9)


def _draw_tenths(panel: Axes, rows: pd.DataFrame, tenths: pd.DataFrame, first: bool) -> None:
    """The model's mass in each tenth of the source, and what lies outside of its support."""
    means = _widened(tenths.pivot_table(index="generation", columns="class", values="model_share"))
    means = means[sorted(means.columns, key=int)].assign(outside=lambda inside: 1 - inside.sum(axis=1))
    colours = [*matplotlib.colormaps["cividis"](np.linspace(0, 1, len(means.columns) - 1)), "#999999"]
    bands = panel.stackplot(means.index, means.to_numpy().T, colors=colours, linewidth=0.4, edgecolor="white")
    panel.set_ylabel("the model's mass,\nby tenths of the source")
    if first:
        panel.legend(
            [bands[-1], bands[-2], bands[0]],
            ["outside the source", "least probable tenth", "most probable tenth"],
            loc="lower left",
            fontsize="small",
            framealpha=0.9,
        )


def _widened(means: pd.DataFrame) -> pd.DataFrame:
    """A single generation as wide as one, so that it can be seen."""
    return means.reindex([means.index[0], means.index[0] + 1], method="ffill") if len(means) == 1 else means


def _draw_lines(panel: Axes, cells: list, colours: list, values_of: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """A line per cell and learner; `values_of` gives rows of metrics a column `value`."""
    for (_, _, rows), colour in zip(cells, colours, strict=True):
        for learner, of_learner in values_of(rows).groupby(_LEARNER, sort=False):
            if learner == "transformer":
                for _, one in of_learner.groupby("loop"):
                    panel.plot(one["generation"], one["value"], color=colour, linewidth=0.8, alpha=0.45)
            means = of_learner.groupby("generation")["value"].mean()
            style = _STYLES[learner] if len(means) > 1 else {"marker": "o", **_STYLES[learner]}
            panel.plot(means.index, means, color=colour, **style)


def _legend_handles(cells: list, colours: list, learners: list[str]) -> list[Line2D]:
    """Colours for cells, and where there are several, line styles for learners."""
    seeds = max(rows["seed"].nunique() for _, _, rows in cells)
    note = f" (mean of {seeds} seeds)" if seeds > 1 else ""
    handles = [
        Line2D([], [], color=colour, linewidth=2.2, label=label + note)
        for (label, _, _), colour in zip(cells, colours, strict=True)
    ]
    if learners != ["transformer"]:
        handles += [Line2D([], [], color="#777777", label=learner, **_STYLES[learner]) for learner in learners]
    return handles
