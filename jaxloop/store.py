"""The run folder: what is in it, and how a run is resumed from it.

    config.toml            the resolved settings
    metrics.csv            a row per loop and generation; the same bits for the same settings on the same hardware
    tails.csv              survival of the source's tails: a row per class of expressions
    summary.csv            what each cell came to, with its uncertainty over seeds
    collapse.csv, half_lives.csv, split.csv     what collapsed, in which meaning of the word, when, and why
    timings.csv            seconds of the same rows
    provenance.csv         rows of each training set by where they came from
    top_samples.csv        the most frequent samples
    tables/loop_000/       the part of those tables that is one loop's
    samples/loop_000/generation_000.npz     every sample, and what the judge said of it
    checkpoints/loop_000/0/state.npz        the carry of the loop and its samples (the last two generations)
    checkpoints/loop_000/0/parameters.msgpack   its model's parameters, where it has any, as Flax writes them
    figures/
    manifest.json          versions, device, cores, commands and their seconds

Every file appears whole or not at all. A generation counts as finished when its checkpoint's digest is there, and that
is written last. What is of one loop is written by the process that computes it; the tables at the top are joined from
the loops' own, so that they may be stale while a run goes on, or after it was killed.
"""

import csv
import hashlib
import io
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize

from jaxloop import __version__
from jaxloop.config import Config, Loop, differences, dump, loops
from jaxloop.cycles import Carry, Rows
from jaxloop.errors import InputError, RunError
from jaxloop.loop import Record, State
from jaxloop.model import make_model
from jaxloop.presets import load
from jaxloop.verify import Judgement

CHECKPOINTS_KEPT = 2
_PARAMETERS = "parameters.msgpack"

# How old the tables at the top may get while loops finish generations.
_JOIN_SECONDS = 20

_SECTIONS = {"language", "cycle", "learner", "model", "train", "sample", "measure"}
_TABLES = ("metrics", "timings", "provenance", "top_samples", "tails")
_DERIVED = ("summary", "collapse", "half_lives", "split")
FIGURES = ("overview", "diversity", "final", "correctness", "heat_map")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "rapidfuzz")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path, config: Config, command: str, overwrite: bool = False, process: int = 0):
        """Open a new folder, or one that was made with the same config.

        Args:
          path: the folder.
          config: of the run.
          command: how this was called, for the manifest.
          overwrite: start anew where the folder holds a run.
          process: which of the processes that share the run; those after the first find its folder there.

        Raises:
          InputError: the folder cannot be written, belongs to another config, or is not a run folder.
        """
        self.path = path
        self._command, self._began = command, time.perf_counter()
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
        # Of each loop that has been restored the rows of each table, by generation, as they stand in its file.
        self._tables: dict[int, dict[str, dict[int, list[dict]]]] = {}
        self._joined_at = time.monotonic()
        self._lock_file, self._process = None, process
        try:
            if process == 0:
                self._begin(dump(config), overwrite)
            else:
                self._lock()
            self._require_same(dump(config))
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

    def _begin(self, config_text: str, overwrite: bool) -> None:
        """Make the folder, or make sure that it is a run's, and empty it where it is to be overwritten."""
        config_path = self.path / "config.toml"
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; name a folder with --out")
        strangers = self.path.exists() and any(not path.name.startswith(".") for path in self.path.iterdir())
        # A run's config.toml has every section written out; any other file of that name is somebody else's.
        if strangers and not (config_path.exists() and load(str(config_path)).model_fields_set >= _SECTIONS):
            raise InputError(f"{self.path}: is no run folder and not empty; name another with --out")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        if overwrite and strangers:
            # config.toml goes last, so that a folder half deleted is still known as a run folder.
            for kind in ("checkpoints", "samples", "tables"):
                for folder in self.path.glob(f"{kind}/loop_*"):
                    shutil.rmtree(folder)
            files = [self.path / f"{name}.csv" for name in (*_TABLES, *_DERIVED)]
            files += [self.path / "figures" / f"{name}.png" for name in FIGURES]
            for path in (*files, self.path / "manifest.json", config_path):
                path.unlink(missing_ok=True)
        if not config_path.exists():
            write_whole(config_path, config_text.encode())

    def _require_same(self, config_text: str) -> None:
        changed = differences((self.path / "config.toml").read_text(encoding="utf-8-sig"), config_text)
        if changed:
            raise InputError(
                f"{self.path}: was made with other settings ({'; '.join(changed)}); "
                "name another folder with --out, or start anew with --overwrite"
            )
        self.write_manifest()

    def _lock(self) -> None:
        """Keep every other process out of the folder until this one ends, however it ends."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock.
            return
        own = self.path / f".lock_{self._process}"
        self._lock_file = own.open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Of the processes that shared an earlier run, one may have outlived the first.
            for other in self.path.glob(".lock_*") if self._process == 0 else ():
                if other != own:
                    with other.open("w") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.path}: another jaxloop is running in it; wait, or name another with --out"
            ) from None

    def _read_tables(self, loop: Loop) -> dict[str, dict[int, list[dict]]]:
        tables = {name: {} for name in _TABLES}
        for name, table in tables.items():
            for row in _read_table(self._loop_folder("tables", loop) / f"{name}.csv"):
                table.setdefault(int(row["generation"]), []).append(row)
        return tables

    def _loop_folder(self, kind: str, loop: Loop) -> Path:
        return self.path / kind / f"loop_{loop.index:03d}"

    def _require_results(self, loop: Loop, generation: int, tail_rows: Callable[[int], int], folder: Path) -> None:
        """Refuse if anything is missing of the generations that a checkpoint stands for."""
        for earlier in range(generation + 1):
            expected = {"metrics": 1, "timings": 1, "tails": tail_rows(earlier)}
            for name, table in self._tables[loop.index].items():
                found = len(table.get(earlier, ()))
                if found != expected.get(name, max(found, 1)):
                    raise InputError(
                        f"{self._loop_folder('tables', loop) / f'{name}.csv'}: has {found or 'no'} rows of generation "
                        f"{earlier}, which {folder} holds; put it right, or start anew with --overwrite"
                    )
            if not self._samples_path(loop, earlier).exists():
                raise InputError(
                    f"{self._samples_path(loop, earlier)}: is missing; put it back, or start anew with --overwrite"
                )

    def restore(self, loop: Loop, tail_rows: Callable[[int], int], warn: Callable[[str], None]) -> State | None:
        """Where a loop stands: its newest checkpoint that is whole; None for a loop that has not begun.

        Rows of later generations are forgotten, for those will be made again.

        Args:
          loop: which one.
          tail_rows: how many rows of tails.csv a generation has.
          warn: is told of checkpoints that are left out.

        Raises:
          InputError: results or checkpoints are missing or damaged, so that going on would lose what was measured.
        """
        folder = self._loop_folder("checkpoints", loop)
        generations = sorted((int(path.stem) for path in folder.glob("*.sha256") if path.stem.isdigit()), reverse=True)
        tables = self._tables[loop.index] = self._read_tables(loop)
        measured = max(tables["metrics"], default=-1)
        # A generation's rows are written just before its checkpoint, so they may be one ahead of it.
        if measured > max(generations, default=-1) + 1:
            raise InputError(
                f"{folder}: lacks checkpoints of what {self._loop_folder('tables', loop)} holds; put them back, or "
                "start anew with --overwrite"
            )
        for generation in generations:
            checkpoint = folder / str(generation)
            try:
                whole = _digest(checkpoint) == (folder / f"{generation}.sha256").read_text()
            except OSError:
                whole = False
            if not whole:
                warn(f"{checkpoint}: is damaged and left out; the loop goes on from an earlier one")
                continue
            self._require_results(loop, generation, tail_rows, folder)
            self._forget_after(loop, generation)
            with np.load(checkpoint / "state.npz", allow_pickle=False) as saved:
                training, archive = (
                    Rows(*(saved[f"{name}.{field}"] for field in Rows._fields)) for name in Carry._fields
                )
                return State(generation, Carry(training, archive), saved["sampled_NxT"])
        if generations:
            raise InputError(f"{folder}: every checkpoint is damaged; start anew with --overwrite")
        self._forget_after(loop, -1)
        return None

    def _forget_after(self, loop: Loop, generation: int) -> None:
        for table in self._tables[loop.index].values():
            for later in [other for other in table if other > generation]:
                del table[later]

    def restored_metrics(self) -> list[dict]:
        """The rows of metrics.csv of every loop that has been restored, by loop and generation."""
        return [row for tables in self._tables.values() for rows in tables["metrics"].values() for row in rows]

    def join(self) -> None:
        """Bring the tables at the top up to date with those of all loops; the first process does that alone."""
        self._joined_at = time.monotonic()
        if self._process:
            return
        for name in _TABLES:
            halves = [path.read_bytes().partition(b"\n") for path in _loop_tables(self.path, name)]
            if halves:
                header = halves[0][0] + b"\n"
                write_whole(self.path / f"{name}.csv", header + b"".join(rows for _, _, rows in halves))

    def save(self, record: Record, judgement: Judgement, tables: dict[str, list[dict]]) -> None:
        """Keep one finished generation of one loop.

        Raises:
          RunError: the disk is full or cannot be written; what was saved before is whole.
        """
        loop, state, outcome = record.loop, record.state, record.outcome
        try:
            self._save_samples(loop, state, judgement, outcome.sampled_log_prob_N)
            for name, rows in tables.items():
                if rows:
                    table = self._tables[loop.index][name]
                    table[state.generation] = _as_cells(rows)
                    path = self._loop_folder("tables", loop) / f"{name}.csv"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(path, _csv_text([row for earlier in sorted(table) for row in table[earlier]]))
            self._save_checkpoint(loop, state, outcome.parameters)
            if time.monotonic() - self._joined_at > _JOIN_SECONDS:
                self.join()
        except OSError as error:
            raise RunError(
                f"{self.path}: generation {state.generation} of loop {loop.index} could not be written: "
                f"{error.strerror or error}; all before it is kept, and the same command goes on from there"
            ) from None

    def _samples_path(self, loop: Loop, generation: int) -> Path:
        return self._loop_folder("samples", loop) / f"generation_{generation:03d}.npz"

    def _save_samples(self, loop: Loop, state: State, judgement: Judgement, log_prob_N: np.ndarray) -> None:
        path = self._samples_path(loop, state.generation)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez_compressed(
            content,
            tokens=state.sampled_NxT,
            verdict=judgement.verdict_N,
            fault=judgement.fault_N,
            depth=judgement.depth_N,
            log_prob=log_prob_N,
        )
        write_whole(path, content.getvalue())

    def write_derived(self, name: str, rows: list[dict]) -> None:
        """Write a table that is made of the others, or none where it has no rows."""
        if not rows:
            (self.path / f"{name}.csv").unlink(missing_ok=True)
            return
        write_whole(self.path / f"{name}.csv", _csv_text(_as_cells(rows)))

    def _save_checkpoint(self, loop: Loop, state: State, parameters: dict) -> None:
        folder = self._loop_folder("checkpoints", loop)
        checkpoint, seal = folder / str(state.generation), folder / f"{state.generation}.sha256"
        seal.unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)
        checkpoint.mkdir(parents=True)
        content = io.BytesIO()
        carried = {
            f"{name}.{field}": array
            for name, rows in state.carry._asdict().items()
            for field, array in rows._asdict().items()
        }
        np.savez(content, sampled_NxT=state.sampled_NxT, **carried)
        write_whole(checkpoint / "state.npz", content.getvalue())
        if parameters:
            write_whole(checkpoint / _PARAMETERS, msgpack_serialize(parameters))
        write_whole(seal, _digest(checkpoint).encode())
        for old_seal in folder.glob("*.sha256"):
            if old_seal.stem.isdigit() and int(old_seal.stem) <= state.generation - CHECKPOINTS_KEPT:
                old_seal.unlink()
                shutil.rmtree(folder / old_seal.stem, ignore_errors=True)

    def write_manifest(self) -> None:
        """Bring manifest.json up to date: this command is its last session; the first process does that alone."""
        if self._process:
            return
        path = self.path / "manifest.json"
        try:
            sessions = [one for one in json.loads(path.read_text())["sessions"] if one["started"] != self._started]
        except (OSError, ValueError, KeyError, TypeError):
            sessions = []
        device = jax.local_devices()[0]
        sessions.append(
            {
                "command": self._command,
                "started": self._started,
                "seconds": round(time.perf_counter() - self._began, 1),
                "jaxloop": __version__,
                "python": platform.python_version(),
                "packages": {name: metadata.version(name) for name in _PACKAGES},
                "platform": device.platform,
                "device": device.device_kind,
                "devices": len(jax.devices()),
                "processes": jax.process_count(),
                "cores": os.cpu_count(),
                "machine": platform.platform(),
            }
        )
        write_whole(path, (json.dumps({"sessions": sessions}, indent=2) + "\n").encode())


def loop_rows(run: Path, table: str) -> list[dict[str, str]]:
    """All rows of a table of a run's loops, by loop and generation, as they stand now.

    Raises:
      InputError: a file is damaged.
    """
    return [row for path in _loop_tables(run, table) for row in _read_table(path)]


def _loop_tables(run: Path, table: str) -> list[Path]:
    """Every loop's file of a table, in the order of their numbers."""
    numbers = {path: path.parent.name.removeprefix("loop_") for path in run.glob(f"tables/loop_*/{table}.csv")}
    # Copies that somebody has put beside them are none of ours.
    return sorted((path for path in numbers if numbers[path].isdecimal()), key=lambda path: int(numbers[path]))


def _read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table of a loop; none where it is not there.

    Raises:
      InputError: it is damaged.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        try:
            rows = list(csv.DictReader(file, strict=True))
            if any(None in row or None in row.values() for row in rows):
                raise ValueError
            for row in rows:
                int(row["loop"]), int(row["generation"])
        except (KeyError, TypeError, ValueError, csv.Error):
            raise InputError(f"{path}: is damaged; put it right, or start anew with --overwrite") from None
    return rows


def _csv_text(rows: list[dict[str, str]]) -> bytes:
    """Rows with the same columns as a CSV file."""
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue().encode()


def _as_cells(rows: list[dict]) -> list[dict[str, str]]:
    return [{key: _cell(value) for key, value in row.items()} for row in rows]


def load_parameters(run: Path, loop: int, generation: int | None = None) -> dict:
    """The parameters of a model of a run, of its newest checkpoint or of a generation's that is kept, for `score`.

    Raises:
      InputError: there is no such checkpoint, or its learner has no parameters.
    """
    folder = run / "checkpoints" / f"loop_{loop:03d}"
    kept = sorted(int(path.stem) for path in folder.glob("*.sha256") if path.stem.isdigit())
    if not kept or generation not in (None, *kept):
        raise InputError(f"{folder}: has {'generations ' + ', '.join(map(str, kept)) if kept else 'no checkpoints'}")
    path = folder / str(kept[-1] if generation is None else generation) / _PARAMETERS
    if not path.exists():
        raise InputError(f"{path}: is not there; reference learners have no parameters")
    model = loops(load(str(run / "config.toml")))[loop].config.model
    expected = jax.eval_shape(make_model(model).init, jax.random.key(0))
    try:
        parameters = msgpack_restore(path.read_bytes())
        shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (parameters, expected)]
    except Exception:  # Whatever a damaged file leads MessagePack to.
        raise InputError(f"{path}: is damaged") from None
    if shapes[0] != shapes[1]:
        raise InputError(f"{path}: is no model of the sizes in {run / 'config.toml'}; somebody has changed one of them")
    return parameters


def _cell(value) -> str:
    """A number in the shortest form that reads back the same; nothing where there is none, or no value."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if np.isnan(value) else repr(float(value))
    return str(value)
