"""The figures of a run: each is made of its tables, written whole, and gone again where it makes no sense."""

import contextlib
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jaxloop.analysis.cells import (
    LEARNER,
    axis_name,
    cell_label,
    cells_of,
    courses,
    is_unset,
    value_text,
    with_kept_diversity,
)
from jaxloop.analysis.columns import Columns
from jaxloop.analysis.summary import MOSTLY_RIGHT, last_generation
from jaxloop.errors import InputError, printable
from jaxloop.layout import FIGURES
from jaxloop.report.closed_form import Expected, draw_closed_form
from jaxloop.report.overview import draw_overview
from jaxloop.report.style import (
    MOST_LINES,
    MOST_PANELS,
    chosen,
    colours,
    colours_of,
    draw_course,
    few_cells,
    learners_of,
    part_colours,
    spread_handles,
    style_of,
    write_figure,
)

_MARKERS = {"transformer": "o", "resample": "s", "oracle": "D", "grammar": "^", "ngram": "X"}
_MOST_COLUMNS = 3
_CHARACTERS_AN_INCH = 12  # of a title
_CLOSEST = 1 / 15  # of an axis drawn to scale: values that lie closer cannot be told apart
_MOST_PLACES = 100  # on an axis: each may have an arrow, and a thousand arrows take two seconds
_MOST_SPAN = 50  # times the least value that is not 0: beyond it, to scale means nothing


_TITLES = {
    "overview": "samples, tails and diversity",
    "diversity": "kept diversity by generation",
    "final": "what was kept, and when it collapsed",
    "correctness": "what the samples are",
    "heat_map": "kept diversity over two settings",
    "quality_map": "what is right of the samples, over two settings",
    "closed_form": "means over seeds, and their closed forms",
}
# Where it is not more cells.
_NEEDS = {
    "heat_map": "two settings that are varied, each value with each",
    "quality_map": "two settings of curation that are varied, each value with each, and a system with right and wrong",
    "closed_form": "a system of which something is known in closed form",
}


def draw_all(
    metrics: pd.DataFrame,
    tails: pd.DataFrame,
    summary: list[dict],
    axes: list[str],
    learner: str,
    columns: Columns,
    folder: Path,
    warn: Callable[[str], None],
    watch: Callable[[], None] = lambda: None,
    expected: Expected | None = None,
) -> list[Path]:
    """Draw every figure that makes sense for a run, each for itself, and remove what is left of the others.

    Matplotlib's own defaults are used, whatever the user's are.

    Args:
      metrics: the rows of metrics.csv.
      tails: the rows of tails.csv.
      summary: the rows of summary.csv.
      axes: the axes of the grid, which are columns of `metrics`.
      learner: whose loops they are, where that is no axis.
      columns: what the columns of `metrics` are.
      folder: where to write, in the run's folder; it is made.
      warn: is told which figure could not be drawn or written, and why.
      watch: called before each figure; what it raises ends that.
      expected: what is known of loops beforehand.

    Returns:
      The paths of what was drawn.
    """
    makers = _makers(metrics, tails, summary, axes, learner, columns, expected)
    run, seeds = folder.resolve().parent.name, metrics["seed"].nunique()
    paths = []
    for name in FIGURES:
        watch()
        path = folder / f"{name}.png"
        try:
            with matplotlib.style.context("default"):
                figure = makers[name]()
                if figure:
                    _entitle(figure, name, run, seeds)
                    write_figure(figure, path)
                    paths.append(path)
                else:
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)
        except Exception as error:  # Whatever goes wrong with a picture, the tables and the others are there.
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            warn(f"{path}: could not be drawn: {reason.splitlines()[0][:200]}")
    return paths


def draw_one(
    name: str,
    metrics: pd.DataFrame,
    tails: pd.DataFrame,
    summary: list[dict],
    axes: list[str],
    learner: str,
    columns: Columns,
    run: str,
    expected: Expected | None = None,
) -> Figure:
    """Draw one of FIGURES, which bears the name of the run; the tables are those that `draw_all` takes.

    Raises:
      InputError: there is no such figure, or it makes no sense for this run.
    """
    makers = _makers(metrics, tails, summary, axes, learner, columns, expected)
    if name not in makers:
        raise InputError(f"{name!r} is no figure; figures are {', '.join(makers)}")
    with matplotlib.style.context("default"):
        figure = makers[name]()
        if figure is None:
            raise InputError(f"{run}: has no figure {name!r}, which needs {_NEEDS.get(name, 'more cells')}")
        _entitle(figure, name, run, metrics["seed"].nunique())
    return figure


def _makers(
    metrics: pd.DataFrame,
    tails: pd.DataFrame,
    summary: list[dict],
    axes: list[str],
    learner: str,
    columns: Columns,
    expected: Expected | None,
) -> dict[str, Callable[[], Figure | None]]:
    """What draws each figure, or says that it makes no sense."""
    of_cells = with_noise(pd.DataFrame(summary), columns)
    if LEARNER not in axes:
        metrics, of_cells = (frame.assign(**{LEARNER: learner}) for frame in (metrics, of_cells))
    metrics = with_kept_diversity(metrics)
    axes = [axis for axis in axes if axis != LEARNER]
    free = _free(of_cells, axes)
    return {
        "overview": lambda: draw_overview(metrics, tails, axes, columns),
        "diversity": lambda: draw_diversity(metrics, free),
        "final": lambda: draw_final(of_cells, free),
        "correctness": lambda: draw_correctness(metrics, axes, columns),
        "heat_map": lambda: draw_heat_map(of_cells, free),
        "quality_map": lambda: draw_quality_map(of_cells, free, columns),
        "closed_form": lambda: draw_closed_form(metrics, axes, expected or {}, columns),
    }


def _entitle(figure: Figure, name: str, run: str, seeds: int) -> None:
    """Say what a figure shows, of which run, and what was left out."""
    title = f"{printable(run)}: {_TITLES[name]}, {seeds} seed{'' if seeds == 1 else 's'}"
    title += f"\n({figure.get_suptitle()})" if figure.get_suptitle() else ""
    # Not as a formula, whatever signs a folder's name has.
    figure.suptitle(title, parse_math=False, fontsize="medium")


def draw_diversity(metrics: pd.DataFrame, axes: list[str]) -> Figure | None:
    """Kept diversity against generation, means with bands; None for a single cell.

    A colour per value of the first axis that varies; a panel per combination of the other axes and learner.

    Args:
      metrics: the rows of metrics.csv, with the learner's name and kept diversity.
      axes: the axes of the grid but for the learner.
    """
    if len(metrics.drop_duplicates(["control", *axes, LEARNER])) < 2:
        return None
    first = _varied(metrics, axes)[:1]
    others = [axis for axis in axes if axis not in first]
    metrics, fewer_lines = few_cells(metrics, first, MOST_LINES // 2)
    metrics, fewer_panels = few_cells(metrics, [*others, LEARNER], MOST_PANELS)
    lines = cells_of(metrics, first)
    colour_of = dict(zip([line.label for line in lines], colours_of(lines), strict=True))
    learners = learners_of(metrics[LEARNER])
    titles = {
        (learner, cell_label(cell.axes)): cell.axes
        for learner in learners
        for cell in cells_of(metrics[metrics[LEARNER] == learner], others)
    }
    handles = [Line2D([], [], color=colour, linewidth=2.2, label=label) for label, colour in colour_of.items()]
    handles += spread_handles(cells_of(metrics, [*axes, LEARNER]))
    legend_columns = min(len(handles), 4)
    words = [
        ", ".join(
            [*([label] if len(titles) > len(learners) else []), *([learner] if learners != ["transformer"] else [])]
        )
        for learner, label in titles
    ]
    figure, panels = _panels(words, 4.0, 3.2, 0.2 * -(-len(handles) // legend_columns))
    fewer = {"lines": fewer_lines, "panels": fewer_panels}
    figure.suptitle("; ".join(f"{what}: {left_out}" for what, left_out in fewer.items() if left_out))
    for panel, (learner, label) in zip(panels, titles, strict=True):
        panel.axhline(1, color="black", linewidth=0.8, alpha=0.6)
        for cell in cells_of(metrics[metrics[LEARNER] == learner], axes):
            if cell_label({axis: cell.axes[axis] for axis in others}) == label:
                line = cell_label({axis: cell.axes[axis] for axis in first}, cell.control)
                draw_course(panel, courses(cell.rows, "kept_diversity"), colour_of[line], learner)
        panel.set(xlim=(0, max(int(metrics["generation"].max()), 1)))
        # A band may be as wide as it likes; the means must be seen.
        panel.set_ylim(0, 1.1 * np.nanmax([1.0, metrics["kept_diversity"].max()]))
        panel.locator_params(axis="x", integer=True)
        panel.set_xlabel("generation")
        if (place := panel.get_subplotspec()) and place.is_first_col():
            panel.set_ylabel("diversity of the samples\nas a share of the first real data's")
    figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=legend_columns)
    return figure


def draw_correctness(metrics: pd.DataFrame, axes: list[str], columns: Columns) -> Figure | None:
    """The parts that samples fall into, at first (narrow bars) and at last (wide); None for a single cell.

    Args:
      metrics: the rows of metrics.csv, with the learner's name.
      axes: the axes of the grid but for the learner.
      columns: what the columns of `metrics` are; None where samples are not right or wrong.
    """
    parts = part_colours(columns)
    if not parts:
        return None
    metrics, left_out = few_cells(metrics, axes, MOST_LINES)
    cells, learners = cells_of(metrics, axes), learners_of(metrics[LEARNER])
    if len(cells) * len(learners) < 2:
        return None
    titles = learners if learners != ["transformer"] else [""]
    figure, panels = _panels(titles, 4.2, 0.5 * len(cells) + 0.6, 0.4, side=1.8)
    figure.suptitle(left_out)
    for panel, learner in zip(panels, learners, strict=True):
        for place, cell in enumerate(cells):
            rows = cell.rows[cell.rows[LEARNER] == learner]
            if rows.empty:
                continue
            last = last_generation(rows)
            means = rows.groupby("generation")[list(parts)].mean()
            bars = [(last, place + 0.14, 0.4)] if last == 0 else [(0, place - 0.27, 0.2), (last, place + 0.1, 0.4)]
            for generation, middle, height in bars:
                left = 0.0
                shares = means.loc[generation].to_dict()
                for share, (_, colour) in parts.items():
                    width = float(shares[share])
                    panel.barh(middle, width, height, left=left, color=colour, edgecolor="white", linewidth=0.4)
                    left += width
                text = f"{shares[columns.right]:.3f} in generation {generation}"
                panel.text(1.02, middle, text, va="center", fontsize=7)
        panel.set(xlim=(0, 1), xlabel="share of samples", ylim=(len(cells) - 0.4, -0.6))
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_yticks(range(len(cells)), [cell.label for cell in cells], fontsize="small")
    handles = [Line2D([], [], color=colour, linewidth=6, label=name) for name, colour in parts.values()]
    figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=len(parts))
    return figure


def draw_final(of_cells: pd.DataFrame, axes: list[str]) -> Figure | None:
    """Final kept diversity, and the generation of collapse, against the first axis that varies; None where none does.

    Other axes are colours, learners are markers and lines, controls are black. A median or a limit that is not reached
    stands at the last generation: open, with an arrow.

    Args:
      of_cells: the rows of summary.csv, with the learner's name.
      axes: the axes of the grid but for the learner.
    """
    varied = _varied(of_cells, [*axes, LEARNER])
    if not varied:
        return None
    axis = varied[0]
    places = _places(of_cells, axis)
    series_axes = [other for other in [*axes, LEARNER] if other != axis]
    shown = set(chosen(list(places.of), _MOST_PLACES))
    fewer_places = f"{len(shown)} of {len(places.of):,} values shown" if len(shown) < len(places.of) else ""
    of_cells = of_cells[[_key(value) in shown for value in of_cells[axis]]]
    of_cells, left_out = few_cells(of_cells, series_axes, MOST_PANELS)
    series = list(of_cells.groupby(["control", *series_axes], sort=False, dropna=False))
    # A colour for each combination of the other axes, whatever the learner.
    labels = [_series_label(rows.iloc[0], [other for other in axes if other != axis]) for _, rows in series]
    kinds = [list(dict.fromkeys(label for label in labels if label[1] == control)) for control in (False, True)]
    colour_of = dict(zip([*kinds[0], *kinds[1]], colours(*map(len, kinds)), strict=True))

    figure = Figure(figsize=(10.5, 4.4 + 0.1 * len(series)), layout="constrained")
    fewer = {axis_name(axis): fewer_places, "series": left_out}
    figure.suptitle("; ".join(f"{what}: {words}" for what, words in fewer.items() if words))
    left, right = figure.subplots(1, 2)
    gap, handles = np.diff(sorted(places.of.values())).min(), []
    for number, (label, (_, rows)) in enumerate(zip(labels, series, strict=True)):
        learner = rows[LEARNER].iloc[0]
        style = {
            "color": colour_of[label],
            "marker": _MARKERS.get(learner, "o"),
            "markersize": 5,
            "linewidth": 1.2,
            "linestyle": style_of(learner)["linestyle"] if places.numeric else "none",
        }
        # Beside each other, or intervals would hide each other.
        beside = [other for other, (_, control) in enumerate(labels) if control == label[1]]
        shift = 0.2 * gap * ((beside.index(number) + 0.5) / len(beside) - 0.5)
        rows = rows.assign(place=[places.of[_key(value)] + shift for value in rows[axis]]).sort_values("place")
        _draw_final_diversity(left, rows, style)
        _draw_collapse(right, rows, style)
        words = [label[0]] if label[0] != "all loops" else []
        words += [learner] if axis != LEARNER and (of_cells[LEARNER].nunique() > 1 or not words) else []
        handles.append(Line2D([], [], label=", ".join(words) or "all loops", **style))
    for panel in (left, right):
        ticks = chosen(list(zip(places.of.values(), places.labels, strict=True)), MOST_LINES)
        crowded = sum(len(label) for _, label in ticks) > 45
        panel.set_xticks(*zip(*ticks, strict=True), fontsize="small", rotation=30 if crowded else 0)
        panel.set_xlabel(axis_name(axis))
        panel.grid(axis="y", linewidth=0.4, alpha=0.5)
    with_intervals = of_cells["kept_diversity_low"].notna().any()
    left.axhline(1, color="#777777", linewidth=0.6, zorder=0)
    title = "last generations" + (", with 95% intervals" if with_intervals else "")
    title += f"\n(open: {of_cells['noise'].max()})" if of_cells["noise"].any() else ""
    left.set_title(title, fontsize="medium")
    left.set(ylabel="diversity of the samples\nas a share of the first real data's")
    left.set_ylim(-0.03, 1.06 * np.nanmax([1.0, *of_cells["kept_diversity"], *of_cells["kept_diversity_high"]]))
    right.set_title("collapse (open, with an arrow: not reached by then)", fontsize="medium")
    last = max(of_cells["last_generation"].max(), 1)
    criterion = of_cells["collapse_criterion"].iloc[0]
    right.set(ylabel="median generation of\n" + criterion.replace(" of the first", "\nof the first"))
    right.set_ylim(-0.03 * last, 1.15 * last)
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(handles) > 1:
        figure.legend(
            handles=handles, fontsize="small", loc="outside lower center", ncols=2 if len(handles) < 10 else 3
        )
    return figure


def draw_quality_map(of_cells: pd.DataFrame, axes: list[str], columns: Columns) -> Figure | None:
    """What is right of the samples over two axes of curation, see `draw_heat_map`."""
    if columns.right is None or not all(axis.startswith("curation.") for axis in _varied(of_cells, axes)):
        return None
    return draw_heat_map(of_cells, axes, columns.right, f"{columns.parts[columns.right]} share")


def draw_heat_map(
    of_cells: pd.DataFrame, axes: list[str], quantity: str = "kept_diversity", meaning: str = "kept diversity"
) -> Figure | None:
    """A final value over two axes, a panel per learner; None unless exactly two vary, each with each.

    A control stands among the cells where its values of the axes are nobody else's, such as at a fresh share of 1.
    Where the axes are a verifier's errors, a line shows where they sum to 1: on it right and wrong rows pass alike.

    Args:
      of_cells: the rows of summary.csv, with the learner's name.
      axes: the axes of the grid but for the learner.
      quantity: a column of `of_cells`.
      meaning: what it is.
    """
    varied = _varied(of_cells, axes)
    if len(varied) != 2 or not _are_mostly_crossed(of_cells, varied):
        return None
    across, down = varied
    across_places, down_places = _places(of_cells, across), _places(of_cells, down)
    columns, rows = ({value: place for place, value in enumerate(places.of)} for places in (across_places, down_places))
    learners = learners_of(of_cells[LEARNER])
    # Numbers in the fields as long as they can be read.
    written = max(len(columns), len(rows)) <= MOST_LINES
    size = (0.75 * min(len(columns), MOST_LINES // 2) + 1.2, 0.5 * min(len(rows), MOST_LINES // 2) + 0.8)
    titles = learners if learners != ["transformer"] else [""]
    figure, panels = _panels(titles, max(size[0], 3.0), max(size[1], 2.0), 0.4)
    most = max(1.0, float(of_cells[quantity].max()))
    for panel, learner in zip(panels, learners, strict=True):
        values, noise = np.full((len(rows), len(columns)), np.nan), np.zeros((len(rows), len(columns)), bool)
        # The cells after the controls, in whose place they may stand.
        of_learner = of_cells[of_cells[LEARNER] == learner].sort_values("control", ascending=False, kind="stable")
        for _, cell in of_learner.iterrows():
            place = rows[_key(cell[down])], columns[_key(cell[across])]
            values[place], noise[place] = cell[quantity], quantity == "kept_diversity" and bool(cell["noise"])
        panel.imshow(values, cmap="cividis", vmin=0, vmax=most, aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value) and written:
                colour = "black" if value > 0.5 * most else "white"
                text = f"({value:.2f})" if noise[row, column] else f"{value:.2f}"
                panel.text(
                    column, row, text, ha="center", va="center", color=colour, fontsize=_field_font(values.shape)
                )
        for set_ticks, labels in ((panel.set_xticks, across_places.labels), (panel.set_yticks, down_places.labels)):
            set_ticks(*zip(*chosen(list(enumerate(labels)), MOST_LINES // 2), strict=True), fontsize="small")
        panel.set(xlabel=axis_name(across), ylabel=axis_name(down))
        if {across, down} == _ERRORS:
            _draw_sum_of_one(panel, list(columns), list(rows))
    bar = figure.colorbar(panels[0].images[0], ax=list(panels))
    has_noise = quantity == "kept_diversity" and of_cells["noise"].any()
    brackets = f"\n(in brackets: {of_cells['noise'].max()})" if has_noise else ""
    bar.set_label(f"{meaning}, last generations{brackets}", fontsize="small")
    return figure


_ERRORS = {"curation.false_accept", "curation.false_reject"}


def _draw_sum_of_one(panel: Axes, across: list[float], down: list[float]) -> None:
    """A line through the fields where two shares sum to 1, between those that the fields stand for."""
    shares = np.linspace(0, 1, 101)
    inside = (shares >= min(across)) & (shares <= max(across)) & (1 - shares >= min(down)) & (1 - shares <= max(down))
    places = [
        np.interp(values[inside], ticks, range(len(ticks))) for values, ticks in ((shares, across), (1 - shares, down))
    ]
    panel.plot(*places, color="tab:red", linewidth=1.2, linestyle=(0, (4, 4)), label="errors sum to 1")


def _field_font(shape: tuple[int, ...]) -> float:
    """The size of numbers in the fields of a heat map of this many rows and columns."""
    return 9 if max(shape) <= MOST_LINES // 2 else 5


def _panels(
    titles: list[str], width: float, height: float, below: float, side: float = 0.4
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel of this size per title, with room below and beside them (inches)."""
    rows = -(-len(titles) // _MOST_COLUMNS)
    columns = -(-len(titles) // rows)
    figure = Figure(figsize=(max(columns * width + side, 7.0), rows * height + below + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for panel, title in zip(grid, titles, strict=False):
        panel.set_title(textwrap.fill(title, max(round(_CHARACTERS_AN_INCH * width), 20)), fontsize="medium")
    for spare in grid[len(titles) :]:
        spare.set_axis_off()
    return figure, list(grid[: len(titles)])


def _varied(of_cells: pd.DataFrame, axes: list[str]) -> list[str]:
    """The axes of which the cells have more than one value, controls aside."""
    cells = of_cells[of_cells["control"] == 0]
    return [axis for axis in axes if cells[axis].nunique(dropna=False) > 1]


def _free(of_cells: pd.DataFrame, axes: list[str]) -> list[str]:
    """The axes without those that follow from the first one that varies, as shares do where each cycle has its own."""
    first = _varied(of_cells, axes)[:1]
    cells = of_cells[of_cells["control"] == 0]
    return [
        axis
        for axis in axes
        if axis in first or not first or cells.groupby(first, dropna=False)[axis].nunique(dropna=False).max() > 1
    ]


def _are_mostly_crossed(of_cells: pd.DataFrame, axes: list[str]) -> bool:
    """Whether values of each axis come with values of the others, controls and a few missing cells aside."""
    cells = of_cells.loc[of_cells["control"] == 0, axes]
    return 2 * len(cells.drop_duplicates()) > math.prod(cells.nunique(dropna=False))


class _Places(NamedTuple):
    """Where the values of an axis stand in a figure."""

    of: dict[Any, float]  # None for what is unset
    labels: list[str]
    numeric: bool


def _places(of_cells: pd.DataFrame, axis: str) -> _Places:
    """Numbers to scale, or one beside the other where to scale some would be too close; words in their order."""
    values = list(dict.fromkeys(_key(value) for value in of_cells[axis]))
    known = [value for value in values if value is not None]
    numeric = not any(isinstance(value, str) for value in values)
    if numeric:
        known.sort()
    labels = [f"{value:g}" if numeric else value_text(axis, value) for value in known]
    if len(known) < len(values):
        return _Places({value: place for place, value in enumerate([*known, None])}, [*labels, "unset"], False)
    if numeric and len(known) > 1:
        least = min(abs(value) for value in known if value)
        if np.diff(known).min() >= _CLOSEST * (known[-1] - known[0]) and known[-1] <= _MOST_SPAN * least:
            return _Places({value: value for value in known}, labels, True)
    return _Places({value: place for place, value in enumerate(known)}, labels, numeric)


def _key(value: Any) -> Any:
    """A value of an axis as the key of a dictionary: what is unset is None."""
    return None if is_unset(value) else value


def _series_label(cell: pd.Series, axes: list[str]) -> tuple[str, bool]:
    """A series in words, and whether it is one of controls."""
    control = bool(cell["control"])
    return cell_label({axis: cell[axis] for axis in axes}, control), control


def with_noise(of_cells: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """The rows of summary.csv with `noise`: why the diversity of a cell does not mean much, nothing where it does."""
    if columns.right is None:
        return of_cells.assign(noise="")
    words = f"under {MOSTLY_RIGHT:g} of the samples {columns.parts[columns.right]}"
    return of_cells.assign(noise=np.where(of_cells[columns.right] < MOSTLY_RIGHT, words, ""))


def _draw_final_diversity(panel: Axes, rows: pd.DataFrame, style: dict) -> None:
    """Means with their intervals where there are any; open where the samples are mostly noise."""
    means = rows["kept_diversity"]
    errors = np.stack([means - rows["kept_diversity_low"], rows["kept_diversity_high"] - means])
    panel.errorbar(rows["place"], means, np.maximum(errors, 0), capsize=3, **style)
    noise = rows[rows["noise"] != ""]
    open_style = {**style, "linestyle": "none", "markerfacecolor": "white", "zorder": 3}
    panel.plot(noise["place"], noise["kept_diversity"], **open_style)


def _draw_collapse(panel: Axes, rows: pd.DataFrame, style: dict) -> None:
    """Medians with their intervals; what is not reached ends at the last generation."""
    rows = rows[rows["collapse_generation"].notna()]
    last = rows["last_generation"].to_numpy(float)
    median, low, high = (rows[f"collapse_generation{limit}"].to_numpy(float) for limit in ("", "_low", "_high"))
    shown, bottom, top = (np.where(np.isinf(values), last, values) for values in (median, low, high))
    panel.plot(rows["place"], shown, color=style["color"], linewidth=style["linewidth"], linestyle=style["linestyle"])
    panel.vlines(rows["place"], bottom, top, color=style["color"], linewidth=style["linewidth"])
    reached = np.isfinite(median)
    for marked, face in ((reached, style["color"]), (~reached, "white")):
        panel.plot(
            rows["place"][marked], shown[marked], style["marker"],
            color=style["color"], markerfacecolor=face, markersize=style["markersize"],
        )  # fmt: skip
    for place, end, endless in zip(rows["place"], np.fmax(top, shown), np.isinf(high) | ~reached, strict=True):
        if endless:
            panel.annotate(
                "", (place, end), xytext=(0, 14), textcoords="offset points",
                arrowprops={"arrowstyle": "<-", "color": style["color"], "shrinkB": 3},
            )  # fmt: skip
