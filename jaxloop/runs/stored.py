"""Reading a run folder: everything is held against the seals of its loops before anybody takes it for a result.

Only reads, and takes no lock, so that a run may be under way. Nothing that a folder names is imported.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxloop import layout
from jaxloop.analysis.cells import TEXT
from jaxloop.analysis.columns import Columns
from jaxloop.config.imports import is_own
from jaxloop.config.presets import parse
from jaxloop.config.schema import DECIDING_NOTHING, Config, Loop, StoredConfig, loops
from jaxloop.errors import DamageError, InputError
from jaxloop.files import AtMost, digest, read_arrays, read_file, unseal_json, unseal_text
from jaxloop.loop.curation import MOST_OVERSAMPLED, rows_to_write
from jaxloop.loop.interfaces import State
from jaxloop.loop.memories import MOST_REPEATS, Carry, memory_of
from jaxloop.loop.rows import Rows
from jaxloop.runs.own_parts import needs_description, read_description
from jaxloop.systems.registry import columns_of, system_of

MOST_CONFIG_BYTES = 2**24
_MOST_SEAL_BYTES = 2**26
_MOST_TABLE_BYTES = 2**20  # of each generation; the longest has 100 KiB
_SLACK_BYTES = 2**16  # names, sizes and check sums beside the numbers of an archive
NO_SETTINGS_OF_A_LOOP = {"seeds", "controls", "grid", *DECIDING_NOTHING}


class Seal(NamedTuple):
    """What was there of a loop when a generation was finished."""

    settings: str  # digest of the settings that decide the loop's results, and its seed
    tables: dict[str, list]  # of each table its length in bytes, and the digest of so many: later rows come after them
    samples: list[str]  # digest of the samples of each generation; empty where they were not kept
    checkpoint: dict[str, str]  # digest of each file of the generation's checkpoint


def settings_digest(loop: Loop) -> str:
    """What tells whose results these are: all that decides them, but not how many generations are wanted."""
    settings = loop.config.model_dump(mode="json", exclude=NO_SETTINGS_OF_A_LOOP, exclude_none=True)
    del settings["cycle"]["generations"]
    return digest(json.dumps({"seed": loop.seed, **settings}, sort_keys=True).encode())


def read_config(run: Path) -> Config:
    """The config of a run.

    Raises:
      InputError: there is no run.
      DamageError: somebody has changed its config.toml.
    """
    if not run.is_dir():
        raise InputError(f"{run}: is no run folder, there is no such folder")
    path = run / layout.CONFIG
    if not path.exists():
        raise InputError(f"{run}: is no run folder, it has no config.toml; name one that jaxloop run has made")
    return parse(unseal_text(read_file(path, MOST_CONFIG_BYTES), path), str(path))


def described(config: Config, run: Path) -> Config:
    """The config of a run, with what the run says of a system of one's own.

    Raises:
      DamageError: it does not say that.
    """
    if not isinstance(config, StoredConfig):
        return config

    class OfThisRun(StoredConfig):
        system_class = read_description(run)

    return OfThisRun.model_validate(config.model_dump())


def read_seal(run: Path, loop: Loop, generation: int) -> Seal:
    """The seal of a generation.

    Raises:
      DamageError: it is not whole, or another loop's.
    """
    path = layout.seal_path(run, loop.index, generation)
    values = unseal_json(read_file(path, _MOST_SEAL_BYTES), path)
    seal = Seal._make(map(values.get, Seal._fields))
    if None in seal or len(seal.samples) != generation + 1:
        raise DamageError(f"{path}: is no seal of generation {generation}")
    if seal.settings != settings_digest(loop):
        raise DamageError(f"{path}: is of other settings than those of loop {loop.index} in {run / layout.CONFIG}")
    return seal


def sealed_table(run: Path, loop: Loop, seal: Seal, table: str) -> bytes:
    """The part of a loop's table that its seal is of; nothing for a table that has no rows.

    Raises:
      DamageError: it is not what was sealed.
    """
    length, sealed = seal.tables[table]
    if not length:
        return b""
    path = layout.table_path(run, loop.index, table)
    content = read_file(path, most_table_bytes(loop))[:length]
    if digest(content) != sealed:
        raise DamageError(f"{path}: is damaged, or somebody has changed it")
    return content


def most_table_bytes(loop: Loop) -> int:
    """More than a table of a loop takes."""
    return _MOST_TABLE_BYTES * (loop.config.cycle.generations + 1)


def require_digest(path: Path, most_bytes: int, sealed: str) -> bytes:
    """The content of a file that has this digest.

    Raises:
      DamageError: it has not, or is larger than it can be.
    """
    content = read_file(path, most_bytes)
    if digest(content) != sealed:
        raise DamageError(f"{path}: is damaged, or somebody has changed it")
    return content


def parse_table(content: bytes, path: Path) -> list[dict[str, str]]:
    """The rows of a table.

    Raises:
      DamageError: it is none of ours.
    """
    names, *rows = _cells(content, path) if content else [[]]
    return [dict(zip(names, cells, strict=True)) for cells in rows]


def _cells(content: bytes, path: Path) -> list[list[str]]:
    """The cells of a table that has rows, its header's first.

    Raises:
      DamageError: it is none of ours.
    """
    try:
        lines = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
        loop, generation = lines[0].index("loop"), lines[0].index("generation")
        if any(len(cells) != len(lines[0]) for cells in lines):
            raise ValueError
        for cells in lines[1:]:
            _ = int(cells[loop]), int(cells[generation])
    except (IndexError, ValueError, csv.Error):
        raise DamageError(f"{path}: is damaged") from None
    return lines


def read_samples(run: Path, loop: Loop, seal: Seal, generation: int) -> dict[str, np.ndarray]:
    """The samples of a generation: its rows under the name that the system has for them, and what is kept of each.

    Raises:
      InputError: they were not kept.
      DamageError: they are not what was sealed.
    """
    path = layout.samples_path(run, loop.index, generation)
    if not seal.samples[generation]:
        raise InputError(f"{path}: was not kept; store.samples_every_generations says which samples are")
    content = require_digest(path, most_samples_bytes(loop), seal.samples[generation])
    return read_arrays(content, path, arrays_of_samples(loop))


def arrays_of_samples(loop: Loop) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Dtype and shape of every array that is stored of a generation's samples."""
    system, config = system_of(loop.config), loop.config
    # What a curator of one's own asks for, no reader imports it to know.
    own = config.curation.is_own
    rows = AtMost(MOST_OVERSAMPLED * config.cycle.rows) if own else rows_to_write(config.cycle, config.curation)
    row = system.row_format(loop.config)
    kept = {name: (np.dtype(dtype), (rows,)) for name, dtype in system.kept_of_samples(loop.config).items()}
    return {row.name: (np.dtype(row.dtype), (rows, *row.shape)), **kept}


def most_samples_bytes(loop: Loop) -> int:
    """More than the samples of a generation take."""
    return (
        2 * sum(math.prod(shape) * dtype.itemsize for dtype, shape in arrays_of_samples(loop).values()) + _SLACK_BYTES
    )


def read_state(run: Path, loop: Loop, seal: Seal, generation: int) -> State:
    """What a loop goes on from after a generation.

    Raises:
      DamageError: it is not what was sealed.
    """
    cycle, row = loop.config.cycle, system_of(loop.config).row_format(loop.config)
    if is_own(cycle.name):
        # How many there are, only the memory knows: no more than it has been given, several times over.
        counts = dict.fromkeys(Carry._fields, AtMost(MOST_REPEATS * cycle.rows * (generation + 1)))
    else:
        memory = memory_of(cycle)
        counts = {"training": memory.training_rows(generation), "archive": memory.archived_rows(generation)}
    expected = {"sampled": (row.dtype, (AtMost(cycle.rows) if loop.config.curation.names else cycle.rows, *row.shape))}
    for name, count in counts.items():
        expected |= {
            f"{name}.points": (row.dtype, (count, *row.shape)),
            f"{name}.kind_N": (np.uint8, (count,)),
            f"{name}.generation_N": (np.int32, (count,)),
        }
    path = layout.checkpoint_folder(run, loop.index, generation) / layout.STATE
    most_bytes = (cycle.rows + sum(counts.values())) * (row.bytes + 8) + _SLACK_BYTES
    content = require_digest(path, most_bytes, seal.checkpoint.get(layout.STATE, ""))
    arrays = read_arrays(content, path, expected)
    training, archive = (Rows(*(arrays[f"{name}.{field}"] for field in Rows._fields)) for name in Carry._fields)
    return State(generation, Carry(training, archive), arrays["sampled"])


def _frame(by_header: dict[bytes, list[bytes]]) -> pd.DataFrame:
    """Lines of a table, by their header, as one; a million dictionaries of text would take gigabytes."""
    frames = []
    for header, lines in by_header.items():
        names = next(csv.reader([header.decode()]))
        text = {name: str for name in names if name in TEXT or "." in name}
        content = io.BytesIO(b"".join([header, b"\n", *lines]))
        frames.append(pd.read_csv(content, dtype=text, keep_default_na=False, low_memory=False, lineterminator="\n"))
    if len(frames) < 2:
        return frames[0] if frames else pd.DataFrame()
    return pd.concat(frames).sort_values("loop", kind="stable", ignore_index=True)


class StoredRun:
    """A run folder to read from, finished or not."""

    def __init__(self, path: Path | str):
        """Read the config of a run.

        Args:
          path: the run folder.

        Raises:
          InputError: there is no run, or its config is not what the run wrote.
        """
        self.path = Path(path)
        self.config = described(read_config(self.path), self.path)
        self.loops = loops(self.config)

    @property
    def columns(self) -> Columns:
        """The columns of metrics.csv.

        Raises:
          DamageError: the run has columns of one's own, and does not say which.
        """
        if needs_description(self.config):
            return read_description(self.path).columns
        return columns_of(system_of(self.config), self.loops)

    def loop(self, index: int) -> Loop:
        """One loop of the run.

        Raises:
          InputError: it has no such loop.
        """
        if not 0 <= index < len(self.loops):
            raise InputError(f"{self.path}: has loops 0 to {len(self.loops) - 1}, and no loop {index}")
        return self.loops[index]

    def begun(self) -> list[Loop]:
        """The loops of which a generation is finished, in order.

        Raises:
          DamageError: tables or seals of a loop are there that cannot be, or are missing.
        """
        for kind in ("tables", "seals"):
            for index in layout.loops_with(self.path, kind):
                if index >= len(self.loops):
                    where = layout.loop_folder(self.path, kind, index)
                    raise DamageError(
                        f"{where}: is of none of the {len(self.loops)} loops in {self.path / layout.CONFIG}"
                    )
        sealed = set(layout.loops_with(self.path, "seals"))
        return [loop for loop in self.loops if loop.index in sealed and self.newest(loop) is not None]

    def newest(self, loop: Loop) -> int | None:
        """The last generation of a loop that is finished; None before the first."""
        return next(iter(layout.sealed_generations(self.path, loop.index)), None)

    def finished(self, loop: Loop) -> int:
        """How many generations of a loop are finished."""
        newest = self.newest(loop)
        return 0 if newest is None else newest + 1

    def seal(self, loop: Loop) -> Seal:
        """The newest seal of a loop that has begun.

        Raises:
          DamageError: it is not whole, or there is none.
        """
        newest = self.newest(loop)
        if newest is None:
            raise DamageError(f"{layout.loop_folder(self.path, 'seals', loop.index)}: has no seal")
        return read_seal(self.path, loop, newest)

    def tables(self, names: tuple[str, ...] = layout.TABLES) -> Iterator[tuple[Loop, dict[str, bytes]]]:
        """Of each loop that has begun its part of these tables, as CSV.

        Raises:
          DamageError: a table is not what was sealed.
        """
        for loop in self.begun():
            seal = self.seal(loop)
            yield loop, {name: sealed_table(self.path, loop, seal, name) for name in names}

    def frames(self, *names: str) -> list[pd.DataFrame]:
        """All rows of each of these tables, by loop and generation, for `tables.as_frame`.

        What is no number in every row is text; a column that a loop lacks is not a number there.

        Raises:
          DamageError: a table is not what was sealed.
        """
        parts: list[dict[bytes, list[bytes]]] = [{} for _ in names]
        for loop, tables in self.tables(names):
            for by_header, name in zip(parts, names, strict=True):
                if tables[name]:
                    _cells(tables[name], layout.table_path(self.path, loop.index, name))
                    header, _, lines = tables[name].partition(b"\n")
                    by_header.setdefault(header, []).append(lines)
        return [_frame(by_header) for by_header in parts]

    def unsealed(self, loop: Loop, table: str = "metrics") -> list[dict[str, str]]:
        """The rows of a loop's table that no seal is of: of the generation that a run may be writing.

        Raises:
          DamageError: they are of more generations than one, or no rows.
        """
        path = layout.table_path(self.path, loop.index, table)
        if not path.exists():
            return []
        sealed = sealed_table(self.path, loop, self.seal(loop), table) if self.newest(loop) is not None else b""
        content = read_file(path, most_table_bytes(loop))
        header = content.partition(b"\n")[0] + b"\n" if sealed else b""
        rows = parse_table(header + content[len(sealed) :], path)
        announced = layout.announcement_path(self.path, loop.index).exists()
        if len({row["generation"] for row in rows}) > 1 and not announced:
            seals = layout.loop_folder(self.path, "seals", loop.index)
            raise DamageError(f"{path}: has several generations that no seal in {seals} vouches for")
        return rows

    def left_out(self, loop: Loop) -> list[str]:
        """A sentence where a loop has rows of a generation that is not finished, or whose seal is missing.

        Raises:
          DamageError: they are no rows that a run leaves.
        """
        if not self.unsealed(loop):
            return []
        newest = self.newest(loop)
        last = "none is finished" if newest is None else f"the last that is finished is {newest}"
        what = f"loop {loop.index} has rows of a generation that is not finished"
        return [f"{self.path}: {what} ({last}); they are left out"]

    def samples(self, loop: int, generation: int) -> dict[str, np.ndarray]:
        """The samples of a generation of a loop, see `read_samples`.

        Raises:
          InputError: there is no such loop or generation.
          DamageError: they are not what was sealed.
        """
        of_loop = self.loop(loop)
        newest = self.newest(of_loop)
        if newest is None or not 0 <= generation <= newest:
            has = "none yet" if newest is None else f"generations 0 to {newest}"
            raise InputError(f"{self.path}: loop {loop} has {has}, and no generation {generation}")
        return read_samples(self.path, of_loop, self.seal(of_loop), generation)
