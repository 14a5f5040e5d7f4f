"""The run folder as a run writes it: opened, restored from, saved to, joined; `layout` says what lies where."""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from jaxloop import layout
from jaxloop.config.schema import Config, Loop, loops
from jaxloop.errors import DamageError, InputError, RunError
from jaxloop.files import digest, require_plain_tree
from jaxloop.loop.interfaces import Record, State
from jaxloop.runs.checkpoints import (
    CHECKPOINTS_KEPT,
    Unwritten,
    announce,
    forget_before,
    save_checkpoint,
    save_samples,
    write_seal,
)
from jaxloop.runs.lock import Lock
from jaxloop.runs.manifest import Session
from jaxloop.runs.models import Models
from jaxloop.runs.opening import empty, holds_a_run, require_same, write_config
from jaxloop.runs.restore import restore_loop
from jaxloop.runs.stored import Seal, StoredRun, settings_digest
from jaxloop.runs.tables import extend_table, joined_tables, whole_table, write_table

# How old the tables at the top may get while loops finish generations, and how much of the time joining them may take.
_JOIN_SECONDS, _JOIN_SHARE = 20, 0.05
# How long a generation that is finished may wait for others, and how much of the time writing them may take.
_FLUSH_SECONDS, FLUSH_SHARE = 1.0, 0.2


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path, config: Config, command: str, overwrite: bool = False, process: int = 0):
        """Open a new folder, or one that was made with the same config, or one of fewer generations.

        Args:
          path: the folder.
          config: of the run.
          command: how this was called, for the manifest.
          overwrite: start anew where the folder holds a run.
          process: which of the processes that share the run; those after the first find its folder there.

        Raises:
          InputError: the folder cannot be written, belongs to another config, or is not a run folder.
        """
        self.path, self._config, self._process = path, config, process
        self.warnings: list[str] = []  # of what is not as it should be, and yet the run goes on
        self._session = Session(config, command)
        self._seals: dict[int, Seal] = {}  # of each loop that has finished a generation, the newest
        self._restored: list[dict] = []
        self._models = Models(path, config.store.models_every_generations)
        self._joined_at, self._join_pause = time.monotonic(), _JOIN_SECONDS
        self._waiting: dict[int, list[Unwritten]] = {}  # of each loop what is finished and not yet written, in order
        self._flushed_at, self._flush_pause = -math.inf, _FLUSH_SECONDS
        self._lock: Lock | None = None
        try:
            self._open(overwrite)
        except OSError as error:
            self.__exit__()
            raise InputError(f"{path}: cannot be used as a run folder: {error.strerror or error}") from None
        except InputError:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._lock:
            self._lock.release()

    def _open(self, overwrite: bool) -> None:
        """Make the folder, or make sure that it is this run's; the first process alone writes anything there."""
        is_first = self._process == 0
        holds_run = is_first and holds_a_run(self.path)
        if is_first:
            self.path.mkdir(parents=True, exist_ok=True)
            require_plain_tree(self.path)
        self._lock = Lock(self.path, self._process)
        self.warnings += [self._lock.warning] if self._lock.warning else []
        if is_first:
            if overwrite and holds_run:
                empty(self.path)
            if not (self.path / layout.CONFIG).exists():
                write_config(self.path, self._config)
        self._place = _identity(self.path)
        is_longer = require_same(self.path, self._config)
        if is_first:
            if is_longer:
                write_config(self.path, self._config)
            self.warnings += self._session.follow(self.path / layout.MANIFEST, self._is_between)
            self.write_manifest()

    def _is_between(self) -> bool:
        """Whether some generations are finished, and others are not."""
        newest = [next(iter(layout.sealed_generations(self.path, loop.index)), -1) for loop in loops(self._config)]
        return max(newest) >= 0 and min(newest) < self._config.cycle.generations - 1

    def _require_place(self) -> None:
        """Refuse to write where the folder has gone, or is another one.

        Raises:
          RunError: somebody has removed or replaced it.
        """
        if _identity(self.path) != self._place or not (self.path / layout.CONFIG).exists():
            raise RunError(f"{self.path}: was removed or replaced while the run was under way; nothing more is written")

    def restore(self, loop: Loop, tail_rows: Callable[[int], int], warn: Callable[[str], None]) -> State | None:
        """Where a loop stands: its newest generation that is whole; None for a loop that has not begun.

        Rows of later generations are forgotten, for those will be made again; see `restore_loop`.

        Raises:
          InputError: results are missing or damaged, so that going on would lose what was measured.
        """
        restored = restore_loop(self.path, loop, tail_rows, warn)
        if not restored:
            return None
        self._seals[loop.index] = restored.seal
        self._restored += restored.metrics
        return restored.state

    def restored_metrics(self) -> list[dict]:
        """The rows of metrics.csv of every loop that has been restored, by loop and generation."""
        return self._restored

    def save(self, record: Record, arrays: dict[str, np.ndarray], tables: dict[str, list[dict]]) -> None:
        """Keep one finished generation of one loop: at once, or, where they come quickly, with others in `flush`.

        Args:
          record: what the loop goes on from, and the model.
          arrays: what is stored of its samples.
          tables: their rows.

        Raises:
          RunError: the disk is full or cannot be written; what was saved before is whole.
        """
        index, generation = record.loop.index, record.state.generation
        waiting = self._waiting.get(index, [])
        newest = waiting[-1].record.state.generation if waiting else self._newest(index)
        if generation > newest:  # Else what was interrupted right after it was kept asks a second time.
            self._waiting[index] = [*waiting, Unwritten(record, arrays, tables)]
        if time.monotonic() - self._flushed_at > self._flush_pause:
            self.flush()

    def _newest(self, index: int) -> int:
        """The newest generation of a loop that is sealed; -1: none is."""
        return len(self._seals[index].samples) - 1 if index in self._seals else -1

    def flush(self) -> None:
        """Write what waits to be written.

        Raises:
          RunError: the disk is full or cannot be written; what was saved before is whole.
        """
        begun, failures = time.monotonic(), []
        for index, waiting in list(self._waiting.items()):
            try:
                self._write_as_many(waiting)
                del self._waiting[index]
            except Exception as error:  # Others are written all the same.
                failures.append(error)
        if failures:
            raise failures[0]
        self._flushed_at = time.monotonic()
        self._flush_pause = max(_FLUSH_SECONDS, (self._flushed_at - begun) / FLUSH_SHARE)
        if self._flushed_at - self._joined_at > self._join_pause:
            self.join()

    def _write_as_many(self, waiting: list[Unwritten]) -> None:
        """Write generations of one loop; where that fails, as many of the first of them as can be."""
        try:
            self._write(waiting)
        except Exception:
            while len(waiting) > 1:
                self._write(waiting[:1])
                waiting.pop(0)
            raise

    def _write(self, waiting: list[Unwritten]) -> None:
        """Write generations of one loop that follow each other."""
        loop, last = waiting[0].record.loop, waiting[-1].record.state.generation
        before = self._seals.get(loop.index) or _nothing_of(loop)
        try:
            self._require_place()
            # Before the seal, so that a loop that is finished has its newest model.
            written = [
                self._models.write_due(loop, one.record.state.generation, one.record.written.parameters)
                for one in waiting
            ]
            samples = [*before.samples, *(save_samples(self.path, loop, one) for one in waiting)]
            if len(waiting) > 1:
                announce(self.path, loop, last)
            # The newest generations are sealed one by one, those before with the first of these.
            alone = max(len(waiting) - CHECKPOINTS_KEPT + 1, 1)
            groups = [waiting[:alone], *([one] for one in waiting[alone:])]
            tables = {
                name: extend_table(self.path, loop, before, name, [_rows(group, name) for group in groups])
                for name in layout.TABLES
            }
            seal = before
            for place, group in enumerate(groups):
                state = group[-1].record.state
                seal = Seal(
                    settings=before.settings,
                    tables={name: of_table[place] for name, of_table in tables.items()},
                    samples=samples[: state.generation + 1],
                    checkpoint=save_checkpoint(self.path, loop, state),
                )
                write_seal(self.path, loop, state.generation, seal)
            self._seals[loop.index] = seal
            for one, is_written in zip(waiting, written, strict=True):
                self._models.follow(loop, one.record.state.generation, one.record.written.parameters, is_written)
            forget_before(self.path, loop, last - CHECKPOINTS_KEPT)
        except (OSError, DamageError, ValueError) as error:
            raise RunError(
                f"{self.path}: generation {last} of loop {loop.index} could not be written: "
                f"{getattr(error, 'strerror', None) or error}; all before it is kept, and the same command goes on "
                "from there"
            ) from None

    def write_models(self, warn: Callable[[str], None]) -> None:
        """Write the newest models of loops that have not come to their end, however the run ends."""
        try:
            self._require_place()
            self._models.write_held()
        except (OSError, RunError) as error:
            warn(f"{self.path}: models were not written: {getattr(error, 'strerror', None) or error}")

    def join(self) -> None:
        """Bring the tables at the top up to date with those of all loops; the first process does that alone."""
        if self._process:
            return
        begun = time.monotonic()
        self._require_place()
        for name, content in joined_tables(self.stored()).items():
            write_table(self.path / f"{name}.csv", content)
        self._joined_at = time.monotonic()
        self._join_pause = max(_JOIN_SECONDS, (self._joined_at - begun) / _JOIN_SHARE)

    def stored(self) -> StoredRun:
        """The folder as everybody reads it."""
        return StoredRun(self.path)

    def write_derived(self, name: str, rows: list[dict]) -> None:
        """Write a table that is made of the others, or none where it has no rows."""
        write_table(self.path / f"{name}.csv", whole_table(rows))

    def write_manifest(self, figures: Iterable[Path] = ()) -> None:
        """Bring manifest.json up to date: this command is its last session; the first process does that alone.

        Args:
          figures: what this session has drawn; until it has, the manifest vouches for none.
        """
        if not self._process:
            self._session.write(self.path / layout.MANIFEST, figures)


def _rows(group: list[Unwritten], name: str) -> list[dict]:
    """The rows of a table that generations have, in order."""
    return [row for one in group for row in one.tables.get(name, [])]


def _nothing_of(loop: Loop) -> Seal:
    """What a loop has before its first generation is finished."""
    return Seal(settings_digest(loop), {name: [0, digest(b"")] for name in layout.TABLES}, [], {})


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one at its place; None where there is none."""
    try:
        state = folder.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino
