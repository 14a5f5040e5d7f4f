"""Which models of a run are kept, and how they are written: as Orbax checkpoints, whole or not at all.

No run needs them to go on. Of each loop the newest is kept when the run ends, and others where the settings say so.
"""

import contextlib
import functools
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxloop import layout
from jaxloop.config.schema import Loop
from jaxloop.errors import DamageError
from jaxloop.files import arrays_as_file, digest, seal_json, write_whole
from jaxloop.runs.stored import settings_digest
from jaxloop.runs.stored_models import ModelSeal, read_model_seal

# So much waits in memory to be written when the run ends, unless a newer generation comes; more is written at once.
MOST_HELD_BYTES = 2**28
_OURS = re.compile(r"\.?(generation_\d{3,9})(\..*)?")  # whole or not

# Orbax takes the processes of a run for one that writes a checkpoint together.
_ALONE = "import sys; from jaxloop.runs.models import _write_received as write; write(sys.argv[1])"


class Models:
    """The newest models of a run's loops while it goes on."""

    def __init__(self, run: Path, every_generations: int):
        """Hold none yet.

        Args:
          run: the run folder.
          every_generations: every so many generations a model is written that stays; 0: never.
        """
        self._run, self._every = run, every_generations
        self._held: dict[int, tuple[Loop, int, dict]] = {}

    def write_due(self, loop: Loop, generation: int, parameters: dict) -> bool:
        """Write the model of a generation that is about to count as finished, if it is not to wait.

        Returns:
          Whether it was written.

        Raises:
          OSError: it cannot be written.
        """
        if not parameters:
            return False
        stays = bool(self._every) and generation % self._every == 0
        is_last = generation == loop.config.cycle.generations - 1
        others = [held for index, (_, _, held) in self._held.items() if index != loop.index]
        is_due = stays or is_last or sum(map(_size, [*others, parameters])) > MOST_HELD_BYTES
        if is_due:
            save_model(self._run, loop, generation, parameters, stays)
        return is_due

    def follow(self, loop: Loop, generation: int, parameters: dict, is_written: bool) -> None:
        """Forget the models before that of a generation that counts as finished, and hold it if it is not written."""
        self._held.pop(loop.index, None)
        if is_written:
            forget_models(self._run, loop, generation)
        elif parameters:
            _import_orbax_beside()
            # They are a part of what all loops of a group gave back, which would be held with them.
            self._held[loop.index] = loop, generation, jax.tree.map(np.array, parameters)

    def write_held(self) -> None:
        """Write what is held: of loops that have not come to their end.

        Raises:
          OSError: it cannot be written.
        """
        while self._held:
            loop, generation, parameters = next(iter(self._held.values()))
            save_model(self._run, loop, generation, parameters, stays=False)
            forget_models(self._run, loop, generation)
            del self._held[loop.index]


@functools.cache
def _import_orbax_beside() -> None:
    """Begin to import Orbax, which takes longer than it takes to write a small model, while the devices train."""
    threading.Thread(target=importlib.import_module, args=("orbax.checkpoint",), daemon=True).start()


def save_model(run: Path, loop: Loop, generation: int, parameters: dict, stays: bool) -> None:
    """Write a model, and then its seal.

    Raises:
      OSError: it cannot be written.
    """
    folder = layout.model_folder(run, loop.index, generation)
    layout.make_loop_folder(run, "models", loop.index)
    _remove(run, loop, lambda _, generation: generation == folder.name)
    if jax.process_count() == 1:
        _write(folder, parameters)
    else:
        _write_in_a_process_of_its_own(folder, parameters)
    files = {name: [len(content), digest(content)] for name, content in _contents(folder)}
    seal = ModelSeal(settings_digest(loop), generation, stays, files)
    write_whole(layout.model_seal_path(run, loop.index, generation), seal_json(seal._asdict()))


def _write(folder: Path, parameters: dict) -> None:
    """Let Orbax write a checkpoint; it gives the folder its name once everything is there."""
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(folder.absolute(), args=ocp.args.StandardSave(parameters))
    except (OSError, RuntimeError, ValueError) as error:  # Whatever a full disk leads it to.
        lines = str(getattr(error, "strerror", None) or error).splitlines()
        raise OSError(None, lines[0] if lines else type(error).__name__, str(folder)) from None


def _write_in_a_process_of_its_own(folder: Path, parameters: dict) -> None:
    content = arrays_as_file({str(name): np.asarray(leaf) for name, leaf in flatten_dict(parameters, sep="/").items()})
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, str(folder)],
        input=content,
        capture_output=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        start_new_session=True,  # What stops the run does not stop this.
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(None, lines[-1] if lines else f"exit code {done.returncode}", str(folder))


def _write_received(folder: str) -> None:
    """Write the parameters that come through standard input."""
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as arrays:
        _write(Path(folder), unflatten_dict(dict(arrays), sep="/"))


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The name and the content of every file of a checkpoint that was just written, once it is on the disk."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            yield path.relative_to(folder).as_posix(), file.read()


def forget_models(run: Path, loop: Loop, newest: int) -> None:
    """Remove the model of a loop before this one, unless it stays, and what was never finished; older ones stay."""
    saved = layout.model_generations(run, loop.index)
    for generation in [one for one in saved if one < newest][:1]:
        with contextlib.suppress(DamageError):  # It is told of by whatever reads it.
            if not read_model_seal(run, loop, generation).stays:
                saved.remove(generation)
    kept = {place(run, loop.index, one) for one in saved for place in (layout.model_folder, layout.model_seal_path)}
    _remove(run, loop, lambda path, _: path not in kept)


def _remove(run: Path, loop: Loop, is_old: Callable[[Path, str], bool]) -> None:
    """Remove some of what runs and Orbax have written among the models of a loop, by path and generation."""
    found = [(path, _OURS.fullmatch(path.name)) for path in layout.loop_folder(run, "models", loop.index).glob("*")]
    old = [path for path, name in found if name and is_old(path, name[1])]
    # A seal goes before what it is of.
    for path in sorted(old, key=Path.is_dir):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _size(parameters: dict) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(parameters))
