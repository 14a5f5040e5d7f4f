"""One run, from its config to its figures: puts source, learner, measures and run folder together around the loop."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from jaxloop import metrics, report
from jaxloop.config import Config, Loop, loops
from jaxloop.cycles import provenance_counts
from jaxloop.language import Language, language_of
from jaxloop.learner import TransformerLearner
from jaxloop.loop import Record, State, run_loops
from jaxloop.population import keep_compiled_programs, use_all_cores
from jaxloop.store import RunFolder


class Display(Protocol):
    """Who shows how a run goes on."""

    def begin(self, loops: list[Loop], states: dict[int, State], metrics: pd.DataFrame) -> None:
        """The run begins, or goes on: which loops, where each stands, and metrics.csv so far."""

    def watch(self, loops: list[Loop], generation: int, trained_share: float) -> None:
        """These loops are being computed; called several times a second."""

    def finished(self, loop: Loop, generation: int, columns: dict) -> None:
        """A generation of a loop is measured and kept."""

    def warn(self, message: str) -> None:
        """Something is not as it should be, and the run goes on."""


class LanguageSource(NamedTuple):
    """Draws rows of a fixed width from a language."""

    language: Language
    width: int

    def draw(self, generator: np.random.Generator, rows: int) -> np.ndarray:
        """Independent real rows (N, T)."""
        return self.language.draw(generator, rows, self.width)


def tables_of(record: Record, judgement: metrics.Judgement, source_entropy_nats: float) -> dict[str, list[dict]]:
    """All that is measured of one generation of one loop, as rows of the run folder's tables."""
    loop, state, outcome = record.loop, record.state, record.outcome
    place = {"loop": loop.index, "seed": loop.seed, "generation": state.generation}
    begun = time.perf_counter()
    columns = {
        **place,
        **loop.axes,
        **metrics.measure_rows(state.sampled_NxT, judgement),
        **metrics.measure_training(state.sampled_NxT, state.carry.training),
        "held_out_nats": outcome.held_out_nats,
        "source_entropy_nats": source_entropy_nats,
        "validation_nats": outcome.validation_nats,
        "training_nats_per_token": outcome.training_nats,
        "training_steps": outcome.steps,
    }
    seconds = {
        "train_seconds": round(record.train_seconds, 3),
        "sample_seconds": round(record.sample_seconds, 3),
        "measure_seconds": round(time.perf_counter() - begun, 3),
    }
    return {
        "metrics": [columns],
        "timings": [{**place, **seconds}],
        "provenance": [
            {**place, "kind": kind, "from_generation": origin, "rows": count}
            for kind, origin, count in provenance_counts(state.carry.training)
        ],
        "top_samples": [
            {**place, "rank": rank, "count": count, "verdict": verdict, "text": text}
            for rank, (text, count, verdict) in enumerate(metrics.top_samples(state.sampled_NxT, judgement), start=1)
        ],
    }


def run(
    config: Config,
    path: Path,
    command: str,
    display: Display,
    overwrite: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Path:
    """Run every loop of a config, or what is left of it, and draw the figure.

    Args:
      config: what to run.
      path: the run folder.
      command: how this was called, for the manifest.
      display: is told of the progress.
      overwrite: start anew where the folder holds a run.
      stop_requested: asked several times a second; once it says so, what is finished is kept and the run stops.

    Returns:
      The path of the figure.

    Raises:
      InputError: the folder cannot be used.
      RunError: the run broke off; all that was measured is in the folder, and the figure shows it.
      KeyboardInterrupt: a stop was requested.
    """
    use_all_cores()
    keep_compiled_programs()
    language = language_of(config.language)
    all_loops = loops(config)
    with RunFolder(path, config, command, overwrite) as folder:
        states = {loop.index: state for loop in all_loops if (state := folder.restore(loop, display.warn))}
        folder.drop_unfinished(states)
        display.begin(all_loops, states, report.as_frame(folder.rows("metrics")))

        def keep(record: Record) -> None:
            judgement = metrics.verdicts(record.state.sampled_NxT)
            tables = tables_of(record, judgement, language.entropy_nats)
            folder.save(record.loop, record.state, judgement, record.outcome.parameters, tables)
            display.finished(record.loop, record.state.generation, tables["metrics"][0])

        def watch(computed: list[Loop], generation: int, trained_share: float) -> None:
            if stop_requested():
                raise KeyboardInterrupt
            display.watch(computed, generation, trained_share)

        try:
            source = LanguageSource(language, config.model.context_tokens)
            learner = TransformerLearner(config, len(all_loops))
            run_loops(all_loops, states, source, learner, keep, watch)
        except BaseException:
            with contextlib.suppress(OSError):
                close(folder, config)
            raise
        return close(folder, config)


def close(folder: RunFolder, config: Config) -> Path | None:
    """Bring manifest and figure up to date; gives the figure's path if there is anything to show."""
    folder.write_manifest()
    rows = folder.rows("metrics")
    if not rows:
        return None
    return report.draw_overview(report.as_frame(rows), list(config.grid), folder.path / "figures" / "overview.png")
