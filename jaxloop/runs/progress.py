"""Progress of a run: a bar and a live table in a terminal or a notebook, elsewhere a plain line now and then."""

import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain, islice

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jaxloop.analysis.cells import cell_label
from jaxloop.analysis.columns import Columns
from jaxloop.config.schema import Loop
from jaxloop.errors import printable
from jaxloop.loop.interfaces import State
from jaxloop.runs.environment import devices_in_words
from jaxloop.runs.notebook import HEIGHT, WIDTH, NotebookLive, in_kernel
from jaxloop.runs.programs import training_operations
from jaxloop.runs.terminal import make_console

_REDRAW_SECONDS = 0.5
_LINE_SECONDS = 10.0
_BAR_WIDTHS = 10, 40
_LEAST_CELL_WIDTH = 18


def _shown(columns: Columns) -> dict[str, str]:
    """The columns of metrics.csv that the table has, by their titles."""
    parts = {title: name for name, title in columns.parts.items()}
    return {**parts, "diversity": columns.diversity, **({"unique": columns.unique} if columns.unique else {})}


def _by_importance(columns: Columns) -> list[str]:
    """The titles of the table; where there is no room for all, the last of these go first."""
    first, *rest = [*columns.parts.values()] or [None]
    unique = "unique" if columns.unique else None
    named = ["diversity", "generation", first, unique, *rest[::-1][:-1], "loops", *rest[:1]]
    return [title for title in named if title]


class _Cell:
    """Where the loops of a cell stand, kept up to date so that a redraw need not ask them all."""

    def __init__(self, label: str, shown: dict[str, str]):
        self.label, self.loops, self.unfinished = label, 0, 0
        self._shown = shown
        self._newest: dict[int, dict] = {}
        self._reached = Counter()
        self._sums = dict.fromkeys(shown.values(), 0.0)

    def tell(self, loop: int, columns: dict) -> None:
        """Take the newest measures of a loop in place of those before."""
        for row, sign in ((self._newest.get(loop), -1), (columns, 1)):
            if row is not None:
                self._reached[int(row["generation"])] += sign
                for name in self._sums:
                    self._sums[name] += sign * row[name]
        self._reached = +self._reached
        self._newest[loop] = columns

    def values(self) -> dict[str, str]:
        """What stands in its row, by title."""
        known = len(self._newest)
        # What is taken off a sum may leave a zero with a sign.
        means = {title: f"{abs(self._sums[name]) / known:.3f}" if known else "-" for title, name in self._shown.items()}
        reached = str(min(self._reached)) if known and known == self.loops else "-"
        return {"loops": str(self.loops), "generation": reached, **means}


class RunDisplay:
    """The progress of one run; a context manager around it."""

    def __init__(self, name: str, console: Console):
        self._name, self._console = printable(name), console
        self._live: Live | NotebookLive | None = None
        self._cells: dict[str, _Cell] = {}
        self._under_way: dict[str, _Cell] = {}  # begun in this session, and not finished
        self._cell_of: dict[int, _Cell] = {}
        self._place: dict[str, int] = {}
        self._work: dict[int, float] = {}  # of a generation of each loop
        self._done = self._total = 0.0
        self._finished = self._resumed = self._generations = 0
        self._shown_at_finished, self._shown = 0, -_LINE_SECONDS
        self._range: dict[str, list[float]] = {}  # of what was measured since the last line
        self._began = self._drawn = time.monotonic()
        self._counts_from: tuple[float, float, int] | None = None
        self._titles, self._importance, self._told = (), [], {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end_live()

    def _end_live(self) -> None:
        """Leave the last picture standing, so that whatever is printed comes below it."""
        if self._live:
            live, self._live = self._live, None
            live.update(self._content(self._done), refresh=True)
            live.stop()

    def begin(self, loops: list[Loop], states: dict[int, State], metrics: pd.DataFrame, columns: Columns) -> None:
        """Show what is computed on, and where every loop stands."""
        shown = _shown(columns)
        self._titles, self._importance = ("loops", "generation", *shown), _by_importance(columns)
        self._told = dict(list(shown.items())[:1]) | {"diversity": columns.diversity}
        self._console.print(f"on {devices_in_words()}", highlight=False)
        for loop in loops:
            label = printable(cell_label(loop.axes, loop.config.cycle.fresh_only))
            cell = self._cell_of[loop.index] = self._cells.setdefault(label, _Cell(label, shown))
            done = states[loop.index].generation + 1 if loop.index in states else 0
            cell.loops += 1
            cell.unfinished += max(loop.config.cycle.generations - done, 0)
        self._place = {label: place for place, label in enumerate(self._cells)}
        if len(metrics):
            for row in metrics.loc[metrics.groupby("loop")["generation"].idxmax()].to_dict("records"):
                if int(row["loop"]) in self._cell_of:
                    self._cell_of[int(row["loop"])].tell(int(row["loop"]), row)
        self._work = {loop.index: training_operations(loop.config) / loop.config.cycle.generations for loop in loops}
        # Reference learners train at no cost, and yet take their time.
        least = 1e-2 * max(self._work.values(), default=0) or 1.0
        self._work = {index: max(work, least) for index, work in self._work.items()}
        self._done = sum(self._work[index] * (state.generation + 1) for index, state in states.items())
        self._total = sum(self._work[loop.index] * loop.config.cycle.generations for loop in loops)
        self._finished = self._resumed = self._shown_at_finished = sum(
            state.generation + 1 for state in states.values()
        )
        self._generations = sum(loop.config.cycle.generations for loop in loops)
        if states:
            self._console.print(f"going on from {self._finished} finished generations", highlight=False)
        if in_kernel():
            self._live = NotebookLive(self._content(self._done))
        elif self._console.is_terminal:
            self._live = Live(self._content(self._done), console=self._console, auto_refresh=False)
        if self._live:
            self._live.start()

    def watch(self, loops: list[Loop], generation: int, trained_share: float) -> None:
        """Move the bar by what is trained of the generation that is under way."""
        if not self._counts_from and self._finished > self._resumed:
            # The first generation, and all compilation, is over: the next one is being computed.
            self._counts_from = time.monotonic(), self._done, self._finished
        if self._live and time.monotonic() - self._drawn > _REDRAW_SECONDS:
            # Sampling and measuring are the rest of a generation, a tenth or so.
            self._draw(self._done + 0.9 * trained_share * sum(self._work[loop.index] for loop in loops))

    def finished(self, loop: Loop, generation: int, columns: dict) -> None:
        """Show a generation's measures."""
        cell = self._cell_of[loop.index]
        cell.tell(loop.index, columns)
        cell.unfinished -= 1
        self._under_way[cell.label] = cell
        if cell.unfinished == 0:
            del self._under_way[cell.label]
        self._done += self._work[loop.index]
        self._finished += 1
        if self._live:
            if time.monotonic() - self._drawn > _REDRAW_SECONDS / 5:
                self._draw(self._done)
            return
        for name in self._told.values():
            self._range.setdefault(name, []).append(columns[name])
        is_round = self._finished - self._shown_at_finished >= len(self._cell_of)
        if (is_round and time.monotonic() - self._shown >= _LINE_SECONDS) or self._finished == self._generations:
            self._show_line()

    def warn(self, message: str) -> None:
        """Print a warning."""
        make_console(stderr=True).print(f"jaxloop: {printable(message)}", soft_wrap=True, highlight=False, markup=False)

    def _show_line(self) -> None:
        """Print where the run stands, and what was measured since the last time."""
        self._shown, self._shown_at_finished = time.monotonic(), self._finished
        ranges = [
            f"{title} {' to '.join(dict.fromkeys(f'{value:.3f}' for value in (min(values), max(values))))}"
            for title, values in ((title, self._range[name]) for title, name in self._told.items())
        ]
        self._range = {}
        left = self._left(self._done)
        self._console.print(
            f"{self._finished} of {self._generations} generations: {', '.join(ranges)}{f'; {left}' if left else ''}",
            highlight=False,
            soft_wrap=True,
        )

    def answer(self, lines: list[str]) -> None:
        """Print what came out, below the table as it stands at the end."""
        self._end_live()
        print("\n".join(map(printable, lines)), flush=True)

    def _left(self, done: float) -> str:
        """How much time is left, once a generation is done that compiled nothing."""
        if not self._counts_from or done >= self._total:
            return ""
        began, done_then, finished_then = self._counts_from
        if self._finished == finished_then:
            return ""
        seconds = (time.monotonic() - began) * (self._total - done) / (done - done_then)
        return f"{timedelta(seconds=round(seconds))} left"

    def _draw(self, done: float) -> None:
        if self._live:
            self._live.update(self._content(done), refresh=True)
        self._drawn = time.monotonic()

    def _content(self, done: float) -> Group:
        """The bar first, so that it is in sight, and as many cells as the screen has lines for."""
        width, height = (WIDTH, HEIGHT) if in_kernel() else self._console.size
        return Group(self._bar_line(done, width), *self._table(width, height - 4))

    def _bar_line(self, done: float, width: int) -> Table:
        """Share and time left; name, bar and time spent where there is room."""
        share = f"{done / self._total if self._total else 1:.0%}"
        spent = str(timedelta(seconds=int(time.monotonic() - self._began)))
        left = self._left(done)
        left = left if len(share) + 1 + len(left) <= width else ""
        room = width - len(share) - len(left) - 2
        bar_width = min(max(room - len(self._name) - len(spent) - 3, _BAR_WIDTHS[0]), _BAR_WIDTHS[1])
        parts: list = [share, left]
        if room > bar_width:
            parts.insert(0, ProgressBar(self._total or 1, done if self._total else 1, width=bar_width))
            room -= bar_width + 1
            if room > len(self._name):
                parts.insert(0, Text(self._name))
                room -= len(self._name) + 1
            if room > len(spent):
                parts.insert(-1, spent)
        line = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        line.add_row(*parts)
        return line

    def _table(self, width: int, lines: int) -> Iterator[Table | Text]:
        """The table of cells, those that are under way first to be shown, and how many are not shown."""
        candidates = list(islice(chain(self._under_way, self._cells), 2 * max(lines, 1)))
        # Columns go before names are folded, but names are folded before they take half of the screen.
        room, titles = width - min(max(map(len, candidates), default=0), max(_LEAST_CELL_WIDTH, width * 2 // 5)), []
        for title in self._importance:
            if room >= _title_width(title):
                room -= _title_width(title)
                titles.append(title)
        titles = [title for title in self._titles if title in titles]
        cell_width = max(width - sum(map(_title_width, titles)), 8)
        shown: dict[str, list[str]] = {}
        for label in candidates:
            folded = textwrap.wrap(label, cell_width) or [""]
            if label not in shown and len(folded) <= lines:
                shown[label] = folded
                lines -= len(folded)
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column()
        for _ in titles:
            table.add_column(justify="right", no_wrap=True)
        table.add_row(*(Text(title, "bold") for title in ("cell", *titles)))
        for label in sorted(shown, key=self._place.__getitem__):
            values = self._cells[label].values()
            table.add_row(Text("\n".join(shown[label])), *(values[title] for title in titles))
        yield table
        if left_out := len(self._cells) - len(shown):
            more = f"{left_out:,} more cell{'' if left_out == 1 else 's'}, not shown"
            yield Text(more, "dim", no_wrap=True, overflow="crop")


def _title_width(title: str) -> int:
    """Of a column of numbers, with the gap before it."""
    return max(len(title), len("0.000")) + 2
