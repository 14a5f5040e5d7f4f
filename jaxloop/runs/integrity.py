"""Whether a run folder is what the run wrote: every file of it, held against seals, or made again and compared."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jaxloop import layout
from jaxloop.config.schema import Loop
from jaxloop.errors import DamageError, InputError
from jaxloop.files import digest, read_file
from jaxloop.runs.derived import analyse
from jaxloop.runs.manifest import read_manifest
from jaxloop.runs.stored import (
    StoredRun,
    read_samples,
    read_seal,
    read_state,
    sealed_table,
)
from jaxloop.runs.stored_models import read_model
from jaxloop.runs.tables import joined_tables, whole_table
from jaxloop.systems.registry import system_of

_MOST_FIGURE_BYTES = 2**27
_PNG_END = b"IEND\xaeB`\x82"


class Findings(NamedTuple):
    """What was found in a run folder."""

    damages: list[str]  # a sentence for each file that is missing, or not what the run wrote
    notes: list[str]  # what is not finished or not up to date, as a run leaves it that is under way or was stopped
    loops: int  # that have begun
    generations: int  # of all of them, finished


def verify_run(path: Path) -> Findings:
    """Check everything in a run folder; only reads.

    Raises:
      InputError: it is no run folder.
    """
    damages, notes = [], []

    def tell(check: Callable[[], object]) -> None:
        try:
            check()
        except DamageError as error:
            damages.append(str(error))

    if not path.is_dir() or not (path / layout.CONFIG).exists():
        raise InputError(f"{path}: is no run folder; name one that jaxloop run has made")
    try:
        run = StoredRun(path)
    except InputError as error:
        # Whose loops these are cannot be known without it.
        return Findings([str(error)], [], 0, 0)
    begun = []
    tell(lambda: begun.extend(run.begun()))
    for index in layout.loops_with(path, "tables"):
        if index < len(run.loops):
            tell(lambda loop=run.loops[index]: notes.extend(_unfinished(run, loop)))
    generations = 0
    for loop in begun:
        generations += run.finished(loop)
        for check in _checks_of(run, loop):
            tell(check)
    loops_are_whole = not damages
    if loops_are_whole and begun:
        for sentence, is_damage in _compared(run):
            (damages if is_damage else notes).append(sentence)
    digests = {}
    tell(lambda: digests.update(read_manifest(path / layout.MANIFEST).figures))
    for name in layout.FIGURES:
        figure = path / "figures" / f"{name}.png"
        if figure.exists():
            tell(lambda figure=figure, name=name: _require_figure(figure, digests.get(name)))
        elif name in digests:
            notes.append(f"{figure}: is missing; the run's command draws it again")
    return Findings(list(dict.fromkeys(damages)), notes, len(begun), generations)


def _unfinished(run: StoredRun, loop: Loop) -> list[str]:
    """A note where a run is writing a generation, or was stopped while it did.

    Raises:
      DamageError: something stands after what was sealed that no run leaves there.
    """
    rows = {name: run.unsealed(loop, name) for name in layout.TABLES}
    kept, where = layout.sealed_generations(run.path, loop.index), layout.loop_folder(run.path, "tables", loop.index)
    notes = (
        [f"{where}: has rows of a generation that is not finished; nothing reads them"] if any(rows.values()) else []
    )
    # A run writes the metrics first.
    if any(rows.values()) and not rows["metrics"]:
        name = next(name for name, found in rows.items() if found)
        raise DamageError(f"{layout.table_path(run.path, loop.index, name)}: has rows that no seal vouches for")
    if kept and kept[0] > 0 and kept[0] - 1 not in kept:
        seal = layout.seal_path(run.path, loop.index, kept[0] - 1)
        notes.append(f"{seal}: is missing; there is no earlier generation to fall back on")
    return notes


def _checks_of(run: StoredRun, loop: Loop) -> Iterator[Callable[[], object]]:
    """Everything to be checked of one loop, each of which raises what it finds."""
    kept = layout.sealed_generations(run.path, loop.index)
    newest = kept[0]
    for generation in kept:
        yield lambda generation=generation: read_seal(run.path, loop, generation)
    try:
        seal = read_seal(run.path, loop, newest)
    except DamageError:
        return
    for name in layout.TABLES:
        yield lambda name=name: sealed_table(run.path, loop, seal, name)
    for generation in (generation for generation, sealed in enumerate(seal.samples) if sealed):
        yield lambda generation=generation: read_samples(run.path, loop, seal, generation)
    for generation in kept:
        yield lambda generation=generation: _require_state(run, loop, generation)
    models = set(layout.model_generations(run.path, loop.index))
    # A loop has its newest model before it counts as finished.
    if system_of(loop.config).trains(loop.config) and newest == loop.config.cycle.generations - 1:
        models |= {newest}
    for generation in sorted(models):
        yield lambda generation=generation: read_model(run.path, loop, generation)


def _require_state(run: StoredRun, loop: Loop, generation: int) -> None:
    read_state(run.path, loop, read_seal(run.path, loop, generation), generation)


def _compared(run: StoredRun) -> Iterator[tuple[str, bool]]:
    """What is wrong with the tables at the top, and whether it is damage or only not up to date."""
    tables, stale = joined_tables(run), False
    for name, content in tables.items():
        path = run.path / f"{name}.csv"
        if not path.exists() and not content:
            continue
        found = read_file(path, 2 * len(content) + 2**20) if path.exists() else b""
        if found != content:
            is_old = not found or set(found.splitlines()) <= set(content.splitlines())
            stale |= is_old
            yield f"{path}: {_STALE if is_old else _CHANGED}", not is_old
    if stale:
        return
    analysis = analyse(run)
    if analysis is None:
        yield f"{run.path / 'tables'}: has no metrics of generations that are finished", True
        return
    for name, rows in analysis.derived.items():
        path, content = run.path / f"{name}.csv", whole_table(rows)
        found = read_file(path, 2 * len(content) + 2**20) if path.exists() else b""
        if digest(found) != digest(content):
            yield f"{path}: {_CHANGED if found else _STALE}", bool(found)


_STALE = "is not up to date; the run's command brings it there"
_CHANGED = "is not what the loops' tables say; the run's command makes it again"


def _require_figure(path: Path, drawn: str | None) -> None:
    """Refuse a figure that is no whole PNG, or not the one that was drawn, where that is known."""
    content = read_file(path, _MOST_FIGURE_BYTES)
    try:
        if not content.endswith(_PNG_END):
            raise ValueError("something after the picture")
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()
    except Exception:  # Whatever a damaged picture leads the library to.
        raise DamageError(f"{path}: is no whole picture; the run's command draws it again") from None
    if drawn not in (None, digest(content)):
        raise DamageError(f"{path}: is not what the run drew; its command draws it again")
