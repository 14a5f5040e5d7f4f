"""The arrays that a finished generation leaves on disk: its samples, and the state that its loop goes on from."""

import io
import shutil
from pathlib import Path

import numpy as np

from jaxloop import layout
from jaxloop.config.schema import Loop
from jaxloop.files import digest, write_whole
from jaxloop.loop.interfaces import State

CHECKPOINTS_KEPT = 2  # of each loop, the newest


def save_samples(run: Path, loop: Loop, generation: int, arrays: dict[str, np.ndarray]) -> str:
    """Write the samples of a generation, and what is known of each; their digest."""
    layout.make_loop_folder(run, "samples", loop.index)
    content = io.BytesIO()
    np.savez_compressed(content, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_whole(layout.samples_path(run, loop.index, generation), content.getvalue())
    return digest(content.getvalue())


def save_checkpoint(run: Path, loop: Loop, state: State) -> dict[str, str]:
    """Write what a loop goes on from after a generation; the digest of each file."""
    layout.seal_path(run, loop.index, state.generation).unlink(missing_ok=True)
    folder = layout.checkpoint_folder(run, loop.index, state.generation)
    shutil.rmtree(folder, ignore_errors=True)
    layout.make_loop_folder(run, "checkpoints", loop.index)
    folder.mkdir()
    content = io.BytesIO()
    carried = {
        f"{name}.{field}": np.ascontiguousarray(array)
        for name, rows in state.carry._asdict().items()
        for field, array in rows._asdict().items()
    }
    np.savez(content, sampled=np.ascontiguousarray(state.sampled), **carried)
    write_whole(folder / layout.STATE, content.getvalue())
    return {layout.STATE: digest(content.getvalue())}


def forget_before(run: Path, loop: Loop, last: int) -> None:
    """Remove the checkpoints of a loop up to a generation, and their seals."""
    for old in layout.sealed_generations(run, loop.index):
        if old <= last:
            layout.seal_path(run, loop.index, old).unlink()
            shutil.rmtree(layout.checkpoint_folder(run, loop.index, old), ignore_errors=True)
