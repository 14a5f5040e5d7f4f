"""What a run shows, without a run: a clock of our own says how long everything takes."""

import io
import re
import sys

import pandas as pd
import pytest
from rich.console import Console
from tiny import tiny_config

from jaxloop.config.schema import loops
from jaxloop.runs import progress
from jaxloop.runs.progress import RunDisplay
from jaxloop.runs.terminal import make_console
from jaxloop.systems.logic.columns import COLUMNS

THREE_CELLS = ["grid={'cycle.fresh_share' = [0.0, 0.5, 1.0]}", "learner.name=resample"]
# 400, with names that need folding.
_SHARES = [place / 40 for place in range(20)]
_MASSES = [place / 40 for place in range(1, 21)]
MANY_CELLS = [
    f"grid={{'cycle.fresh_share' = {_SHARES}, 'cycle.first_mass_share' = {_MASSES}}}",
    "learner.name=resample",
]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def measures(generation: int, value: float = 0.5) -> dict:
    names = ("true_share", "false_share", "invalid_share", "diversity", "unique_share")
    return {"generation": generation, **dict.fromkeys(names, value)}


def displayed(all_loops, generations, seconds, clock, width=None, height=25):
    """The output of a run whose generations of all loops take so many seconds each, and the progress."""
    out = io.StringIO()
    console = Console(file=out, width=width or 80, height=height, force_terminal=width is not None)
    shown = RunDisplay("run", console)
    shown.begin(all_loops, {}, pd.DataFrame(), COLUMNS)
    for generation in range(generations):
        for share in (0.0, 0.5, 1.0):
            clock[0] += seconds(generation) / 2 if share else 0
            shown.watch(all_loops, generation, share)
        for loop in all_loops:
            shown.finished(loop, generation, measures(generation))
    return out, shown


def lines_of(content, width) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(content)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("seconds", "most_lines"), [(0.001, 2), (1, 5), (9, 21), (11, 40), (1000, 40)], ids=lambda value: f"{value}"
)
def test_without_a_terminal_a_line_a_generation_or_one_in_ten_seconds(clock, seconds, most_lines):
    """A line for each loop and generation: 117 of `quick`, 500,000 of a large grid, in a notebook's cell or a log."""
    all_loops = loops(tiny_config(*THREE_CELLS, "cycle.generations=40"))
    assert len(all_loops) == 3
    lines = displayed(all_loops, 40, lambda _: seconds, clock)[0].getvalue().splitlines()
    assert lines.pop(0).startswith("on ")
    assert 1 <= len(lines) <= min(most_lines, 40 * seconds / 10 + 2)
    assert all(re.match(r"\d+ of 120 generations: true 0\.500, diversity 0\.500(; .* left)?$", line) for line in lines)
    assert lines[-1].startswith("120 of 120 ") and max(map(len, lines)) <= 80


class Stream(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "environment", "moves_its_cursor"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm-color", "JPY_PARENT_PID": "7", "FORCE_COLOR": "1"}, False),
        (True, {"TERM": "xterm-color", "CLICOLOR": "1", "PAGER": "cat", "GIT_PAGER": "cat"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm", "FORCE_COLOR": "1"}, False),
        (False, {"TERM": "xterm", "TTY_COMPATIBLE": "1"}, False),
    ],
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_only_a_terminal_that_moves_its_cursor_is_one(monkeypatch, name, is_terminal, environment, moves_its_cursor):
    """Redraws one below the other, 3,000 lines of them, in the cell of a notebook; colours in a pipe."""
    for variable in ("TERM", "JPY_PARENT_PID", "FORCE_COLOR", "CLICOLOR", "PAGER", "GIT_PAGER", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, name, Stream(is_terminal))
    console = make_console(stderr=name == "stderr")
    assert console.is_terminal == moves_its_cursor
    assert (console.color_system is not None) == moves_its_cursor
    assert console.file is getattr(sys, name)


@pytest.mark.parametrize(("width", "height"), [(200, 60), (80, 24), (50, 20), (40, 12), (24, 10), (10, 3)])
def test_the_bar_is_in_sight_and_no_number_is_cut(clock, width, height):
    """A bar below the edge of the screen, a table longer than it, `0.…` in place of a number; cells left out without
    a word.
    """
    all_loops = loops(tiny_config(*MANY_CELLS, "cycle.generations=9"))
    assert len(all_loops) == 400
    _, shown = displayed(all_loops, 4, lambda _: 10.0, clock, width, height)
    lines = lines_of(shown._content(shown._done), width)
    assert len(lines) <= max(height - 1, 3) and max(map(len, lines)) <= width
    if width >= 24:
        assert "44%" in lines[0] and "0:00:50 left" in lines[0]
    text = "\n".join(lines)
    assert "…" not in text and ("0.500" in text or width < 40)
    titles = [title for title in lines[1].split() if title in ("true", "false", "invalid", "diversity", "unique")]
    assert text.count("0.500") == len(titles) * (cells := 400 - int(re.search(r"(\d+) more", text)[1]))
    assert cells >= (height - 4) // 4
    assert (len(titles) == 5) == (width == 200) and (len(titles) >= 2 or width < 40)


def test_a_redraw_costs_no_more_with_many_cells(clock, monkeypatch):
    """A run of 10,000 cells that spends its time in drawing them, of which 20 are in sight."""
    all_loops = loops(tiny_config(*MANY_CELLS, "cycle.generations=9"))
    _, shown = displayed(all_loops, 2, lambda _: 10.0, clock, 80, 24)
    asked, labels = [], []
    values, wrap = progress._Cell.values, progress.textwrap.wrap
    monkeypatch.setattr(progress._Cell, "values", lambda cell: asked.append(cell) or values(cell))
    monkeypatch.setattr(progress.textwrap, "wrap", lambda label, width: labels.append(label) or wrap(label, width))
    drawn = []
    monkeypatch.setattr(shown, "_draw", drawn.append)
    shown._content(shown._done)
    assert len(asked) <= 24 and len(labels) <= 48
    for loop in all_loops:
        shown.finished(loop, 2, measures(2))
    assert len(drawn) <= 1


def test_the_time_left_leaves_compilation_out(clock):
    """An estimate of an hour at the start, for what compiles once; none may come before there is a ground for it."""
    all_loops = loops(tiny_config(*THREE_CELLS, "cycle.generations=10"))
    seconds = [100, *[2] * 9]
    for generations, left in ((1, ""), (2, "0:00:16 left"), (6, "0:00:08 left"), (10, "")):
        assert (said := displayed(all_loops, generations, seconds.__getitem__, clock)[1])._left(said._done) == left


def test_a_row_is_the_mean_of_its_loops(clock):
    """Sums that are kept up to date and drift away from the newest measures, or count a loop twice."""
    all_loops = loops(tiny_config(*THREE_CELLS, "cycle.generations=10", "seeds=[0,1,2]"))
    shown = RunDisplay("run", Console(file=io.StringIO(), width=80))
    before = [{"loop": loop.index, **measures(generation, 0.9)} for loop in all_loops for generation in (0, 1)]
    shown.begin(all_loops, {}, pd.DataFrame(before), COLUMNS)
    cell = next(iter(shown._cells.values()))
    assert cell.values()["generation"] == "1" and cell.values()["true"] == "0.900"
    for generation, value in ((2, 0.3), (3, 0.0)):
        shown.finished(all_loops[0], generation, measures(generation, value))
    assert cell.values() == {"loops": "3", "generation": "1", **dict.fromkeys(progress._shown(COLUMNS), "0.600")}
    for loop in all_loops[:3]:
        shown.finished(loop, 4, measures(4, 0.0))
    assert cell.values() == {"loops": "3", "generation": "4", **dict.fromkeys(progress._shown(COLUMNS), "0.000")}
