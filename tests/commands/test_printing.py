"""Tables that commands print: what a narrow terminal and a pipe get of them."""

import io
import re

import pytest
from rich.console import Console

from jaxloop.commands.printing import show_summary
from jaxloop.systems.logic.columns import COLUMNS

AXES = ["cycle.fresh_share", "sample.temperature"]
ROW = {
    "cycle.fresh_share": 0.5,
    "sample.temperature": 0.7,
    "seeds": 5,
    "last_generation": 9,
    "collapsed_loops": 3,
    "collapse_criterion": "a criterion",
    **{"kept_diversity": 0.238, "kept_diversity_low": 0.017, "kept_diversity_high": 0.889},
    **{"true_share": 0.999, "true_share_low": 0.997, "true_share_high": 1.0},
    **{"collapse_generation": 8.0, "collapse_generation_low": 6.0, "collapse_generation_high": float("inf")},
}
NUMBERS = ("0.238", "(0.017", "0.889)", "0.999", "(0.997", "1.000)")


def shown(row: dict, axes: list[str], width: int | None) -> list[str]:
    out = io.StringIO()
    show_summary([row] * 3, axes, COLUMNS, Console(file=out, width=width or 80, force_terminal=width is not None))
    return re.sub("\x1b\\[[0-9;]*m", "", out.getvalue()).splitlines()


@pytest.mark.parametrize(("width", "measures"), [(200, 2), (80, 2), (60, 2), (50, 1), (30, 0), (5, 0)])
def test_a_narrow_terminal_loses_columns_and_no_part_of_a_number(width, measures):
    """`0.…` in place of a number, in five columns of one word each."""
    lines = shown(ROW, AXES, width)
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    words = " ".join(table).split()
    assert max(map(len, table), default=0) <= width and "…" not in "".join(lines)
    assert [words.count(number) for number in NUMBERS] == [3] * 3 * measures + [0] * (6 - 3 * measures)
    missing = [line for line in lines if line.startswith("no room for: ")]
    assert len(missing) == (width < 100) and ("kept diversity" in "".join(missing)) == (measures == 0)


def test_a_pipe_gets_every_column_and_no_folded_row():
    """A table of many axes that is folded to the width of a terminal that is not there, or loses columns to it."""
    axes = [f"cycle.an_axis_of_some_length_{place}" for place in range(20)]
    lines = shown(ROW | dict.fromkeys(axes, 0.5), axes, None)
    assert len(lines) == 3 + 3 + 1 + 1 and len(set(map(len, lines[:7]))) == 1
    assert all(number in lines[3] for number in NUMBERS) and lines[1].count("an axis of some length") == 20
