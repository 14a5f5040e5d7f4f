"""The tables of a run folder as CSV: of one loop, of all loops joined, and those that are made of them."""

import csv
import io
from pathlib import Path

import numpy as np

from jaxloop import layout
from jaxloop.config.schema import Loop
from jaxloop.files import digest, write_whole
from jaxloop.runs.stored import Seal, StoredRun, parse_table, sealed_table


def extend_table(run: Path, loop: Loop, seal: Seal, name: str, generations: list[list[dict]]) -> list[list]:
    """Write the rows of several generations after those of a loop's table that are sealed.

    Returns:
      Its length and digest after each of the generations.

    Raises:
      DamageError: the rows before are not what was sealed.
    """
    content, ends = sealed_table(run, loop, seal, name), []
    for rows in generations:
        if rows:
            columns = next(csv.reader([content.partition(b"\n")[0].decode()])) if content else list(rows[0])
            content += _as_csv(_as_cells(rows), columns, header=not content)
        ends.append([len(content), digest(content)])
    if any(generations):
        layout.make_loop_folder(run, "tables", loop.index)
        write_whole(layout.table_path(run, loop.index, name), content)
    return ends


def cut_to_seal(run: Path, loop: Loop, seal: Seal, name: str) -> None:
    """Remove what stands in a loop's table after the rows that its seal is of."""
    path, (length, _) = layout.table_path(run, loop.index, name), seal.tables[name]
    if path.exists() and path.stat().st_size > length:
        write_table(path, sealed_table(run, loop, seal, name))


def write_table(path: Path, content: bytes) -> None:
    """Write a table, or remove the one that is there where it has no rows."""
    if content:
        write_whole(path, content)
    else:
        path.unlink(missing_ok=True)


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


def whole_table(rows: list[dict]) -> bytes:
    """Rows with the same columns as a CSV file; nothing without rows."""
    return _as_csv(_as_cells(rows), list(rows[0])) if rows else b""


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
