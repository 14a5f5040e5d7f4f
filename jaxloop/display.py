"""What a run shows in the terminal: a live table of cells and a bar, or plain lines where there is no terminal."""

import time
from datetime import timedelta

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jaxloop.config import Loop
from jaxloop.loop import State
from jaxloop.programs import training_operations
from jaxloop.tables import cell_label

_REDRAW_SECONDS = 0.5


class RunDisplay:
    """The progress of one run; a context manager around it."""

    def __init__(self, name: str, console: Console):
        self._name, self._console = name, console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = None
        self._live = None
        self._newest: dict[int, dict] = {}
        self._labels: dict[int, str] = {}
        self._work: dict[int, float] = {}  # of a generation of each loop
        self._done = self._done_at_begin = 0.0
        self._began = self._drawn = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.update(self._content(), refresh=True)
            self._live.stop()

    def begin(self, loops: list[Loop], states: dict[int, State], metrics: pd.DataFrame) -> None:
        """Show where every loop stands."""
        self._labels = {loop.index: cell_label(loop.axes, loop.config.cycle.fresh_only) for loop in loops}
        for row in metrics.to_dict("records"):
            self._newest[int(row["loop"])] = row
        self._work = {loop.index: training_operations(loop.config) / loop.config.cycle.generations for loop in loops}
        # Reference learners train at no cost, and yet take their time.
        least = 1e-2 * max(self._work.values(), default=0) or 1.0
        self._work = {index: max(work, least) for index, work in self._work.items()}
        self._done = self._done_at_begin = sum(
            self._work[index] * (state.generation + 1) for index, state in states.items()
        )
        total = sum(self._work[loop.index] * loop.config.cycle.generations for loop in loops)
        self._task = self._bar.add_task(self._name, total=total, completed=self._done, left="")
        if states:
            finished = sum(state.generation + 1 for state in states.values())
            self._console.print(f"going on from {finished} finished generations")
        if self._console.is_terminal:
            self._live = Live(self._content(), console=self._console, auto_refresh=False)
            self._live.start()

    def watch(self, loops: list[Loop], generation: int, trained_share: float) -> None:
        """Move the bar by what is trained of the generation that is under way."""
        if self._live and time.monotonic() - self._drawn > _REDRAW_SECONDS:
            # Sampling and measuring are the rest of a generation, a tenth or so.
            self._move(self._done + 0.9 * trained_share * sum(self._work[loop.index] for loop in loops))

    def finished(self, loop: Loop, generation: int, columns: dict) -> None:
        """Show a generation's measures."""
        self._newest[loop.index] = columns
        self._done += self._work[loop.index]
        if self._live:
            self._move(self._done)
            return
        self._console.print(
            f"generation {generation:3d}   loop {loop.index} ({self._labels[loop.index]}, seed {loop.seed})   "
            f"true {columns['true_share']:.3f}   diversity {columns['diversity']:.3f}   {self._left(self._done)}",
            highlight=False,
            soft_wrap=True,
        )

    def answer(self, lines: list[str]) -> None:
        """Print what came out, below the table as it stands at the end."""
        self.__exit__()
        self._live = None
        print("\n".join(lines), flush=True)

    def warn(self, message: str) -> None:
        """Print a warning."""
        Console(stderr=True).print(f"jaxloop: {message}", soft_wrap=True, highlight=False, markup=False)

    def _left(self, done: float) -> str:
        total, made = self._bar.tasks[0].total, done - self._done_at_begin
        if made <= 0 or done >= total:
            return ""
        seconds = (time.monotonic() - self._began) * (total - done) / made
        return f"{timedelta(seconds=round(seconds))} left"

    def _move(self, done: float) -> None:
        self._drawn = time.monotonic()
        self._bar.update(self._task, completed=done, left=self._left(done))
        self._live.update(self._content(), refresh=True)

    def _content(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for title in ("cell", "loops", "generation", "true", "false", "invalid", "diversity", "unique"):
            table.add_column(title, justify="left" if title == "cell" else "right")
        by_label: dict[str, list[int]] = {}
        for index, label in self._labels.items():
            by_label.setdefault(label, []).append(index)
        for label, indices in by_label.items():
            rows = [self._newest[index] for index in indices if index in self._newest]

            def mean(column, rows=rows):
                return f"{sum(row[column] for row in rows) / len(rows):.3f}" if rows else "-"

            reached = f"{min(int(row['generation']) for row in rows)}" if len(rows) == len(indices) else "-"
            shares = (mean(column) for column in ("true_share", "false_share", "invalid_share", "diversity"))
            table.add_row(label, str(len(indices)), reached, *shares, mean("unique_share"))
        return Group(table, self._bar)
