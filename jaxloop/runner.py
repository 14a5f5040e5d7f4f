"""One run, from its config to its figures: puts source, learner, measures and run folder together around the loop."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from jaxloop import metrics
from jaxloop.answer import answer_lines
from jaxloop.collapse import collapse_rows, half_life_rows
from jaxloop.config import Config, Loop, loops
from jaxloop.cycles import provenance_counts
from jaxloop.errors import RunError
from jaxloop.figures import draw_all
from jaxloop.language import Language, language_of
from jaxloop.learner import TransformerLearner
from jaxloop.loop import Learner, Record, State, run_loops
from jaxloop.population import keep_compiled_programs, use_all_cores
from jaxloop.references import ReferenceLearner
from jaxloop.split import split_rows
from jaxloop.store import RunFolder
from jaxloop.summary import summary_rows
from jaxloop.tables import as_frame
from jaxloop.yardsticks import WHOLE, Yardsticks, is_due


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


class Answer(NamedTuple):
    """What a run came to."""

    lines: list[str]  # for the terminal
    figures: list[Path]


def tables_of(record: Record, yardsticks: Yardsticks) -> tuple[metrics.Judgement, dict[str, list[dict]]]:
    """All that is measured of one generation of one loop, as rows of the run folder's tables."""
    loop, state, outcome, spent = record.loop, record.state, record.outcome, record.seconds
    place = {"loop": loop.index, "seed": loop.seed, "generation": state.generation}
    begun = time.perf_counter()
    judgement = metrics.verdicts(state.sampled_NxT)
    structure_due = is_due(loop.config.measure.structure_every_generations, state.generation)
    distances, tails = yardsticks.measure(record, judgement)
    columns = {
        **place,
        **loop.axes,
        "control": int(loop.config.cycle.fresh_only),
        **metrics.measure_rows(state.sampled_NxT, judgement),
        **metrics.measure_structure(state.sampled_NxT, judgement, structure_due),
        **metrics.measure_training(state.sampled_NxT, state.carry.training),
        "source_entropy_nats": yardsticks.source_entropy_nats,
        **distances,
        **outcome.columns,
    }
    top = metrics.top_samples(state.sampled_NxT, judgement)
    seconds = {
        "train_seconds": spent.train,
        "sample_seconds": spent.sample,
        "probe_seconds": sum(seconds for name, seconds in spent.probes.items() if name != WHOLE),
        "enumerate_seconds": spent.probes.get(WHOLE, 0.0),
        "measure_seconds": time.perf_counter() - begun,
    }
    return judgement, {
        "metrics": [columns],
        "tails": [{**place, **row} for row in tails],
        "timings": [{**place, **{name: round(value, 4) for name, value in seconds.items()}}],
        "provenance": [
            {**place, "kind": kind, "from_generation": origin, "rows": count}
            for kind, origin, count in provenance_counts(state.carry.training)
        ],
        "top_samples": [
            {**place, "rank": rank, "count": count, "verdict": verdict, "text": text}
            for rank, (text, count, verdict) in enumerate(top, start=1)
        ],
    }


def make_learner(name: str, config: Config, loop_count: int, language: Language) -> Learner:
    """The learner of this name, for so many loops."""
    return TransformerLearner(config, loop_count) if name == "transformer" else ReferenceLearner(language)


def run(
    config: Config,
    path: Path,
    command: str,
    display: Display,
    overwrite: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Answer:
    """Run every loop of a config, or what is left of it, and say and draw what came out.

    Args:
      config: what to run.
      path: the run folder.
      command: how this was called, for the manifest.
      display: is told of the progress.
      overwrite: start anew where the folder holds a run.
      stop_requested: asked several times a second; once it says so, what is finished is kept and the run stops.

    Raises:
      InputError: the folder cannot be used.
      RunError: the run broke off; all that was measured is in the folder, and the figures show it.
      KeyboardInterrupt: a stop was requested.
    """
    use_all_cores()
    keep_compiled_programs()
    language = language_of(config.language)
    all_loops, yardsticks = loops(config), Yardsticks(config, language)
    with RunFolder(path, config, command, overwrite) as folder:
        restored = {loop.index: folder.restore(loop, yardsticks.tail_rows, display.warn) for loop in all_loops}
        states = {index: state for index, state in restored.items() if state}
        folder.drop_unfinished(states)
        display.begin(all_loops, states, as_frame(folder.rows("metrics"), "metrics"))

        def keep(record: Record) -> None:
            judgement, tables = tables_of(record, yardsticks)
            folder.save(record, judgement, tables)
            display.finished(record.loop, record.state.generation, tables["metrics"][0])

        def watch(computed: list[Loop], generation: int, trained_share: float) -> None:
            if stop_requested():
                raise KeyboardInterrupt
            display.watch(computed, generation, trained_share)

        diverged = []
        try:
            source = LanguageSource(language, config.model.context_tokens)
            for name in dict.fromkeys(loop.config.learner.name for loop in all_loops):
                group = [loop for loop in all_loops if loop.config.learner.name == name]
                learner = make_learner(name, config, len(group), language)
                diverged += run_loops(group, states, source, learner, yardsticks.probes(learner), keep, watch)
        except BaseException:
            with contextlib.suppress(OSError):
                close(folder, config)
            raise
        answer = close(folder, config)
    if diverged:
        where = ", ".join(f"loop {loop.index} in generation {generation}" for loop, generation in diverged[:5])
        rate = diverged[0][0].config.train.learning_rate
        raise RunError(
            f"training diverged, the loss became not a number: {where}{', ...' if len(diverged) > 5 else ''}; "
            f"lower train.learning_rate (there {rate:g}); what was measured before is kept"
        )
    return answer


def close(folder: RunFolder, config: Config) -> Answer:
    """Bring manifest, derived tables and figures up to date, and say what came out so far."""
    folder.write_manifest()
    rows = folder.rows("metrics")
    if not rows:
        return Answer([], [])
    frame, axes, learner = as_frame(rows, "metrics"), list(config.grid), config.learner.name
    tails = as_frame(folder.rows("tails"), "tails")
    collapse = collapse_rows(frame, tails, axes)
    summary = summary_rows(frame, collapse, as_frame(folder.rows("provenance"), "provenance"), axes)
    folder.write_derived("collapse", collapse)
    folder.write_derived("half_lives", half_life_rows(frame, tails, axes))
    folder.write_derived("split", split_rows(frame, axes))
    folder.write_derived("summary", summary)
    figures = draw_all(frame, tails, summary, axes, learner, folder.path / "figures")
    return Answer(answer_lines(frame, collapse, axes, learner), figures)
