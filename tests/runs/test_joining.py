"""Several run folders as one table, on folders whose tables are planted."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from frames import SHARE, level, table

from jaxloop import layout
from jaxloop.analysis.cells import as_frame
from jaxloop.config.presets import load
from jaxloop.config.schema import Loop, dump, loops
from jaxloop.errors import InputError
from jaxloop.files import digest, seal_json, seal_text
from jaxloop.runs.joining import join_runs, write_csv
from jaxloop.runs.stored import Seal, StoredRun, parse_table, settings_digest

SETTINGS = ["learner.name=resample", "controls=false"]


def make_run(folder: Path, seeds: list[int], shares: list[float], *overrides: str, shift=0.0, generations=9) -> Path:
    """A run folder with the tables of these seeds and shares, as a run leaves them, or as far as one has come."""
    config = load(
        "quick",
        [*SETTINGS, f"seeds={seeds}", f"grid.cycle.fresh_share={shares}", 'grid.learner.name=["resample"]', *overrides],
    )
    cells = [
        {"axes": {"learner.name": "resample", SHARE: share}, "kept": level(0.3 + 0.5 * share + shift)}
        for share in shares
    ]
    metrics = table(cells, seeds, generations)
    # Loops are numbered as in the grid.
    assert [loop.seed for loop in loops(config)] == list(metrics.drop_duplicates("loop")["seed"])
    folder.mkdir()
    (folder / "config.toml").write_bytes(seal_text(dump(config)))
    for index, rows in metrics.groupby("loop"):
        path = layout.table_path(folder, index, "metrics")
        path.parent.mkdir(parents=True)
        rows.to_csv(path, index=False)
        seal_metrics(folder, loops(config)[index], generations)
    return folder


def seal_metrics(folder: Path, loop: Loop, generations: int) -> None:
    """Seal a loop's metrics.csv as it stands, and no other table."""
    content = layout.table_path(folder, loop.index, "metrics").read_bytes()
    tables = {name: [0, digest(b"")] for name in layout.TABLES} | {"metrics": [len(content), digest(content)]}
    path = layout.seal_path(folder, loop.index, generations - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(seal_json(Seal(settings_digest(loop), tables, [""] * generations, {})._asdict()))


def no_warning(message: str) -> None:
    raise AssertionError(message)


def same(first: list[dict], second: list[dict]) -> None:
    pd.testing.assert_frame_equal(pd.DataFrame(first), pd.DataFrame(second))


def test_pooled_folders_equal_one_folder(tmp_path):
    """Seeds of a second folder lost, counted as another cell, or mistaken because its loops are numbered anew."""
    whole = make_run(tmp_path / "whole", [0, 1, 2, 3, 4], [0.0, 0.5])
    parts = [make_run(tmp_path / "a", [0, 1], [0.0, 0.5]), make_run(tmp_path / "b", [2, 3, 4], [0.5, 0.0])]
    one, pooled = join_runs([whole], no_warning), join_runs(parts, no_warning)
    assert one.axes == pooled.axes == [SHARE]
    same(one.rows, pooled.rows)
    assert [row["seeds"] for row in pooled.rows] == [5, 5]


def test_the_same_loop_counts_once_and_disagreement_is_told(tmp_path):
    """A seed counted twice would narrow every interval; two records of a loop that differ pass in silence."""
    first = make_run(tmp_path / "first", [0, 1, 2], [0.0])
    again, other = (
        make_run(tmp_path / "again", [2, 0], [0.0], generations=5),
        make_run(tmp_path / "o", [1], [0.0], shift=0.1),
    )
    alone = join_runs([first], no_warning)
    same(alone.rows, join_runs([first, again, first], no_warning).rows)
    told = []
    same(alone.rows, join_runs([first, other], told.append).rows)
    assert len(told) == 1 and str(other) in told[0] and str(first) in told[0] and "seed 1" in told[0]


def test_a_column_for_every_setting_that_differs(tmp_path):
    """Loops of different settings pooled; what only costs time taken for a difference; a share under two names."""
    runs = [
        make_run(tmp_path / "a", [0, 1, 2], [0.0, 0.5]),
        make_run(
            tmp_path / "b",
            [0, 1, 2],
            [0.5],
            "measure.alive_share=0.5",
            *("population.loops_per_device=3", "store.models_every_generations=1"),
        ),
    ]
    joined = join_runs(runs, no_warning)
    assert joined.axes == [SHARE, "measure.alive_share"]
    assert [(row[SHARE], row["measure.alive_share"], row["seeds"]) for row in joined.rows] == [
        (0.0, 0.1, 3), (0.5, 0.1, 3), (0.5, 0.5, 3),
    ]  # fmt: skip
    generated = make_run(tmp_path / "c", [3], [0.5])
    config = load(str(generated / "config.toml"), ["grid={'cycle.generated_share'=[0.5], 'learner.name'=['resample']}"])
    (generated / "config.toml").write_bytes(seal_text(dump(config)))
    seal_metrics(generated, loops(config)[0], 9)
    assert [row["seeds"] for row in join_runs([runs[0], generated], no_warning).rows] == [3, 4]


def test_the_table_is_written_whole_and_reads_back(tmp_path):
    """A file that lost columns or precision, or None and nan where nothing was measured."""
    joined = join_runs([make_run(tmp_path / "a", [0, 1, 2], [0.0, 0.5])], no_warning)
    write_csv(joined, tmp_path / "joined.csv")
    back = pd.read_csv(tmp_path / "joined.csv")
    assert list(back) == list(joined.rows[0])
    assert list(back["kept_diversity"]) == [row["kept_diversity"] for row in joined.rows]
    assert back["collapse_generation"].tolist() == [math.inf, math.inf]
    assert "nan" not in (tmp_path / "joined.csv").read_text().lower()
    with pytest.raises(InputError, match=r"none/joined.csv: cannot be written: No such file"):
        write_csv(joined, tmp_path / "none" / "joined.csv")


def test_what_is_no_run_is_named(tmp_path):
    """A traceback, or an empty table, where a folder was mistyped or a run has only begun."""
    begun = make_run(tmp_path / "begun", [0], [0.0])
    for kind in ("tables", "seals"):
        shutil.rmtree(begun / kind / "loop_000")
    damaged = make_run(tmp_path / "damaged", [0], [0.0])
    table = damaged / "tables/loop_000/metrics.csv"
    table.write_text(table.read_text().replace("0.9", "much"))
    changed = make_run(tmp_path / "changed", [0], [0.0])
    table = changed / "tables/loop_000/metrics.csv"
    table.write_text(table.read_text().replace("0.9", "0.8"))
    seal_metrics(damaged, StoredRun(damaged).loops[0], 9)
    for folder, said in [
        (damaged, r"damaged: metrics\.csv: .*much"),
        (changed, r"loop_000/metrics\.csv: is damaged, or somebody has changed it"),
        (tmp_path / "none", "no such folder"),
        (tmp_path, "is no run folder"),
        (begun, "has no results yet"),
    ]:
        with pytest.raises(InputError, match=said):
            join_runs([folder], no_warning)


def test_the_command(tmp_path):
    """A table on standard error, a warning on standard output, a lock that stops a run, an error of many lines."""
    run = make_run(tmp_path / "run", [0, 1, 2], [0.0, 0.5])
    before = sorted(path.name for path in run.iterdir())
    command = [str(Path(sys.executable).with_name("jaxloop")), "summary"]
    done = subprocess.run(
        [*command, run, "--output", tmp_path / "all.csv"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "fresh share" in done.stdout and "0 of 3" in done.stdout and "not reached" in done.stdout
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 3
    assert sorted(path.name for path in run.iterdir()) == before
    failed = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.count("\n") == 1 and "no such folder" in failed.stderr


def test_tables_read_at_once_are_those_read_row_by_row(tmp_path):
    """Numbers rounded otherwise, text taken for numbers, or columns out of place where loops differ in them."""
    folder = make_run(tmp_path / "run", [0, 1, 2], [0.0, 0.5])
    run = StoredRun(folder)
    for index, added in ((1, b"0.1234567890123456789"), (4, b"inf")):
        path = layout.table_path(folder, index, "metrics")
        header, *lines = path.read_bytes().splitlines()
        path.write_bytes(
            b"\n".join([header + b",added,model.x", *(line + b"," + added + b",1" for line in lines), b""])
        )
        seal_metrics(folder, run.loops[index], 9)
    rows = [
        row
        for loop in run.loops
        for row in parse_table(layout.table_path(folder, loop.index, "metrics").read_bytes(), folder)
    ]
    pd.testing.assert_frame_equal(
        as_frame(run.frames("metrics")[0], "metrics"), as_frame(rows, "metrics"), check_exact=True
    )
