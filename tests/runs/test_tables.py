"""The tables of all loops as one."""

import math

import numpy as np
import pytest
from tiny import MEMORISER, run_silently, tiny_config

from jaxloop.config.schema import loops
from jaxloop.files import digest, seal_json, unseal_json, write_whole
from jaxloop.layout import table_path
from jaxloop.runs.stored import Seal, StoredRun
from jaxloop.runs.tables import extend_table, joined_tables, whole_table


def test_loops_with_other_columns_are_joined_by_name(tmp_path):
    """The first loop's header over all rows would put every later number under another name."""
    config = tiny_config(*MEMORISER)
    run_silently(config, tmp_path / "run")
    path, seal = tmp_path / "run/tables/loop_001/metrics.csv", tmp_path / "run/seals/loop_001/generation_002.json"
    header, *rows = path.read_text().splitlines()
    columns = header.split(",")
    turned = "\n".join([",".join(["new", *columns[::-1]]), *(",".join(["7", *row.split(",")[::-1]]) for row in rows)])
    path.write_text(turned + "\n")
    values = unseal_json(seal.read_bytes(), seal)
    values["tables"]["metrics"] = [path.stat().st_size, digest(path.read_bytes())]
    write_whole(seal, seal_json(values))
    joined = joined_tables(StoredRun(tmp_path / "run"))["metrics"].decode().splitlines()
    assert joined[0] == f"{header},new"
    assert joined[4:] == [f"{row},7" for row in rows] and all(line.endswith(",") for line in joined[1:4])


def test_a_table_that_is_extended_is_the_one_that_is_written_at_once(tmp_path):
    """Digests that go on from the one before, headers that stand twice, numbers in another form than they had."""
    (loop,) = loops(tiny_config("grid={}"))
    seal = Seal("", {"metrics": [0, digest(b"")]}, [], {})
    values = [0.1, 1e16, 1e-7, -0.0, math.inf, -math.inf, math.nan, None, 3, True, "a, b", np.float64(1 / 3)]
    rows = [{"place": place, "value": value} for place, value in enumerate(values)]
    ends = extend_table(tmp_path, loop, seal, "metrics", [rows[:4], [], rows[4:9]])
    length, text = extend_table(tmp_path, loop, seal._replace(tables={"metrics": ends[-1]}), "metrics", [rows[9:]])[-1]
    content = table_path(tmp_path, loop.index, "metrics").read_bytes()
    assert (length, text) == (len(content), digest(content))
    assert ends[0] == ends[1] == [ends[0][0], digest(content[: ends[0][0]])]
    assert content == whole_table(rows)
    shown = ["0.1", "1e+16", "1e-07", "-0.0", "inf", "-inf", "", "", "3", "True", '"a, b"', repr(1 / 3)]
    assert content.decode() == "place,value\n" + "".join(f"{place},{one}\n" for place, one in enumerate(shown))


def test_a_row_that_lacks_columns_or_has_too_many(tmp_path):
    """What lacks is empty; a column that the table has not would be lost without a word."""
    (loop,) = loops(tiny_config("grid={}"))
    seal = Seal("", {"metrics": [0, digest(b"")]}, [], {})
    (end,) = extend_table(tmp_path, loop, seal, "metrics", [[{"a": 1, "b": 2}, {"b": 3}, {"b": 5, "a": 4}]])
    assert table_path(tmp_path, loop.index, "metrics").read_text() == "a,b\n1,2\n,3\n4,5\n"
    with pytest.raises(ValueError, match=r"columns that its table has not: .'c'."):
        extend_table(tmp_path, loop, seal._replace(tables={"metrics": end}), "metrics", [[{"a": 1, "c": 2}]])
