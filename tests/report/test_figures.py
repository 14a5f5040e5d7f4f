"""The figures of a grid: no run ends in a traceback instead of one, none is left over, and they show their data."""

import itertools
import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
from frames import NO_TAILS, SHARE, level, summed, table
from matplotlib.image import imread

from jaxloop.analysis.cells import with_kept_diversity
from jaxloop.layout import FIGURES
from jaxloop.report import figures, style
from jaxloop.report.figures import (
    _free,
    draw_all,
    draw_diversity,
    draw_final,
    draw_heat_map,
    draw_quality_map,
    with_noise,
)
from jaxloop.systems.logic.columns import COLUMNS

matplotlib.use("Agg")
TEMPERATURE, CYCLE, LEARNER = "sample.temperature", "cycle.name", "learner.name"
ACCEPT, REJECT = "curation.false_accept", "curation.false_reject"


def grid(axes: dict[str, tuple]) -> list[dict]:
    """A cell for each combination; what is None is unset."""
    cells = []
    for place, values in enumerate(itertools.product(*axes.values())):
        known = {axis: value for axis, value in zip(axes, values, strict=True) if value is not None}
        cells.append({"axes": known, "kept": level(place / 40)})
    return cells


ALL = {"overview", "diversity", "final", "correctness"}
RUNS = {
    "one cell": ({SHARE: (0.5,)}, {"overview"}),
    "one cell of two learners": ({SHARE: (0.5,), LEARNER: ("transformer", "oracle")}, ALL),
    "seven cells": ({SHARE: (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)}, ALL),
    "two axes": ({SHARE: (0.0, 0.5), TEMPERATURE: (0.5, 1.0, 1.5)}, {*ALL, "heat_map"}),
    "two checks": ({ACCEPT: (0.0, 0.5), REJECT: (0.0, 0.3)}, {*ALL, "heat_map", "quality_map"}),
    "words": ({CYCLE: ("full_synthetic", "balanced"), SHARE: (0.0, 0.5)}, {*ALL, "heat_map"}),
    "an empty axis": ({CYCLE: ("full_synthetic", "balanced"), SHARE: (None, 0.5, 0.7)}, {*ALL, "heat_map"}),
    "decades and learners": (
        {"train.learning_rate": (1e-4, 1e-3, 1e-2), LEARNER: ("transformer", "resample", "ngram", "grammar", "oracle")},
        ALL,
    ),
    "three axes": ({SHARE: (0.0, 0.5), TEMPERATURE: (0.5, 1.0), CYCLE: ("full_synthetic", "expanding")}, ALL),
}


def draw(metrics, axes, folder):
    return draw_all(metrics, NO_TAILS, summed(metrics, axes), axes, "transformer", COLUMNS, folder, no_warning)


def no_warning(message):
    raise AssertionError(message)


FIVE, ONE = (0, 1, 2, 3, 4), (0,)
BY_ONE_SEED = ("one cell", "seven cells", "two axes")


@pytest.mark.parametrize(("run", "seeds"), [*((run, FIVE) for run in RUNS), *((run, ONE) for run in BY_ONE_SEED)])
def test_every_kind_of_run_has_the_figures_that_make_sense(tmp_path, run, seeds):
    """A traceback in place of a figure, one that shows nothing, one half written, or one of an earlier state."""
    axes, expected = RUNS[run]
    cells = grid(axes)
    # A control, and a cell whose loops did not all come to the end.
    cells[-1]["length"] = lambda seed: 9 - 4 * (seed == seeds[0])
    if len(cells) > 1 and SHARE in axes:
        control = {"axes": {**cells[0]["axes"], SHARE: 1.0}, "kept": level(1.0), "control": 1}
        cells = [*cells, control] if control["axes"] not in [cell["axes"] for cell in cells] else cells
    for name in FIGURES:
        (tmp_path / f"{name}.png").write_text("of an earlier state")
    (tmp_path / "mine.png").write_text("not one of ours")
    paths = draw(table(cells, seeds), list(axes), tmp_path)
    assert {path.stem for path in paths} == expected
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png" for name in (*expected, "mine")}
    for path in paths:
        image = imread(path)
        assert min(image.shape[:2]) > 250 and image[..., :3].std() > 0.05


def test_one_generation_and_thirty_cells(tmp_path):
    """A figure that fails where there is no course, or grows beyond what can be drawn."""
    axes = {SHARE: tuple(share / 10 for share in range(6)), TEMPERATURE: (0.5, 0.7, 0.8, 1.0, 1.2)}
    paths = draw(table(grid(axes), (0, 1, 2), generations=1), list(axes), tmp_path)
    assert {path.stem for path in paths} == {*ALL, "heat_map"}
    assert all(max(imread(path).shape) < 8000 for path in paths)


def test_a_figure_that_fails_is_named_and_costs_no_other(tmp_path, monkeypatch):
    """Catches a picture that takes the answer and all other pictures along: a missing font, a full disk."""

    def fail(*_):
        raise ValueError("no LaTeX\nand more")

    monkeypatch.setattr(figures, "draw_final", fail)
    (tmp_path / "correctness.png").mkdir()
    axes, told = {SHARE: (0.0, 0.5)}, []
    metrics = table(grid(axes), (0, 1, 2))
    paths = draw_all(
        metrics, NO_TAILS, summed(metrics, [SHARE]), [SHARE], "transformer", COLUMNS, tmp_path, told.append
    )
    assert {path.stem for path in paths} == {"overview", "diversity"}
    assert told == [
        f"{tmp_path}/final.png: could not be drawn: ValueError: no LaTeX",
        f"{tmp_path}/correctness.png: could not be drawn: Is a directory",
    ]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_users_own_style_changes_nothing(tmp_path):
    """A matplotlibrc with usetex and no LaTeX, or a dark style, would make of every figure another one, or none."""
    axes = {SHARE: (0.0, 0.5)}
    with matplotlib.rc_context({"text.usetex": True, "font.size": 40, "axes.facecolor": "black"}):
        paths = draw(table(grid(axes), (0, 1, 2)), [SHARE], tmp_path / "run" / "one")
    for path in paths:
        other = tmp_path / "run" / "other"
        draw(table(grid(axes), (0, 1, 2)), [SHARE], other)
        assert path.read_bytes() == (other / path.name).read_bytes()


@pytest.mark.parametrize("zero", ["one cell", "one seed", "all"])
def test_first_data_without_diversity_can_be_drawn(tmp_path, zero):
    """Axis limits that are not a number, where kept diversity is none."""
    axes = {SHARE: (0.0, 0.5), TEMPERATURE: (0.5, 1.0)}
    metrics = table(grid(axes), (0, 1, 2))
    where = {"one cell": metrics[SHARE] == 0.5, "one seed": metrics["seed"] == 1, "all": metrics["seed"] >= 0}[zero]
    metrics.loc[where, ["training_diversity", "diversity"]] = 0.0
    assert {path.stem for path in draw(metrics, list(axes), tmp_path)} >= ALL


def test_a_large_grid_is_bounded_and_says_what_is_left_out(tmp_path, monkeypatch):
    """400 cells were a picture of 64,035 pixels."""
    axes = {SHARE: tuple(place / 20 for place in range(20)), TEMPERATURE: tuple(1 + place / 20 for place in range(20))}
    cells = [*grid(axes), {"axes": {SHARE: 1.0, TEMPERATURE: 1.0}, "kept": level(1.0), "control": 1}]
    titles = []
    monkeypatch.setattr(figures, "write_figure", lambda figure, path: titles.append(figure) or write(figure, path))
    write = style.write_figure
    paths = draw(table(cells, (0,), generations=2), list(axes), tmp_path / "$\\frac$")
    assert {path.stem for path in paths} == {*ALL, "heat_map"}
    assert all(max(imread(path).shape) <= 4000 for path in paths)
    left_out = dict(zip((path.stem for path in paths), (figure.get_suptitle() for figure in titles), strict=True))
    assert "13 of 401 shown, all are in summary.csv" in left_out["overview"]
    assert "lines: 13 of 21 shown" in left_out["diversity"] and "panels: " in left_out["diversity"]
    assert "25 of 401 shown" in left_out["correctness"] and "shown" not in left_out["heat_map"]
    assert len(titles[0].axes) == 14 and len(titles[1].axes) <= 14


def test_a_long_axis_is_bounded_too():
    """Each of 10,000 learning rates had a marker, and an arrow of its own that takes 2 ms to draw."""
    of_cells, _ = frame_of(grid({SHARE: tuple(place / 150 for place in range(150))}), [SHARE])
    figure = draw_final(of_cells, [SHARE])
    shown = figure.axes[0].lines[0].get_xdata()
    assert len(shown) == 100 and shown[0] == 0 and shown[-1] == 149 and len(figure.axes[1].texts) <= 100
    assert "fresh share: 100 of 150 values shown" in figure.get_suptitle()


def frame_of(cells, axes):
    metrics = table(cells)
    return with_noise(pd.DataFrame(summed(metrics, axes)), COLUMNS).assign(**{LEARNER: "transformer"}), metrics


def test_the_heat_map_shows_each_cell_in_its_place():
    """Rows for columns, a control in the place of a cell, a value that is not there."""
    axes = [SHARE, TEMPERATURE]
    cells = grid({SHARE: (0.5, 0.0), TEMPERATURE: (1.5, 1.0, 0.5)})[:-1]
    cells += [
        {"axes": {SHARE: 1.0, TEMPERATURE: 1.0}, "kept": level(0.9, 0.0), "control": 1},
        {"axes": {SHARE: 0.5, TEMPERATURE: 1.5}, "kept": level(0.8, 0.0), "control": 1},
    ]
    of_cells, _ = frame_of(cells, axes)
    panel = draw_heat_map(of_cells, axes).axes[0]
    written = {text.get_position(): text.get_text() for text in panel.texts}
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "0.5", "1"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0.5", "1", "1.5"]
    kept = {
        (row[SHARE], row[TEMPERATURE]): row["kept_diversity"]
        for row in reversed(of_cells.to_dict("records"))  # a cell after the control in its place
    }
    places = {
        (0.0, 0.0): None,
        **{((0.0, 0.5, 1.0).index(x), (0.5, 1.0, 1.5).index(y)): v for (x, y), v in kept.items()},
    }
    assert written == {place: f"{value:.2f}" for place, value in places.items() if value is not None}


def test_the_map_of_what_is_right_has_a_line_where_errors_sum_to_one():
    """Catches kept diversity that is shown for what is right, and a line through other fields."""
    axes = [ACCEPT, REJECT]
    cells = grid({ACCEPT: (0.0, 0.1, 0.5), REJECT: (0.0, 0.5, 0.9)})
    for place, cell in enumerate(cells):
        cell["true"] = 0.1 * place
    of_cells, _ = frame_of(cells, axes)
    panel = draw_quality_map(of_cells, axes, COLUMNS).axes[0]
    written = {text.get_position(): text.get_text() for text in panel.texts}
    assert written == {(place // 3, place % 3): f"{0.1 * place:.2f}" for place in range(9)}
    (line,) = panel.lines
    drawn = np.transpose(line.get_data())
    # From a false accept of 0.1 and a false reject of 0.9 to 0.5 and 0.5, which are the fields (1, 2) and (2, 1).
    np.testing.assert_allclose(drawn[[0, -1]], [(1, 2), (2, 1)], atol=1e-9)
    assert draw_quality_map(of_cells.rename(columns={ACCEPT: SHARE}), [SHARE, REJECT], COLUMNS) is None


def test_what_has_not_collapsed_is_drawn_open_at_the_end():
    """A median that is not reached drawn as a time, at zero, or not at all."""
    cells = [
        {"axes": {SHARE: 0.0}, "kept": lambda seed, generation: 0.01 if generation >= 3 else 0.9},
        {"axes": {SHARE: 0.5}, "kept": level(0.9)},
    ]
    of_cells, _ = frame_of(cells, [SHARE])
    panel = draw_final(of_cells, [SHARE]).axes[1]
    closed, opened = (line for line in panel.lines if line.get_marker() == "o")
    assert (list(closed.get_xdata()), list(closed.get_ydata())) == ([0.0], [3])
    assert (list(opened.get_xdata()), list(opened.get_ydata())) == ([0.5], [8])
    assert opened.get_markerfacecolor() == "white" != closed.get_markerfacecolor()
    # Arrows: of the median that is not reached, and of the upper limit of the other, which five seeds never have.
    assert [text.xy for text in panel.texts] == [(0.0, 8.0), (0.5, 8.0)]


def test_the_diversity_of_noise_is_drawn_apart():
    """A loop that writes nothing but nonsense shown as the one that has kept most."""
    axes = [SHARE, TEMPERATURE]
    cells = grid({SHARE: (0.0, 0.5), TEMPERATURE: (0.5, 1.5)})
    cells[1]["true"] = cells[3]["true"] = 0.3
    of_cells, _ = frame_of(cells, axes)
    panel = draw_final(of_cells, axes).axes[0]
    opened = [line for line in panel.lines if line.get_markerfacecolor() == "white"]
    # Each temperature is a series over the fresh shares.
    kept = of_cells.set_index(axes)["kept_diversity"]
    assert [list(line.get_ydata()) for line in opened] == [[], [kept[0.0, 1.5], kept[0.5, 1.5]]]
    assert "open: under 0.8 of the samples true" in panel.get_title()
    map_panel, bar = draw_heat_map(of_cells, axes).axes
    written = {text.get_position(): text.get_text().startswith("(") for text in map_panel.texts}
    assert written == {(0, 0): False, (1, 0): False, (0, 1): True, (1, 1): True}
    assert "in brackets" in bar.get_ylabel()


@pytest.mark.parametrize(("seeds", "bands"), [((0, 1), 0), ((0, 1, 2), 1)])
def test_bands_from_three_seeds_on(seeds, bands):
    """A band of two seeds, which says nothing, or thin lines and a band on top of each other."""
    metrics = with_kept_diversity(
        table([{"axes": {SHARE: share}, "kept": level(share)} for share in (0.0, 0.5)], seeds)
    )
    panel = draw_diversity(metrics.assign(**{LEARNER: "transformer"}), [SHARE]).axes[0]
    assert len(panel.collections) == 2 * bands
    means = [line for line in panel.lines if line.get_marker() == "o"]
    assert [line.get_ydata()[-1] for line in means] == pytest.approx(
        [sum(level(share)(seed, 8) for seed in seeds) / len(seeds) for share in (0.0, 0.5)]
    )
    assert not math.isnan(means[0].get_ydata()[0])


def test_a_setting_that_follows_from_another_is_no_axis_of_its_own(tmp_path):
    """Four cycles of which each has its own share: a panel and a colour for each share, a heat map full of holes."""
    share = "cycle.generated_share"
    cycles = {"full_synthetic": None, "incremental": 0.25, "balanced": None, "expanding": 0.9}
    cells = [
        {"axes": {CYCLE: cycle, **({share: value} if value else {})}, "kept": level(0.2 * place)}
        for place, (cycle, value) in enumerate(cycles.items())
    ]
    axes = [CYCLE, share]
    metrics = table(cells)
    paths = draw_all(metrics, NO_TAILS, summed(metrics, axes), axes, "transformer", COLUMNS, tmp_path, no_warning)
    assert {path.stem for path in paths} == ALL
    of_cells, _ = frame_of(cells, axes)
    left = draw_final(of_cells, _free(of_cells, axes)).axes[0]
    labels = [tick.get_text() for tick in left.get_xticklabels()]
    assert labels == ["full synthetic", "incremental", "balanced", "expanding"]
    assert len(left.containers) == 1, "one series"
