"""The tables of a run folder as CSV: of one loop, of all loops joined, and those that are made of them."""

import csv
import io
from pathlib import Path

from jaxloop import layout
from jaxloop.config.schema import Loop
from jaxloop.files import Digest, write_whole
from jaxloop.runs.stored import Seal, StoredRun, parse_table, sealed_table


def extend_table(run: Path, loop: Loop, seal: Seal, name: str, groups: list[list[dict]]) -> list[list]:
    """Write groups of rows after those of a loop's table that are sealed.

    Returns:
      Its length and digest after each of the groups.

    Raises:
      DamageError: the rows before are not what was sealed.
    """
    content, ends = sealed_table(run, loop, seal, name), []
    columns = next(csv.reader([content.partition(b"\n")[0].decode()])) if content else []
    parts, length, so_far = [content], len(content), Digest(content)
    for rows in groups:
        if rows:
            begins, columns = not columns, columns or list(rows[0])
            parts.append(_as_csv(rows, columns, header=begins))
            length += len(parts[-1])
            so_far.add(parts[-1])
        ends.append([length, so_far.text])
    if any(groups):
        layout.make_loop_folder(run, "tables", loop.index)
        write_whole(layout.table_path(run, loop.index, name), b"".join(parts))
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
    return _as_csv(rows, list(rows[0])) if rows else b""


def _as_csv(rows: list[dict], columns: list[str], header: bool = True) -> bytes:
    """Rows as CSV: numbers in the shortest form that reads back the same; nothing where there is none, or no value."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows([_cells(row, columns) for row in rows])
    return content.getvalue().encode()


def _cells(row: dict, columns: list[str]) -> list:
    """A row in the order of the columns; what it lacks is empty. As csv writes them, numbers have their shortest form.

    Raises:
      ValueError: it has columns that its table has not.
    """
    if list(row) != columns:
        if not row.keys() <= set(columns):
            raise ValueError(f"a row has columns that its table has not: {sorted(row.keys() - set(columns))}")
        row = {name: row.get(name) for name in columns}
    return ["" if value is None or value != value else value for value in row.values()]
