"""The run folder as a run writes it, and how a run is resumed from it; `layout` says what lies where."""

import contextlib
import csv
import errno
import io
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax.serialization import msgpack_serialize

from jaxloop import __version__, layout
from jaxloop.config.presets import parse
from jaxloop.config.schema import Config, Loop, differences, dump, loops
from jaxloop.errors import DamageError, InputError, RunError
from jaxloop.files import (
    digest,
    open_without_following,
    read_file,
    require_plain_tree,
    seal_json,
    seal_text,
    unseal_json,
    write_whole,
)
from jaxloop.learners.transformer.model import activation_dtype
from jaxloop.loop.run_loops import Record, State
from jaxloop.runs.environment import results_depend_on
from jaxloop.runs.stored import (
    MOST_CONFIG_BYTES,
    Seal,
    StoredRun,
    most_parameters_bytes,
    most_samples_bytes,
    most_table_bytes,
    parse_table,
    read_config,
    read_samples,
    read_seal,
    read_state,
    require_digest,
    sealed_table,
    settings_digest,
)
from jaxloop.systems.logic.judge import Judgement
from jaxloop.systems.logic.measures import top_samples

CHECKPOINTS_KEPT = 2

# How old the tables at the top may get while loops finish generations, and how much of the time joining them may take.
_JOIN_SECONDS, _JOIN_SHARE = 20, 0.05

_SECTIONS = {"language", "cycle", "learner", "model", "train", "sample", "measure"}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "rapidfuzz")
_MOST_MANIFEST_BYTES = 2**26
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


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
        self.path, self._config = path, config
        self.warnings: list[str] = []  # of what is not as it should be, and yet the run goes on
        self._command, self._began = command, time.perf_counter()
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._seals: dict[int, Seal] = {}  # of each loop that has finished a generation, the newest
        self._restored: list[dict] = []
        self._joined_at, self._join_pause = time.monotonic(), _JOIN_SECONDS
        self._lock_file, self._process = None, process
        try:
            if process == 0:
                self._begin(overwrite)
            else:
                self._lock()
            self._place = _identity(path)
            self._require_same()
        except OSError as error:
            self.__exit__()
            raise InputError(f"{path}: cannot be used as a run folder: {error.strerror or error}") from None
        except InputError:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._lock_file:
            self._lock_file.close()

    def _begin(self, overwrite: bool) -> None:
        """Make the folder, or make sure that it is a run's, and empty it where it is to be overwritten."""
        config_path = self.path / layout.CONFIG
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; name a folder with --out")
        strangers = self.path.exists() and any(not path.name.startswith(".") for path in self.path.iterdir())
        # A run's config.toml has every section written out; any other file of that name is somebody else's.
        if strangers and not _is_of_a_run(config_path):
            raise InputError(f"{self.path}: is no run folder and not empty; name another with --out")
        self.path.mkdir(parents=True, exist_ok=True)
        require_plain_tree(self.path)
        self._lock()
        if overwrite and strangers:
            # config.toml goes last, so that a folder half deleted is still known as a run folder.
            for kind in layout.KINDS:
                for folder in self.path.glob(f"{kind}/loop_*"):
                    shutil.rmtree(folder)
            files = [self.path / f"{name}.csv" for name in (*layout.TABLES, *layout.DERIVED)]
            files += [self.path / "figures" / f"{name}.png" for name in layout.FIGURES]
            for path in (*files, self.path / layout.MANIFEST, config_path):
                path.unlink(missing_ok=True)
        if not config_path.exists():
            write_whole(config_path, seal_text(dump(self._config)))

    def _require_same(self) -> None:
        """Refuse a folder of other settings; one of fewer generations is made one of as many as are asked for."""
        try:
            stored = read_config(self.path)
        except DamageError as error:
            raise InputError(f"{error}; name another folder with --out, or start anew with --overwrite") from None
        changed = differences(dump(stored), dump(self._config))
        generations = [config.cycle.generations for config in (stored, self._config)]
        if len(changed) == 1 and changed[0].startswith("cycle.generations: "):
            if generations[0] > generations[1]:
                raise InputError(
                    f"{self.path}: was made with {generations[0]} generations, and a run can only be made longer; "
                    "name another folder with --out, or start anew with --overwrite"
                )
            if _all_but_generations(stored) == _all_but_generations(self._config):
                changed = []
                if not self._process:
                    write_whole(self.path / layout.CONFIG, seal_text(dump(self._config)))
        if changed:
            raise InputError(
                f"{self.path}: was made with other settings ({'; '.join(changed)}); "
                "name another folder with --out, or start anew with --overwrite"
            )
        self._sessions = self._read_sessions()
        self.write_manifest()

    def _lock(self) -> None:
        """Keep every other process out of the folder until this one ends, however it ends."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock.
            return
        own = self.path / f".lock_{self._process}"
        self._lock_file = open_without_following(own)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Of the processes that shared an earlier run, one may have outlived the first.
            for other in self.path.glob(".lock_*") if self._process == 0 else ():
                if other != own:
                    with open_without_following(other) as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.path}: another jaxloop is running in it; wait, or name another with --out"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self.warnings.append(
                f"{self.path}: this file system has no locks ({error.strerror}); take care that no second jaxloop "
                "runs in the folder"
            )

    def _require_place(self) -> None:
        """Refuse to write where the folder has gone, or is another one.

        Raises:
          RunError: somebody has removed or replaced it.
        """
        if _identity(self.path) != self._place or not (self.path / layout.CONFIG).exists():
            raise RunError(f"{self.path}: was removed or replaced while the run was under way; nothing more is written")

    def _make(self, folder: Path) -> None:
        """Make a folder two below that of the run, which itself must be there."""
        for one in (folder.parent, folder):
            with contextlib.suppress(FileExistsError):
                one.mkdir()

    def restore(self, loop: Loop, tail_rows: Callable[[int], int], warn: Callable[[str], None]) -> State | None:
        """Where a loop stands: its newest generation that is whole; None for a loop that has not begun.

        Rows of later generations are forgotten, for those will be made again.

        Args:
          loop: which one.
          tail_rows: how many rows of tails.csv a generation has.
          warn: is told of what is left out.

        Raises:
          InputError: results are missing or damaged, so that going on would lose what was measured.
        """
        generations = layout.sealed_generations(self.path, loop.index)
        # A generation's rows are written just before its seal.
        if not generations and self._measured_generations(loop) > 1:
            raise InputError(
                f"{layout.loop_folder(self.path, 'seals', loop.index)}: lacks seals of what "
                f"{layout.loop_folder(self.path, 'tables', loop.index)} holds; put them back, or start anew with "
                "--overwrite"
            )
        fault = None
        for generation in generations:
            try:
                state = self._restore(loop, generation, tail_rows, warn)
            except DamageError as error:
                fault = error
                continue
            if fault:
                warn(f"{fault}; loop {loop.index} goes on from generation {generation}")
            return state
        if fault:
            raise InputError(f"{fault}; put it right, or start anew with --overwrite")
        return None

    def _restore(
        self, loop: Loop, generation: int, tail_rows: Callable[[int], int], warn: Callable[[str], None]
    ) -> State:
        """The state after a generation, if all that its seal is of is whole.

        Raises:
          DamageError: it is not.
        """
        seal = read_seal(self.path, loop, generation)
        tables = {
            name: sealed_table(self.path, loop, seal, name) for name in layout.TABLES if name not in layout.SPARE_TABLES
        }
        rows = {
            name: parse_table(content, layout.table_path(self.path, loop.index, name))
            for name, content in tables.items()
        }
        for name, expected in (("metrics", lambda _: 1), ("tails", tail_rows)):
            counts = np.bincount([int(row["generation"]) for row in rows[name]], minlength=generation + 1)
            if counts.tolist() != [expected(earlier) for earlier in range(generation + 1)]:
                path = layout.table_path(self.path, loop.index, name)
                raise DamageError(f"{path}: has not the rows of generations 0 to {generation}")
        state = read_state(self.path, loop, seal, generation)
        if layout.PARAMETERS in seal.checkpoint:
            path = layout.checkpoint_folder(self.path, loop.index, generation) / layout.PARAMETERS
            require_digest(path, most_parameters_bytes(loop), seal.checkpoint[layout.PARAMETERS])
        for earlier, sealed in enumerate(seal.samples):
            require_digest(layout.samples_path(self.path, loop.index, earlier), most_samples_bytes(loop), sealed)
        self._seals[loop.index] = self._with_spare_tables(loop, generation, seal, warn)
        for name in layout.TABLES:
            self._cut_to_seal(loop, name)
        self._restored += rows["metrics"]
        return state

    def _cut_to_seal(self, loop: Loop, name: str) -> None:
        """Remove what stands in a loop's table after the rows that its seal is of."""
        path, (length, _) = layout.table_path(self.path, loop.index, name), self._seals[loop.index].tables[name]
        if path.exists() and path.stat().st_size > length:
            content = sealed_table(self.path, loop, self._seals[loop.index], name)
            if content:
                write_whole(path, content)
            else:
                path.unlink()

    def _measured_generations(self, loop: Loop) -> int:
        """How many rows metrics.csv has of a loop."""
        path = layout.table_path(self.path, loop.index, "metrics")
        return read_file(path, most_table_bytes(loop)).count(b"\n") - 1 if path.exists() else 0

    def _with_spare_tables(self, loop: Loop, generation: int, seal: Seal, warn: Callable[[str], None]) -> Seal:
        """The seal, and the tables that may be lost, made to fit each other again."""
        whole = dict(seal.tables)
        for name in layout.SPARE_TABLES:
            try:
                sealed_table(self.path, loop, seal, name)
            except DamageError as error:
                rows = self._top_samples(loop, generation, seal) if name == "top_samples" else []
                content = _as_csv(rows, list(rows[0])) if rows else b""
                path = layout.table_path(self.path, loop.index, name)
                if content:
                    write_whole(path, content)
                else:
                    path.unlink(missing_ok=True)
                whole[name] = [len(content), digest(content)]
                warn(f"{error}; it is {'made again' if content else 'left out'}, and nothing else depends on it")
        if whole == seal.tables:
            return seal
        seal = seal._replace(tables=whole)
        write_whole(layout.seal_path(self.path, loop.index, generation), seal_json(seal._asdict()))
        return seal

    def _top_samples(self, loop: Loop, last: int, seal: Seal) -> list[dict]:
        """The rows of top_samples.csv of all generations of a loop, from their samples."""
        rows = []
        for generation in range(last + 1):
            saved = read_samples(self.path, loop, seal, generation)
            judgement = Judgement(saved["verdict"], saved["fault"], saved["depth"])
            rows += top_rows(loop, generation, saved["tokens"], judgement)
        return rows

    def restored_metrics(self) -> list[dict]:
        """The rows of metrics.csv of every loop that has been restored, by loop and generation."""
        return self._restored

    def save(self, record: Record, judgement: Judgement, tables: dict[str, list[dict]]) -> None:
        """Keep one finished generation of one loop.

        Raises:
          RunError: the disk is full or cannot be written; what was saved before is whole.
        """
        loop, state, outcome = record.loop, record.state, record.outcome
        before = self._seals.get(loop.index) or _nothing_of(loop)
        if len(before.samples) > state.generation:
            return  # It is kept already: what was interrupted right after that asks a second time.
        try:
            self._require_place()
            samples = self._save_samples(loop, state, judgement, outcome.sampled_log_prob_N)
            seal = Seal(
                settings=before.settings,
                tables={name: self._extend_table(loop, before, name, tables.get(name, [])) for name in layout.TABLES},
                samples=[*before.samples, samples],
                checkpoint=self._save_checkpoint(loop, state, outcome.parameters),
            )
            path = layout.seal_path(self.path, loop.index, state.generation)
            self._make(path.parent)
            write_whole(path, seal_json(seal._asdict()))
            self._seals[loop.index] = seal
            self._forget_before(loop, state.generation - CHECKPOINTS_KEPT)
            if time.monotonic() - self._joined_at > self._join_pause:
                self.join()
        except (OSError, DamageError) as error:
            raise RunError(
                f"{self.path}: generation {state.generation} of loop {loop.index} could not be written: "
                f"{getattr(error, 'strerror', None) or error}; all before it is kept, and the same command goes on "
                "from there"
            ) from None

    def _extend_table(self, loop: Loop, seal: Seal, name: str, rows: list[dict]) -> list:
        """Write rows after those of a loop's table that are sealed; its new length and digest.

        Raises:
          DamageError: those are not what was sealed.
        """
        path, content = layout.table_path(self.path, loop.index, name), sealed_table(self.path, loop, seal, name)
        if rows:
            columns = next(csv.reader([content.partition(b"\n")[0].decode()])) if content else list(rows[0])
            content += _as_csv(_as_cells(rows), columns, header=not content)
            self._make(path.parent)
            write_whole(path, content)
        return [len(content), digest(content)]

    def _save_samples(self, loop: Loop, state: State, judgement: Judgement, log_prob_N: np.ndarray) -> str:
        path = layout.samples_path(self.path, loop.index, state.generation)
        self._make(path.parent)
        content = io.BytesIO()
        np.savez_compressed(
            content,
            tokens=np.ascontiguousarray(state.sampled_NxT),
            verdict=judgement.verdict_N,
            fault=judgement.fault_N,
            depth=judgement.depth_N,
            log_prob=log_prob_N,
        )
        write_whole(path, content.getvalue())
        return digest(content.getvalue())

    def _save_checkpoint(self, loop: Loop, state: State, parameters: dict) -> dict[str, str]:
        layout.seal_path(self.path, loop.index, state.generation).unlink(missing_ok=True)
        folder = layout.checkpoint_folder(self.path, loop.index, state.generation)
        shutil.rmtree(folder, ignore_errors=True)
        self._make(folder.parent)
        folder.mkdir()
        content = io.BytesIO()
        carried = {
            f"{name}.{field}": np.ascontiguousarray(array)
            for name, rows in state.carry._asdict().items()
            for field, array in rows._asdict().items()
        }
        np.savez(content, sampled_NxT=np.ascontiguousarray(state.sampled_NxT), **carried)
        files = {layout.STATE: content.getvalue()}
        if parameters:
            files[layout.PARAMETERS] = msgpack_serialize(parameters)
        for name, content in files.items():
            write_whole(folder / name, content)
        return {name: digest(content) for name, content in files.items()}

    def _forget_before(self, loop: Loop, last: int) -> None:
        """Remove the checkpoints of a loop up to a generation, and their seals."""
        for old in layout.sealed_generations(self.path, loop.index):
            if old <= last:
                layout.seal_path(self.path, loop.index, old).unlink()
                shutil.rmtree(layout.checkpoint_folder(self.path, loop.index, old), ignore_errors=True)

    def join(self) -> None:
        """Bring the tables at the top up to date with those of all loops; the first process does that alone."""
        if self._process:
            return
        begun = time.monotonic()
        self._require_place()
        for name, content in joined_tables(self.stored()).items():
            if content:
                write_whole(self.path / f"{name}.csv", content)
            else:
                (self.path / f"{name}.csv").unlink(missing_ok=True)
        self._joined_at = time.monotonic()
        self._join_pause = max(_JOIN_SECONDS, (self._joined_at - begun) / _JOIN_SHARE)

    def stored(self) -> StoredRun:
        """The folder as everybody reads it."""
        return StoredRun(self.path)

    def write_derived(self, name: str, rows: list[dict]) -> None:
        """Write a table that is made of the others, or none where it has no rows."""
        content = derived_table(rows)
        if content:
            write_whole(self.path / f"{name}.csv", content)
        else:
            (self.path / f"{name}.csv").unlink(missing_ok=True)

    def write_manifest(self, figures: Iterable[Path] = ()) -> None:
        """Bring manifest.json up to date: this command is its last session; the first process does that alone.

        Args:
          figures: what this session has drawn; until it has, the manifest vouches for none.
        """
        if self._process:
            return
        drawn = {path.stem: digest(path.read_bytes()) for path in figures}
        session = {
            "command": self._command,
            "started": self._started,
            "seconds": round(time.perf_counter() - self._began, 1),
            "jaxloop": __version__,
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in _PACKAGES},
            "results_depend_on": environment(self._config),
            "platform": jax.local_devices()[0].platform,
            "device": jax.local_devices()[0].device_kind,
            "devices": len(jax.devices()),
            "processes": jax.process_count(),
            "cores": os.cpu_count(),
            "machine": platform.platform(),
        }
        write_whole(self.path / layout.MANIFEST, seal_json({"sessions": [*self._sessions, session], "figures": drawn}))

    def _read_sessions(self) -> list[dict]:
        """The sessions before this one; warns where what is left to be computed would be in another environment."""
        path = self.path / layout.MANIFEST
        if self._process or not path.exists():
            return []
        try:
            sessions = read_manifest(path).sessions
        except DamageError as error:
            self.warnings.append(f"{error}; it is begun anew, and nothing else depends on it")
            return []
        before, now = (sessions[-1].get("results_depend_on", {}) if sessions else {}), environment(self._config)
        differ = [
            f"{name} was {before.get(name)}, is {value}" for name, value in now.items() if before.get(name) != value
        ]
        if sessions and differ and self._is_between():
            self.warnings.append(
                f"{self.path}: was begun in another environment ({'; '.join(differ)}); what is computed from here on "
                "may differ in its last bits, and then in its course, from a run in one environment"
            )
        return sessions

    def _is_between(self) -> bool:
        """Whether some generations are finished, and others are not."""
        newest = [next(iter(layout.sealed_generations(self.path, loop.index)), -1) for loop in loops(self._config)]
        return max(newest) >= 0 and min(newest) < self._config.cycle.generations - 1


def _nothing_of(loop: Loop) -> Seal:
    """What a loop has before its first generation is finished."""
    return Seal(settings_digest(loop), {name: [0, digest(b"")] for name in layout.TABLES}, [], {})


class Manifest(NamedTuple):
    """What manifest.json says of a run."""

    sessions: list[dict]  # the commands, the first one first
    figures: dict[str, str]  # digest of each figure that the last command drew


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.json.

    Raises:
      DamageError: it is not what the run wrote.
    """
    content = unseal_json(read_file(path, _MOST_MANIFEST_BYTES), path)
    sessions, figures = content.get("sessions"), content.get("figures", {})
    are_sessions = isinstance(sessions, list) and all(isinstance(one, dict) for one in sessions)
    if not are_sessions or not isinstance(figures, dict) or not figures.keys() <= set(layout.FIGURES):
        raise DamageError(f"{path}: is damaged")
    return Manifest(sessions, figures)


def environment(config: Config) -> dict[str, str]:
    """What the last bits of results depend on, beside the settings."""
    return {**results_depend_on(), "activations": str(activation_dtype(config.model))}


def top_rows(loop: Loop, generation: int, tokens_NxT: np.ndarray, judgement: Judgement) -> list[dict]:
    """The rows of top_samples.csv of one generation of a loop."""
    return [
        {"loop": loop.index, "seed": loop.seed, "generation": generation, "rank": rank, "count": count,
         "verdict": verdict, "text": text}
        for rank, (text, count, verdict) in enumerate(top_samples(tokens_NxT, judgement), start=1)
    ]  # fmt: skip


def joined_tables(run: StoredRun) -> dict[str, bytes]:
    """Every table of all loops of a run as CSV, nothing where it has no rows; columns that a loop lacks are empty.

    Raises:
      DamageError: a table is not what was sealed.
    """
    parts = {name: [] for name in layout.TABLES}
    for loop, tables in run.tables():
        for name, content in tables.items():
            if content:
                parts[name].append((loop, *content.split(b"\n", 1)))
    return {name: _joined(run, name, of_loops) for name, of_loops in parts.items()}


def _joined(run: StoredRun, name: str, parts: list[tuple[Loop, bytes, bytes]]) -> bytes:
    headers = dict.fromkeys(header for _, header, _ in parts)
    if len(headers) <= 1:
        return b"".join([*(header + b"\n" for header in headers), *(rows for _, _, rows in parts)])
    columns = list(dict.fromkeys(column for header in headers for column in next(csv.reader([header.decode()]))))
    rows = [
        row
        for loop, header, content in parts
        for row in parse_table(header + b"\n" + content, layout.table_path(run.path, loop.index, name))
    ]
    return _as_csv(rows, columns)


def derived_table(rows: list[dict]) -> bytes:
    """Rows with the same columns as a CSV file; nothing without rows."""
    return _as_csv(_as_cells(rows), list(rows[0])) if rows else b""


def load_parameters(run: Path | str, loop: int, generation: int | None = None) -> dict:
    """The parameters of a model of a run, of its newest generation or of another one that is kept, for `score`.

    Args:
      run: the run folder.
      loop: its number.
      generation: which of those that are kept; by default the newest.

    Raises:
      InputError: there is no such model, or it is damaged.
    """
    return StoredRun(run).parameters(loop, generation)


def _is_of_a_run(config_path: Path) -> bool:
    """Whether a config.toml has every section of a run's written out, sealed or not."""
    if not config_path.exists():
        return False
    text = read_file(config_path, MOST_CONFIG_BYTES).decode("utf-8-sig", "replace")
    try:
        return parse(text, str(config_path)).model_fields_set >= _SECTIONS
    except InputError as error:
        raise InputError(f"{error}; put it right, or name another folder with --out") from None


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one at its place; None where there is none."""
    try:
        state = folder.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _all_but_generations(config: Config) -> list[tuple]:
    """All that decides the loops of a run, but how long they are."""
    return [(loop.index, loop.axes, loop.config.cycle.fresh_only, settings_digest(loop)) for loop in loops(config)]


def _as_csv(rows: list[dict[str, str]], columns: list[str], header: bool = True) -> bytes:
    """Rows as CSV; a column that a row lacks is empty."""
    content = io.StringIO()
    writer = csv.DictWriter(content, columns, lineterminator="\n", restval="")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return content.getvalue().encode()


def _as_cells(rows: list[dict]) -> list[dict[str, str]]:
    return [{key: _cell(value) for key, value in row.items()} for row in rows]


def _cell(value) -> str:
    """A number in the shortest form that reads back the same; nothing where there is none, or no value."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if np.isnan(value) else repr(float(value))
    return str(value)
