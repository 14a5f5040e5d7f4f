"""The arrays that a finished generation leaves on disk: its samples, and the state that its loop goes on from."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxloop import layout
from jaxloop.config.schema import Loop
from jaxloop.files import arrays_as_file, digest, seal_json, write_whole
from jaxloop.loop.interfaces import Record, State
from jaxloop.runs.stored import Seal

CHECKPOINTS_KEPT = 2  # of each loop, the newest


class Unwritten(NamedTuple):
    """A finished generation of one loop that waits to be written."""

    record: Record
    arrays: dict[str, np.ndarray]  # what is stored of its samples
    tables: dict[str, list[dict]]  # the rows of each


def save_samples(run: Path, loop: Loop, one: Unwritten) -> str:
    """Write the samples of a generation, and what is known of each; their digest, or nothing where none are kept."""
    generation, every = one.record.state.generation, loop.config.store.samples_every_generations
    is_last = generation == loop.config.cycle.generations - 1
    if not is_last and not (every and generation % every == 0):
        return ""
    layout.make_loop_folder(run, "samples", loop.index)
    content = arrays_as_file(one.arrays, compressed=True)
    write_whole(layout.samples_path(run, loop.index, generation), content)
    return digest(content)


def announce(run: Path, loop: Loop, last: int) -> None:
    """Say that rows of several generations, up to this one, will stand in a loop's tables before one is sealed."""
    layout.make_loop_folder(run, "seals", loop.index)
    write_whole(layout.announcement_path(run, loop.index), seal_json({"last_generation": last}))


def write_seal(run: Path, loop: Loop, generation: int, seal: Seal) -> None:
    """Let a generation of a loop count as finished."""
    layout.make_loop_folder(run, "seals", loop.index)
    write_whole(layout.seal_path(run, loop.index, generation), seal_json(seal._asdict()))


def save_checkpoint(run: Path, loop: Loop, state: State) -> dict[str, str]:
    """Write what a loop goes on from after a generation; the digest of each file."""
    layout.seal_path(run, loop.index, state.generation).unlink(missing_ok=True)
    folder = layout.checkpoint_folder(run, loop.index, state.generation)
    shutil.rmtree(folder, ignore_errors=True)
    layout.make_loop_folder(run, "checkpoints", loop.index)
    folder.mkdir()
    carried = {
        f"{name}.{field}": array
        for name, rows in state.carry._asdict().items()
        for field, array in rows._asdict().items()
    }
    content = arrays_as_file({"sampled": state.sampled, **carried})
    write_whole(folder / layout.STATE, content)
    return {layout.STATE: digest(content)}


def forget_before(run: Path, loop: Loop, last: int) -> None:
    """Remove the checkpoints of a loop up to a generation, and their seals; what was announced is written."""
    layout.announcement_path(run, loop.index).unlink(missing_ok=True)
    for old in layout.sealed_generations(run, loop.index):
        if old <= last:
            layout.seal_path(run, loop.index, old).unlink()
            shutil.rmtree(layout.checkpoint_folder(run, loop.index, old), ignore_errors=True)
