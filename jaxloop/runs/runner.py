"""One run, from its config to its figures: puts source, learner, measures and run folder together around the loop."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import jax
import pandas as pd

from jaxloop import layout
from jaxloop.analysis.cells import as_frame
from jaxloop.analysis.columns import Columns
from jaxloop.config.imports import is_own
from jaxloop.config.schema import Config, Loop, loops
from jaxloop.errors import InputError, RunError
from jaxloop.files import write_whole
from jaxloop.loop.interfaces import Program, Record, State
from jaxloop.loop.run_loops import NOTHING_PASSED, Ended, run_loops
from jaxloop.report.answer import answer_lines
from jaxloop.runs import hosts
from jaxloop.runs.capacity import half_as_many, make_learner, memory_in_words
from jaxloop.runs.costs import require_memory
from jaxloop.runs.derived import Analysis, analyse
from jaxloop.runs.environment import complaints, prepare
from jaxloop.runs.folder import RunFolder
from jaxloop.runs.measuring import kept_of, measures_of, probes_of
from jaxloop.runs.own_parts import describe_own_parts, needs_description, require_same_description
from jaxloop.runs.programs import programs
from jaxloop.systems.interfaces import Measures, System
from jaxloop.systems.registry import OwnMeasures, columns_of, system_of, with_remedies


class Display(Protocol):
    """Who shows how a run goes on."""

    def begin(self, loops: list[Loop], states: dict[int, State], metrics: pd.DataFrame, columns: Columns) -> None:
        """The run begins, or goes on: which loops, where each stands, and metrics.csv so far with its columns."""

    def watch(self, loops: list[Loop], generation: int, trained_share: float) -> None:
        """These loops are being computed; called several times a second."""

    def finished(self, loop: Loop, generation: int, columns: dict) -> None:
        """A generation of a loop is measured and kept."""

    def answer(self, lines: list[str]) -> None:
        """What came out, so far as there is something: said before anything is drawn."""

    def warn(self, message: str) -> None:
        """Something is not as it should be, and the run goes on."""


@memory_in_words()
def run(
    config: Config,
    path: Path,
    command: str,
    display: Display,
    overwrite: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
    figures: bool = True,
) -> list[Path] | None:
    """Run every loop of a config, or what is left of it, and say and draw what came out.

    Args:
      config: what to run.
      path: the run folder.
      command: how this was called, for the manifest.
      display: is told of the progress, and of what came out: also where the run breaks off.
      overwrite: start anew where the folder holds a run.
      stop_requested: asked several times a second; once it says so, what is finished is kept and the run stops.
      figures: whether they are drawn.

    Returns:
      The figures that were drawn; None in all but the first of several processes.

    Raises:
      InputError: the folder cannot be used, or the run cannot fit into memory; nothing is made.
      RunError: the run broke off; all that was measured is in the folder, and the figures show it.
      KeyboardInterrupt: a stop was requested.
    """
    prepare()
    for complaint in complaints():
        display.warn(complaint)
    all_loops, system, own = loops(config), system_of(config), OwnMeasures(config)
    columns, has_remedies = columns_of(system, all_loops, own.columns), with_remedies(all_loops)
    own_loops = hosts.own_share([loop for program in programs(all_loops) for loop in program.loops])
    own_programs = programs(own_loops)
    do_together("is there memory enough?", lambda: require_memory(own_programs, system, display.warn))
    measures = measures_of(system, all_loops)
    description = describe_own_parts(config, all_loops, system, columns) if needs_description(config) else b""
    if description and not overwrite:
        require_same_description(path, description)

    def stop_if_requested() -> None:
        if stop_requested():
            raise KeyboardInterrupt

    with open_together(lambda process: RunFolder(path, config, command, overwrite, process)) as folder:

        def keep(record: Record) -> None:
            # What has not been kept must not be gone on from.
            with memory_in_words():
                if is_own(record.loop.config.learner.name):  # Whose models no reader could restore.
                    record = record._replace(written=record.written._replace(parameters={}))
                arrays, tables = kept_of(record, measures[record.loop.index], system, own, has_remedies)
                folder.save(record, arrays, tables)
            display.finished(record.loop, record.state.generation, tables["metrics"][0])

        def watch(computed: list[Loop], generation: int, trained_share: float) -> None:
            stop_if_requested()
            display.watch(computed, generation, trained_share)

        failure = None
        try:
            for line in folder.warnings:
                display.warn(line)
            if hosts.is_first() and needs_description(config):
                write_whole(path / layout.OWN, description)
            states = {}
            for loop in own_loops:
                state = folder.restore(loop, measures[loop.index].tail_rows, display.warn)
                states |= {loop.index: state} if state else {}
            display.begin(own_loops, states, as_frame(folder.restored_metrics(), "metrics"), columns)
            ended: list[Ended] = []
            for program in own_programs:
                ended += run_program(program, system, measures, states, keep, watch, display.warn)
            folder.flush()
            if ended:
                failure = early_end(ended, system)
        except Exception as error:
            failure = error
        except KeyboardInterrupt:
            with contextlib.suppress(Exception):  # What stopped the run is what is told.
                close(folder, config, display, figures)
            raise
        agreed = hosts.all_agree("has everything gone well?", failure is None, stop_if_requested)
        if failure:
            with contextlib.suppress(Exception):  # What broke the run off is what is told.
                close(folder, config, display, figures)
            raise failure
        drawn = close(folder, config, display, figures, stop_if_requested)
    if not agreed:
        raise RunError("another process of this run broke off; what was finished is kept, and the same command goes on")
    return drawn


def run_program(
    program: Program,
    system: System,
    measures: dict[int, Measures],
    states: dict[int, State],
    keep: Callable[[Record], None],
    watch: Callable[[list[Loop], int, float], None],
    warn: Callable[[str], None],
) -> list[Ended]:
    """Run the loops of one program to their end, fewer at once where memory runs out; see `run_loops`."""
    learner = make_learner(program, system, measures)
    if not any(loop.index in states for loop in program.loops):
        for hint in getattr(learner, "hints", ()):
            warn(hint)
    while True:
        try:
            return run_loops(program.loops, states, system, learner, probes_of(measures, learner), keep, watch)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            learner = half_as_many(learner, error)
            warn(f"out of memory: going on with {learner.places} loops at once")


def do_together(question: str, act: Callable[[], object]) -> None:
    """Do something that may refuse in every process that shares the run; where one refuses, all do.

    Raises:
      InputError: this process refuses, or another one.
    """
    refusal = None
    try:
        act()
    except InputError as error:
        refusal = error
    if not hosts.all_agree(question, refusal is None):
        raise refusal or InputError("another process of this run cannot begin and says why")


def open_together(open_folder: Callable[[int], RunFolder]) -> RunFolder:
    """Open a run folder in every process that shares the run, in the first one first: it makes the folder.

    Args:
      open_folder: gives the folder to the process of this number.

    Raises:
      InputError: a process cannot open it; then none has it open.
    """
    folder: RunFolder | None = None
    refusal: InputError | None = None
    for firsts_turn in (True, False):
        if hosts.is_first() == firsts_turn:
            try:
                folder = open_folder(hosts.process_number())
            except InputError as error:
                refusal = error
        question = f"is the folder open, for the {'first' if firsts_turn else 'others'}?"
        if not hosts.all_agree(question, refusal is None):
            if folder:
                folder.__exit__()
            raise refusal or InputError("another process of this run cannot begin and says why")
    assert folder, "each process has had its turn"
    return folder


def early_end(ended: list[Ended], system: System) -> RunError:
    """What is said of loops that could not go on, with the generations in which they ended."""
    first = ended[0]
    alike = [one for one in ended if one.why == first.why]
    places = ", ".join(f"loop {one.loop.index} in generation {one.generation}" for one in alike[:5])
    where, config = f"{places}{', ...' if len(alike) > 5 else ''}", first.loop.config
    if first.why == NOTHING_PASSED:
        return RunError(
            f"no row that the model wrote passed curation: {where}; it lets too little pass, or curation.shortfall = "
            "'fresh' goes on with rows of the source; what was measured is kept"
        )
    own_learner = is_own(config.learner.name)
    advice = f"learner.name = {config.learner.name!r} says so" if own_learner else system.against_divergence(config)
    return RunError(f"training diverged: {where}; {advice}; what was measured before is kept")


def close(
    folder: RunFolder, config: Config, display: Display, figures: bool, watch: Callable[[], None] = lambda: None
) -> list[Path] | None:
    """Say what came out so far, bring manifest, tables and models up to date, then draw it; all but models in the first
    process alone.

    Args:
      folder: of the run.
      config: of the run.
      display: is told the answer, and of models and figures that cannot be written.
      figures: whether they are drawn.
      watch: called before each figure; what it raises ends that.

    Returns:
      The figures that were drawn; None in all but the first process.

    Raises:
      RunError: the tables cannot be written.
    """
    with contextlib.suppress(Exception):  # It is what broke the run off.
        folder.flush()
    try:
        analysis = conclude(folder, config, display) if hosts.is_first() else None
    finally:
        folder.write_models(display.warn)
    if not hosts.is_first():
        return None
    if not (analysis and figures):
        return []
    place, tables = folder.path / "figures", (analysis.metrics, analysis.tails, analysis.derived["summary"])
    try:
        from jaxloop.report.figures import draw_all
    except Exception as error:  # Matplotlib reads its user's settings when it is imported, and dies of some.
        display.warn(f"{place}: could not be drawn: {type(error).__name__}: {error}")
        return []
    of_run = config.axes, config.learner.name, analysis.columns
    drawn = draw_all(*tables, *of_run, place, display.warn, watch, analysis.expected)
    with contextlib.suppress(OSError):  # Then nothing vouches for them, and all else is kept.
        folder.write_manifest(drawn)
    return drawn


def conclude(folder: RunFolder, config: Config, display: Display) -> Analysis | None:
    """Say what came out so far, and bring manifest and tables up to date.

    Raises:
      RunError: the tables cannot be written.
    """
    axes, learner = config.axes, config.learner.name
    analysis = analyse(folder.stored())
    if analysis:
        display.answer(answer_lines(analysis.metrics, analysis.derived["collapse"], axes, learner, analysis.columns))
    try:
        folder.write_manifest()
        folder.join()
        for name, rows in analysis.derived.items() if analysis else ():
            folder.write_derived(name, rows)
    except OSError as error:
        raise RunError(
            f"{folder.path}: its tables could not be written: {error.strerror or error}; what was measured is kept, "
            "and the same command writes them"
        ) from None
    return analysis
