"""Where a loop stands in a run folder: its newest generation of which everything is whole."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxloop import layout
from jaxloop.config.schema import Loop
from jaxloop.errors import DamageError, InputError
from jaxloop.files import digest, read_file, seal_json, write_whole
from jaxloop.loop.interfaces import State
from jaxloop.runs.stored import (
    Seal,
    most_samples_bytes,
    most_table_bytes,
    parse_table,
    read_samples,
    read_seal,
    read_state,
    require_digest,
    sealed_table,
)
from jaxloop.runs.tables import cut_to_seal, whole_table, write_table
from jaxloop.systems.registry import system_of


class Restored(NamedTuple):
    """A loop as it was found."""

    state: State
    seal: Seal
    metrics: list[dict]  # its rows of metrics.csv


def restore_loop(
    run: Path, loop: Loop, tail_rows: Callable[[int], int], warn: Callable[[str], None]
) -> Restored | None:
    """Restore a loop, and bring its tables to where it stands; None for a loop that has not begun.

    Args:
      run: the run folder.
      loop: which one.
      tail_rows: how many rows of tails.csv a generation has.
      warn: is told of what is left out.

    Raises:
      InputError: results are missing or damaged, so that going on would lose what was measured.
    """
    generations = layout.sealed_generations(run, loop.index)
    # A generation's rows are written just before its seal; those of several are announced.
    announced = layout.announcement_path(run, loop.index).exists()
    if not generations and not announced and _measured_generations(run, loop) > 1:
        raise InputError(
            f"{layout.loop_folder(run, 'seals', loop.index)}: lacks seals of what "
            f"{layout.loop_folder(run, 'tables', loop.index)} holds; put them back, or start anew with --overwrite"
        )
    fault = None
    for generation in generations:
        try:
            restored = _restore_generation(run, loop, generation, tail_rows, warn)
        except DamageError as error:
            fault = error
            continue
        if fault:
            warn(f"{fault}; loop {loop.index} goes on from generation {generation}")
        return restored
    if fault:
        raise InputError(f"{fault}; put it right, or start anew with --overwrite")
    return None


def _measured_generations(run: Path, loop: Loop) -> int:
    """How many rows metrics.csv has of a loop."""
    path = layout.table_path(run, loop.index, "metrics")
    return read_file(path, most_table_bytes(loop)).count(b"\n") - 1 if path.exists() else 0


def _restore_generation(
    run: Path, loop: Loop, generation: int, tail_rows: Callable[[int], int], warn: Callable[[str], None]
) -> Restored:
    """The loop after a generation, if all that its seal is of is whole.

    Raises:
      DamageError: it is not.
    """
    seal = read_seal(run, loop, generation)
    metrics = _table_rows(run, loop, seal, tail_rows, generation)
    state = read_state(run, loop, seal, generation)
    for earlier, sealed in ((earlier, sealed) for earlier, sealed in enumerate(seal.samples) if sealed):
        require_digest(layout.samples_path(run, loop.index, earlier), most_samples_bytes(loop), sealed)
    seal = _with_spare_tables(run, loop, generation, seal, warn)
    for name in layout.TABLES:
        cut_to_seal(run, loop, seal, name)
    return Restored(state, seal, metrics)


def _table_rows(
    run: Path, loop: Loop, seal: Seal, tail_rows: Callable[[int], int], generation: int
) -> list[dict[str, str]]:
    """The rows of a loop's metrics, once every table that must be there is found to be whole.

    Raises:
      DamageError: one is not, or lacks rows.
    """
    rows = {
        name: parse_table(sealed_table(run, loop, seal, name), layout.table_path(run, loop.index, name))
        for name in layout.TABLES
        if name not in layout.SPARE_TABLES
    }
    for name, expected in (("metrics", lambda _: 1), ("tails", tail_rows)):
        counts = np.bincount([int(row["generation"]) for row in rows[name]], minlength=generation + 1)
        if counts.tolist() != [expected(earlier) for earlier in range(generation + 1)]:
            path = layout.table_path(run, loop.index, name)
            raise DamageError(f"{path}: has not the rows of generations 0 to {generation}")
    return rows["metrics"]


def _with_spare_tables(run: Path, loop: Loop, generation: int, seal: Seal, warn: Callable[[str], None]) -> Seal:
    """The seal, and the tables that may be lost, made to fit each other again."""
    whole = dict(seal.tables)
    for name in layout.SPARE_TABLES:
        try:
            sealed_table(run, loop, seal, name)
        except DamageError as error:
            content = whole_table(_top_samples(run, loop, generation, seal)) if name == "top_samples" else b""
            write_table(layout.table_path(run, loop.index, name), content)
            whole[name] = [len(content), digest(content)]
            warn(f"{error}; it is {'made again' if content else 'left out'}, and nothing else depends on it")
    if whole == seal.tables:
        return seal
    seal = seal._replace(tables=whole)
    write_whole(layout.seal_path(run, loop.index, generation), seal_json(seal._asdict()))
    return seal


def _top_samples(run: Path, loop: Loop, last: int, seal: Seal) -> list[dict]:
    """The rows of top_samples.csv of all generations of a loop, from their samples."""
    system = system_of(loop.config)
    return [
        {"loop": loop.index, "seed": loop.seed, "generation": generation, **row}
        for generation in range(last + 1)
        if seal.samples[generation]
        for row in system.top_rows(read_samples(run, loop, seal, generation))
    ]
