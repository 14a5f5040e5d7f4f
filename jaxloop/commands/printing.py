"""Tables that commands print: of measurements, summaries and plans."""

import math
import textwrap
from datetime import timedelta

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jaxloop.analysis.cells import axis_name, cell_label, is_unset
from jaxloop.analysis.columns import Columns
from jaxloop.commands.frequent_samples import Frequent
from jaxloop.config.schema import Config, Loop, loops
from jaxloop.errors import printable
from jaxloop.runs.costs import total
from jaxloop.runs.plan import Plan, ProgramPlan
from jaxloop.runs.resources import Disk, memory, size_text

# Of cells, and of programs.
_MOST_ROWS = 30


def show_measurements(results: dict, console: Console) -> None:
    """One table of everything that was measured; medians with the least and the greatest of the repeats."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for section, content in results.items():
        if section == "config":
            continue
        rows = list(_measurement_rows(content))
        table.add_row(f"[bold]{section.replace('_', ' ')}", "" if rows[0][0] else rows[0][1])
        for name, value in rows if rows[0][0] else []:
            table.add_row(f"  {name.replace('_', ' ')}", value)
    console.print(table)


def _measurement_rows(content, name: str = ""):
    """(name, value) for everything in nested dictionaries and lists."""
    if isinstance(content, dict) and content.keys() == {"median", "least", "greatest"}:
        least, median, greatest = (_short(content[key]) for key in ("least", "median", "greatest"))
        yield name, f"{median}  ({least} to {greatest})"
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _measurement_rows(value, f"{name}: {key}" if name else key)
    elif isinstance(content, list):
        for place, value in enumerate(content, start=1):
            yield from _measurement_rows(value, f"{name} {place}")
    else:
        yield name, _short(content)


def _short(value) -> str:
    if not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def show_summary(rows: list[dict], axes: list[str], columns: Columns, console: Console) -> None:
    """Print the rows of summary.csv that matter most, with their intervals."""
    settings, counts = [*map(axis_name, axes)], ["seeds", "generation"]
    shown = {"kept_diversity": ".3f", **({columns.right: ".3f"} if columns.right else {}), "collapse_generation": "g"}
    right = [columns.right.replace("_", " ")] if columns.right else []
    measured = ["kept diversity", *right, "collapsed", "generation of collapse"]
    cells = [[*settings, *counts, *measured]]
    for row in rows:
        kept, *share, reached = (
            _with_interval(
                row.get(name, math.nan), row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan), form
            )
            for name, form in shown.items()
        )
        values = ["" if is_unset(row[axis]) else str(row[axis]).replace("_", " ") for axis in axes]
        collapsed = f"{row['collapsed_loops']} of {row['seeds']}"
        cells.append([*values, str(row["seeds"]), str(row["last_generation"]), kept, *share, collapsed, reached])
    first = len(settings)
    # Where there is no room for all columns, the last of these go first.
    places = {name: first + place for place, name in enumerate(cells[0][first:])}
    last = ("kept diversity", "collapsed", *right, "generation of collapse", "seeds", "generation")
    importance = [*range(first), *(places[name] for name in last)]
    console.print(table := _fitting_table(cells, importance, console))
    left_out = [name for name in cells[0] if name not in {column.header for column in table.columns}]
    if left_out:
        console.print(f"no room for: {', '.join(left_out)}", highlight=False, soft_wrap=True)
    if rows:
        console.print(f"collapse: {rows[0]['collapse_criterion']}; intervals: 95%", highlight=False, soft_wrap=True)


def _fitting_table(cells: list[list[str]], importance: list[int], console: Console) -> Table:
    """A table, its first row the header, as wide as a terminal at most: it drops columns before it cuts a word.

    Args:
      cells: rows of texts.
      importance: the columns, those that are dropped last first.
      console: where it is for; without a terminal nothing need be folded or dropped.
    """
    columns = list(zip(*cells, strict=True))
    wanted = [max(map(len, column)) for column in columns]
    least = [max(len(word) for text in column for word in text.split() or [""]) for column in columns]
    borders = 3
    if not console.is_terminal:
        console.width = max(console.width, sum(wanted) + borders * len(columns) + 1)
    room, kept = console.width - 1, []
    for place in importance:
        if least[place] + borders > room:
            break
        room -= least[place] + borders
        kept.append(place)
    table = Table()
    for place in sorted(kept):
        more = min(wanted[place] - least[place], room)
        room -= more
        table.add_column(columns[place][0], width=least[place] + more)
    for row in cells[1:]:
        table.add_row(*(Text(printable(row[place])) for place in sorted(kept)))
    return table


def _with_interval(value: float, low: float, high: float, form: str) -> str:
    """A number with its interval, where there are such; a time that is not reached in words."""
    shown, *limits = (
        words if math.isinf(one) and form == "g" else f"{one:{form}}"
        for one, words in ((value, "not reached"), (low, "no limit"), (high, "no limit"))
    )
    if math.isnan(value):
        return "not measured"
    # An interval from never to never says nothing more.
    return shown if math.isnan(low) or math.isinf(low) else f"{shown} ({' to '.join(limits)})"


def show_frequent(loop: Loop, generations: list[Frequent], console: Console) -> None:
    """Print the most frequent samples of generations side by side, as many beside each other as can be read."""
    label = cell_label(loop.axes, loop.config.cycle.fresh_only)
    console.print(Text(printable(f"loop {loop.index} ({label}, seed {loop.seed})")), soft_wrap=True)
    beside, lines = len(generations), _MOST_LINES
    if console.is_terminal:
        numbers = max(_frequent_overhead(one) for one in generations)
        beside = max(1, min(beside, console.width // (numbers + _LEAST_TEXT)))
        text_width = max(console.width // beside - numbers, 1)
    else:
        # Without a terminal nothing need be folded to a width.
        text_width, lines = _MOST_TEXT, 1
        console.width = len(generations) * (_MOST_TEXT + 100)
    for first in range(0, len(generations), beside):
        columns = Table.grid(padding=(0, 3, 0, 0), pad_edge=False)
        columns.add_row(*(_frequent_column(one, text_width, lines) for one in generations[first : first + beside]))
        console.print()
        console.print(columns)


_LEAST_TEXT, _MOST_TEXT, _MOST_LINES = 12, 160, 3


def _frequent_overhead(one: Frequent) -> int:
    """Characters that a column of samples takes beside their texts."""
    return len(f"{one.top[0][1]:,}") + max(len(judged) for _, _, judged in one.top) + 5


def _frequent_column(one: Frequent, text_width: int, lines: int) -> Group:
    """A generation: how much is alike, and its most frequent samples."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for text, count, judged in one.top:
        table.add_row(f"{count:,}", judged, _cut(text or "(nothing)", text_width, lines))
    heads = [
        f"generation {one.generation}",
        f"{one.top[0][1]:,} of {one.samples:,} the same",
        f"{one.different:,} different",
    ]
    return Group(Text(heads[0], "bold"), *map(Text, heads[1:]), table)


def _cut(text: str, width: int, lines: int) -> Text:
    """A text, without its end where it is longer than so many lines of this width."""
    return Text("\n".join(textwrap.wrap(text, max(width, 8), max_lines=lines, placeholder=" ...")))


def show_plan(config: Config, planned: Plan, disk: Disk, console: Console) -> None:
    """Print the cells of a run, its programs, and what they are expected to cost."""
    console.width = console.width if console.is_terminal else max(console.width, 200)
    of_cell: dict[str, list] = {}
    for loop in loops(config):
        of_cell.setdefault(cell_label(loop.axes, loop.config.cycle.fresh_only), []).append(loop)
    cells = Table(title=f"{len(of_cell):,} cells, {sum(map(len, of_cell.values())):,} loops", title_justify="left")
    for name in ("cell", "seeds", "generations", "program"):
        cells.add_column(name, justify="left" if name == "cell" else "right")
    program_of = {loop.index: place for place, one in enumerate(planned.programs, 1) for loop in one.program.loops}
    for label, of_label in list(of_cell.items())[:_MOST_ROWS]:
        generations = of_label[0].config.cycle.generations
        cells.add_row(label, str(len(of_label)), str(generations), str(program_of[of_label[0].index]))
    _say_left_out(cells, len(of_cell))
    console.print(cells)

    trained = sum(one.parameters > 0 for one in planned.programs)
    others = len(planned.programs) - trained
    title = f"{trained:,} training program{'' if trained == 1 else 's'}, {others:,} of reference learners"
    programs = Table(title=title, title_justify="left")
    columns = ("program", "what", "parameters", "loops", "at once", "a generation", "all", "measuring", "device memory")
    for name in columns:
        programs.add_column(name, justify="left" if name == "what" else "right")
    for place, one in enumerate(planned.programs[:_MOST_ROWS], start=1):
        learner = one.program.config.learner.name
        programs.add_row(
            str(place),
            _what_is_alike(one, config.axes) or learner.replace("_", " "),
            f"{one.parameters:,}" if one.parameters else "",
            f"{len(one.program.loops):,}",
            str(one.loops_at_once),
            f"{one.generation_seconds:.2g} s",
            _duration(one.seconds),
            _duration(one.measure_seconds),
            size_text(one.device_bytes) if one.device_bytes else "",
        )
    _say_left_out(programs, len(planned.programs))
    console.print(programs)
    compile_seconds = sum(one.compile_seconds for one in planned.programs)
    needed, there = total(planned.memory), memory()
    lines = [
        f"time: about {_duration(planned.seconds)}, where all is compiled; compiling took {compile_seconds:.0f} s and "
        "is kept for the run",
        f"memory: about {size_text(needed)}; {there.limit} {size_text(there.most_bytes)}, "
        f"{size_text(there.held_bytes + there.free_bytes)} are free",
        f"disk: about {size_text(planned.disk_bytes)} in {planned.files:,} files; {size_text(disk.free_bytes)} free",
    ]
    lines += planned.warnings
    if planned.disk_bytes > disk.free_bytes or planned.files > (disk.free_files or math.inf):
        lines.append("the disk will be full before the run ends: name a folder on another one with --out")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _say_left_out(table: Table, count: int) -> None:
    if count > _MOST_ROWS:
        table.add_row(f"and {count - _MOST_ROWS:,} more")


def _what_is_alike(one: ProgramPlan, axes: list[str]) -> str:
    """The values of axes that all loops of a program share."""
    first, *others = (loop.axes for loop in one.program.loops)
    alike = {axis: first[axis] for axis in axes if all(other[axis] == first[axis] for other in others)}
    return cell_label(alike) if alike else ""


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=max(round(seconds), 1)))
