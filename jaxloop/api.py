"""jaxloop from Python: run, open a folder, look. All of it is public; the package hands it on.

import jaxloop

run = jaxloop.run("quick", seeds=[0, 1, 2], settings={"cycle.fresh_share": 0.25})
run.metrics, run.tails, run.summary
run.samples(loop=0, generation=4)
run.figure("overview")
run.answer
"""

import contextlib
import functools
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxloop.analysis.columns import Column, Columns
from jaxloop.config.imports import path_of
from jaxloop.config.presets import configured, preset_names, purpose
from jaxloop.config.schema import Config, LearnerSettings, SystemSettings, describe
from jaxloop.errors import DamageError, InputError, RunError
from jaxloop.loop.curation import Curator
from jaxloop.loop.interfaces import Seconds, Task, Written
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.memories import Carry, Memory
from jaxloop.loop.rows import Rows, draw, join
from jaxloop.report.answer import answer_lines
from jaxloop.runs.derived import Analysis, analyse
from jaxloop.runs.progress import RunDisplay
from jaxloop.runs.runner import run as run_config
from jaxloop.runs.stored import StoredRun
from jaxloop.runs.terminal import make_console
from jaxloop.systems.interfaces import Measured, Measures, RowFormat, System
from jaxloop.systems.registry import system_of

# What a run is looked at with, and what parts of one's own are made of; jaxloop/README.md has an example of each.
__all__ = [
    "Carry", "Column", "Columns", "Config", "Curator", "DamageError", "InputError", "LearnerSettings", "Measured",
    "Measures", "Memory", "Purpose", "RowFormat", "Rows", "Run", "RunError", "Seconds", "System", "SystemSettings",
    "Task", "Written", "draw", "host_generator", "join", "open_run", "presets", "run", "settings",
]  # fmt: skip


class Answer(str):
    """The lines of an answer, which show themselves as such."""

    def __repr__(self) -> str:
        return str(self)


class Picture:
    """A figure that shows itself in a notebook, whatever Matplotlib is set to there."""

    def __init__(self, figure):
        """Keep a `matplotlib.figure.Figure`."""
        self.figure = figure

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.figure.savefig(content, format="png", dpi=100)
        return content.getvalue()

    def save(self, path: str | Path, **options: Any) -> None:
        """Write it to a file, in the format that its name ends with; options are those of `Figure.savefig`."""
        self.figure.savefig(path, **options)


class Run:
    """A run folder to look at, finished or not; see `open_run`.

    It shows the folder as it was when it was asked for the first time; `open_run` again sees later generations. All of
    it is held against the seals of the folder, and nothing that a folder names is imported.

    Raises:
      InputError: there is no run.
      DamageError: of what is asked for something is not what the run wrote.
    """

    def __init__(self, path: str | Path):
        """Open a run folder."""
        self._stored = StoredRun(Path(path).expanduser())

    @property
    def path(self) -> Path:
        """The folder."""
        return self._stored.path

    @property
    def config(self) -> Config:
        """The settings of the run, its seeds and its grid."""
        return self._stored.config

    @functools.cached_property
    def _analysis(self) -> Analysis:
        found = analyse(self._stored)
        if found is None:
            raise InputError(f"{self.path}: has no results yet; they come with the first generation")
        return found

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each loop and generation, as in metrics.csv."""
        return self._analysis.metrics.copy()

    @property
    def tails(self) -> pd.DataFrame:
        """Survival of the source's tails: a row for each loop, generation and class, as in tails.csv."""
        return self._analysis.tails.copy()

    @property
    def summary(self) -> pd.DataFrame:
        """What each cell came to, with its uncertainty over seeds: a row for each cell, as in summary.csv."""
        return pd.DataFrame(self._analysis.derived["summary"])

    @property
    def collapse(self) -> pd.DataFrame:
        """For each loop and meaning of the word when it collapsed, as in collapse.csv, but for its last column.

        `collapsed` says whether it did, and `generation` in which, or up to which it was watched; -1: never.
        """
        rows = [dict(row) for row in self._analysis.derived["collapse"]]
        for row in rows:
            row["generation"], row["collapsed"] = row.pop("met_in_generation")
        return pd.DataFrame(rows)

    @functools.cached_property
    def answer(self) -> Answer:
        """What came out, in words: the cells ranked, trends, and when they collapsed."""
        found, config = self._analysis, self.config
        axes, learner = config.axes, config.learner.name
        lines = answer_lines(found.metrics, found.derived["collapse"], axes, learner, found.columns)
        return Answer("\n".join(lines))

    def samples(self, loop: int = 0, generation: int | None = None) -> list[str]:
        """All that a loop wrote in a generation, as texts.

        Args:
          loop: its number, the column `loop` of `metrics`.
          generation: which one; by default the newest.

        Raises:
          InputError: there is no such loop or generation.
          DamageError: they are not what the run wrote.
        """
        system = system_of(self.config)
        return system.texts(self.sample_arrays(loop, generation)[system.row_format(self.config).name])

    def sample_arrays(self, loop: int = 0, generation: int | None = None) -> dict[str, np.ndarray]:
        """The same as arrays by name: the rows, and what is stored of each, such as `log_prob` (nats).

        Which there are is the system's affair, see `System.row_format` and `System.kept_of_samples`.

        Args and errors are those of `samples`.
        """
        newest = self._stored.newest(self._stored.loop(loop))
        return self._stored.samples(loop, (newest or 0) if generation is None else generation)

    def figure(self, name: str = "overview") -> Picture:
        """Draw a figure: overview, diversity, final, correctness, heat_map or closed_form.

        Raises:
          InputError: there is no such figure, or it makes no sense for this run.
        """
        from jaxloop.report.figures import draw_one

        found, config = self._analysis, self.config
        tables = found.metrics, found.tails, found.derived["summary"]
        run = self.path.resolve().name
        return Picture(draw_one(name, *tables, config.axes, config.learner.name, found.columns, run, found.expected))

    def __repr__(self) -> str:
        finished = sum(map(self._stored.finished, self._stored.loops))
        asked = sum(loop.config.cycle.generations for loop in self._stored.loops)
        return f"Run({str(self.path)!r}): {finished:,} of {asked:,} generations of {len(self._stored.loops):,} loops"


class _Quiet:
    """A display that says nothing but warnings."""

    def begin(self, loops, states, metrics, columns) -> None:
        """Nothing."""

    def watch(self, loops, generation, trained_share) -> None:
        """Nothing."""

    def finished(self, loop, generation, columns) -> None:
        """Nothing."""

    def answer(self, lines) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Warn as Python does."""
        warnings.warn(message, stacklevel=2)


def run(
    source: str | Path,
    *,
    seeds: list[int] | None = None,
    settings: dict[str, Any] | None = None,
    path: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    figures: bool = False,
) -> Run:
    """Run a preset or a TOML file; the same bits as the command `jaxloop run`, and the same folder.

    The same call again goes on where it stopped, and where nothing is left to be done only reads.

    Args:
      source: a preset (`presets`), or a file whose name ends in .toml.
      seeds: one loop each, of every cell; by default those of the preset.
      settings: what differs from it, by `section.key` (`settings`), as in `{"cycle.fresh_share": 0.25, "grid":
        {"sample.temperature": [0.7, 1.0]}}`; a setting takes the place of the axis of the grid that varies it.
      path: the run folder; by default runs/ with the preset's or the file's name.
      overwrite: start anew where the folder holds a run.
      progress: whether progress and answer are printed; in a notebook they are a bar and a table.
      figures: whether the figures are drawn into the folder, as the command does.

    Raises:
      InputError: a preset or setting is unknown or out of range, or the folder cannot be used; nothing is made.
      RunError: the run broke off; all that was measured is in the folder.

    Example:
      >>> import jaxloop
      >>> small = {"cycle.generations": 2, "learner.name": "resample", "grid": {}}
      >>> found = jaxloop.run("quick", settings=small, path="runs/tiny", progress=False)
      >>> found
      Run('runs/tiny'): 4 of 4 generations of 2 loops
      >>> sorted(set(found.metrics["control"]))
      [0, 1]
    """
    changes = {name: _named(value, name) for name, value in (settings or {}).items()}
    if seeds is not None:
        if "seeds" in changes:
            raise InputError("seeds: are given twice, as an argument and as a setting; give them once")
        changes["seeds"] = list(seeds)
    source = str(Path(source).expanduser()) if isinstance(source, Path) else source
    config = configured(source, changes)
    folder = Path(path).expanduser() if path is not None else Path("runs") / Path(source).stem
    called = ", ".join([repr(source), *(f"{name}={value!r}" for name, value in changes.items())])
    with contextlib.ExitStack() as stack:
        display = stack.enter_context(RunDisplay(folder.resolve().name, make_console())) if progress else _Quiet()
        run_config(config, folder, f"jaxloop.run({called})", display, overwrite, figures=figures)
    return Run(folder)


def _named(value: Any, setting: str) -> Any:
    """A setting, with classes as the import paths that a config has for them."""
    if isinstance(value, type):
        return path_of(value, setting)
    if isinstance(value, list | tuple):
        return [_named(one, setting) for one in value]
    if isinstance(value, dict):
        return {key: _named(one, key) for key, one in value.items()}
    return value


def open_run(path: str | Path) -> Run:
    """Open a run folder, finished or not; nothing in it is changed, and nothing that it names is imported.

    Raises:
      InputError: there is no run.

    Example:
      >>> import jaxloop
      >>> jaxloop.open_run("runs/none")
      Traceback (most recent call last):
      ...
      jaxloop.errors.InputError: runs/none: is no run folder, there is no such folder
    """
    return Run(path)


def presets() -> pd.DataFrame:
    """The presets, and what each is for.

    Example:
      >>> import jaxloop
      >>> "quick" in jaxloop.presets().index
      True
    """
    return pd.DataFrame({"purpose": {name: purpose(name) for name in preset_names()}})


def settings(system: str = "logic") -> pd.DataFrame:
    """Every setting of a system with its default, the values that it may have, and its meaning.

    A grid over knobs needs no program of its own.

    Raises:
      InputError: there is no such system.

    Example:
      >>> import jaxloop
      >>> jaxloop.settings().loc["sample.temperature", "default"]
      '0.8'
    """
    names = ["setting", "default", "values", "kind", "meaning"]
    return pd.DataFrame(describe(system), columns=names).set_index("setting")
