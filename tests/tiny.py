"""A run of seconds: a small language, a small model, few steps."""

import csv
from pathlib import Path

import jax
import numpy as np

from jaxloop.config.presets import load
from jaxloop.config.schema import Config, Loop
from jaxloop.loop.interfaces import Task
from jaxloop.runs.runner import run

TINY = str(Path(__file__).parent / "tiny.toml")
# The same for any preset.
SETTINGS = [
    "language.max_depth=2",
    "cycle.rows=60",
    "cycle.generations=3",
    "model.layers=1",
    "model.heads=2",
    "model.width=16",
    "model.context_tokens=16",
    "train.steps=30",
    "train.batch_expressions=15",
    "train.learning_rate=1e-2",
    "train.warmup_steps=5",
    "train.evaluate_every_steps=10",
    "sample.batch_rows=40",
    "measure.held_out_rows=50",
    "measure.enumerate_every_generations=0",
    "learner.name=transformer",
    "controls=false",
    "seeds=[0]",
]
# Four loops that train, or memorise, for less than a second; two that only memorise.
QUICKLY = ("grid={'learner.name' = ['transformer', 'resample'], 'cycle.fresh_share' = [0.0, 0.5]}", "train.steps=10")
MEMORISER = ("learner.name=resample", "grid={'cycle.fresh_share' = [0.0, 0.5]}")


class Silent:
    """A display that shows nothing, and counts."""

    def __init__(self, stop_after: int | None = None):
        self.kept, self.warnings, self._stop_after = [], [], stop_after

    def begin(self, loops, states, rows, columns) -> None:
        self.resumed = {index: state.generation for index, state in states.items()}

    def watch(self, loops, generation, trained_share) -> None:
        assert 0 <= trained_share <= 1

    def finished(self, loop, generation, columns) -> None:
        self.kept.append((loop.index, generation))
        if len(self.kept) == self._stop_after:
            raise KeyboardInterrupt

    def answer(self, lines) -> None:
        self.lines = lines

    def warn(self, message) -> None:
        self.warnings.append(message)


def tiny_config(*overrides: str) -> Config:
    return load(TINY, overrides)


def run_silently(config: Config, path: Path, display: Silent | None = None, overwrite: bool = False) -> Silent:
    """A run without figures, which are most of the time of a run as short as these."""
    display = display or Silent()
    run(config, path, "test", display, overwrite, figures=False)
    return display


def run_tiny(path: Path, *overrides: str, display: Silent | None = None, overwrite: bool = False) -> Silent:
    return run_silently(tiny_config(*overrides), path, display, overwrite)


def tasks_of(group: list[Loop], generations: list[int], training: list, probes: list[dict]) -> list[Task]:
    """What a learner is to do for each of these loops."""
    return [
        Task(loop, generation, rows, loop.config.cycle.rows, asked)
        for loop, generation, rows, asked in zip(group, generations, training, probes, strict=True)
    ]


def results(path: Path) -> dict[str, bytes]:
    """Everything in a run folder that must be the same bits for the same run."""
    names = [
        "metrics.csv",
        "tails.csv",
        "collapse.csv",
        "summary.csv",
        "provenance.csv",
        "top_samples.csv",
        *path.glob("samples/*/*.npz"),
    ]
    # A system may have no tails, and no sample that is frequent.
    there = [Path(path / name) for name in names if (path / name).exists()]
    return {str(name.relative_to(path)): name.read_bytes() for name in there}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, but locks."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def read(path: Path, table: str = "metrics") -> list[dict]:
    """The rows of a table of a run folder."""
    with (path / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(one: dict, other: dict) -> None:
    """Two models of the same bits."""
    jax.tree.map(np.testing.assert_array_equal, one, other)
