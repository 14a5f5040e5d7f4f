"""Reading the models of a run: only where they are what was sealed, and of the sizes that the settings say.

Orbax decides how many files a checkpoint has and how they are called; the seal beside it names them all, and counts.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxloop import layout
from jaxloop.config.schema import Loop
from jaxloop.errors import DamageError, InputError
from jaxloop.files import read_file, require_plain_tree, unseal_json
from jaxloop.runs.stored import StoredRun, require_digest, settings_digest
from jaxloop.systems.registry import system_of

_MOST_SEAL_BYTES = 2**20
_SLACK_BYTES = 2**20  # of each block: names and sizes beside the numbers


class ModelSeal(NamedTuple):
    """What was there of a model when it was written."""

    settings: str  # as in the seals of generations
    generation: int
    stays: bool  # when a newer one is there
    files: dict[str, list]  # of each its length in bytes, and its digest


def newest_model(run: StoredRun, loop: Loop) -> int | None:
    """The newest generation of a loop that is finished and has a model; None where none has."""
    finished = run.newest(loop)
    saved = layout.model_generations(run.path, loop.index)
    return next((generation for generation in saved if finished is not None and generation <= finished), None)


def newer_without_model(run: StoredRun, loop: Loop) -> list[str]:
    """A sentence where generations of a loop are finished that are newer than its newest model."""
    finished, newest = run.newest(loop), newest_model(run, loop)
    if newest in (None, finished):
        return []
    return [
        f"{layout.loop_folder(run.path, 'models', loop.index)}: the newest model is of generation {newest}, and the "
        f"last that is finished is {finished}; {_WHEN}"
    ]


_WHEN = (
    "a run writes a loop's newest model when the loop or the run ends, and cannot where it is killed outright "
    "(store.models_every_generations writes others on the way)"
)


def load_parameters(run: Path | str, loop: int, generation: int | None = None) -> dict:
    """The parameters of a model of a run, for `score`.

    Args:
      run: the run folder.
      loop: its number.
      generation: which of those that have a model; by default the newest that is finished.

    Raises:
      InputError: there is no such model, or it is damaged.
    """
    stored = StoredRun(run)
    of_loop = stored.loop(loop)
    if of_loop.config.learner.name != "transformer":
        raise InputError(f"{stored.path}: loop {loop} has no models; reference learners have no parameters")
    newest = newest_model(stored, of_loop)
    folder = layout.loop_folder(stored.path, "models", loop)
    if newest is None:
        raise InputError(f"{folder}: has no model of a generation that is finished; {_WHEN}")
    saved = [one for one in layout.model_generations(stored.path, loop) if one <= newest]
    for sentence in newer_without_model(stored, of_loop) if generation is None else ():
        raise InputError(f"{sentence}; name one of generations {_listed(saved)}")
    if generation not in (None, *saved):
        raise InputError(f"{folder}: has models of generations {_listed(saved)}, and not of {generation}; {_WHEN}")
    return read_model(stored.path, of_loop, newest if generation is None else generation)


def _listed(generations: list[int]) -> str:
    return ", ".join(map(str, sorted(generations)))


def read_model(run: Path, loop: Loop, generation: int) -> dict:
    """The parameters of the model of a generation.

    Raises:
      DamageError: they are not what was sealed, or of other sizes than the settings say.
    """
    folder, seal = layout.model_folder(run, loop.index, generation), read_model_seal(run, loop, generation)
    try:
        if folder.is_symlink():
            raise DamageError(f"{folder}: is a link")
        require_plain_tree(folder)
    except (InputError, OSError) as error:
        raise DamageError(str(error)) from None
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    for name in sorted(names ^ seal.files.keys()):
        raise DamageError(f"{folder / name}: {'is none of the files of this model' if name in names else 'is missing'}")
    for name, (length, sealed) in seal.files.items():
        require_digest(folder / name, length, sealed)
    return _restore(run, loop, folder)


def _restore(run: Path, loop: Loop, folder: Path) -> dict:
    import orbax.checkpoint as ocp
    from etils import epath  # What Orbax itself takes for paths.

    expected = system_of(loop.config).parameter_shapes(loop.config)
    try:
        handler = ocp.StandardCheckpointHandler()
        stored = handler.metadata(epath.Path(folder.absolute())).tree
        # Before anything is read: arrays, and the pieces that they are stored in, may be said to be of any size.
        if not all(jax.tree.leaves(jax.tree.map(_is_like, expected, stored))):
            raise ValueError("other sizes")
        with ocp.Checkpointer(handler) as checkpointer:
            return checkpointer.restore(folder.absolute(), args=ocp.args.StandardRestore(expected))
    except Exception:  # Whatever a damaged checkpoint leads Orbax to.
        raise DamageError(f"{folder}: is no model of the sizes in {run / layout.CONFIG}") from None


def _is_like(expected: jax.ShapeDtypeStruct, stored: Any) -> bool:
    """Whether an array is stored with this shape and dtype, in pieces no larger than itself."""
    pieces = zip(stored.storage.chunk_shape, expected.shape, strict=True)
    is_like = (stored.shape, stored.dtype) == (expected.shape, expected.dtype)
    return is_like and all(0 < part <= whole for part, whole in pieces)


def read_model_seal(run: Path, loop: Loop, generation: int) -> ModelSeal:
    """The seal of a model.

    Raises:
      DamageError: it is not whole, or another model's.
    """
    path = layout.model_seal_path(run, loop.index, generation)
    values = unseal_json(read_file(path, _MOST_SEAL_BYTES), path)
    seal = ModelSeal._make(map(values.get, ModelSeal._fields))
    try:
        total = sum(length for length, _ in seal.files.values())
    except (AttributeError, TypeError, ValueError):
        raise DamageError(f"{path}: is no seal of a model") from None
    if seal.generation != generation or total > _most_bytes(loop):
        raise DamageError(f"{path}: is no seal of a model of generation {generation}")
    if seal.settings != settings_digest(loop):
        raise DamageError(f"{path}: is of other settings than those of loop {loop.index} in {run / layout.CONFIG}")
    return seal


def _most_bytes(loop: Loop) -> int:
    """More than a checkpoint of a model takes."""
    leaves = jax.tree.leaves(system_of(loop.config).parameter_shapes(loop.config))
    return sum(2 * leaf.size * leaf.dtype.itemsize + _SLACK_BYTES for leaf in leaves)
