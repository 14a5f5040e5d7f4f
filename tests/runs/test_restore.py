"""A loop goes on from what is whole, and nothing that was measured is lost."""

import shutil
from pathlib import Path

import pytest
from tiny import QUICKLY, edit, results, run_silently, run_tiny, tiny_config

from jaxloop.errors import InputError
from jaxloop.runs.integrity import verify_run


def truncate_largest_file(folder) -> None:
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(undisturbed, tmp_path):
    """Half a checkpoint must neither end in a traceback nor be taken for a whole one."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    truncate_largest_file(tmp_path / "copy/checkpoints/loop_001/2")
    display = run_tiny(tmp_path / "copy")
    assert display.kept == [(1, 2)]
    assert len(display.warnings) == 1 and "is damaged" in display.warnings[0]
    assert "loop 1 goes on from generation 1" in display.warnings[0]
    assert results(tmp_path / "copy") == results(undisturbed)


def test_without_any_whole_checkpoint_the_run_refuses(undisturbed, tmp_path):
    """Going on from nothing would silently throw away what was measured."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    for generation in (1, 2):
        truncate_largest_file(tmp_path / f"copy/checkpoints/loop_000/{generation}")
    before = results(tmp_path / "copy")
    with pytest.raises(
        InputError, match=r"checkpoints/loop_000/1.*is damaged.*; put it right, or start anew with --overwrite"
    ):
        run_tiny(tmp_path / "copy")
    assert results(tmp_path / "copy") == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "tables/loop_000/provenance.csv").unlink(), "loop_000/provenance.csv: is missing"),
        (lambda run: (run / "tables/loop_001/tails.csv").unlink(), "loop_001/tails.csv: is missing"),
        (lambda run: drop_line(run / "tables/loop_000/tails.csv", 5), "loop_000/tails.csv: is damaged"),
        (
            lambda run: edit(run / "tables/loop_000/tails.csv", "tenth,1,0.1", "tenth,1,x"),
            "loop_000/tails.csv: is damaged",
        ),
        (lambda run: (run / "samples/loop_001/generation_001.npz").unlink(), "generation_001.npz: is missing"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "checkpoints/loop_000/1/state.npz: is missing"),
        (lambda run: shutil.rmtree(run / "seals"), "loop_000: lacks seals of what .*tables/loop_000 holds"),
        (
            lambda run: (run / "tables/loop_000/metrics.csv").write_text("loop,generation\n0,0,0\n"),
            "metrics.csv: is damaged",
        ),
        (
            lambda run: edit(run / "tables/loop_000/metrics.csv", "true_share", "share"),
            "loop_000/metrics.csv: is damaged",
        ),
        (
            lambda run: edit(run / "tables/loop_000/metrics.csv", "0.0,0.", "0.0,abc"),
            "loop_000/metrics.csv: is damaged",
        ),
        (lambda run: edit(run / "config.toml", "[cycle]", "[cycle"), "config.toml: not valid TOML"),
    ],
)
def test_missing_or_damaged_results_are_refused_and_nothing_is_lost(undisturbed, tmp_path, damage, said):
    """Going on would write tables with holes, or silently make again what took hours."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    damage(tmp_path / "copy")
    before = {path: path.read_bytes() for path in (tmp_path / "copy/tables").rglob("*.csv")}
    with pytest.raises(InputError, match=said):
        run_tiny(tmp_path / "copy")
    assert {path: path.read_bytes() for path in (tmp_path / "copy/tables").rglob("*.csv")} == before


def drop_line(path: Path, line: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:line] + lines[line + 1 :]))


def test_spare_tables_do_not_stop_a_run(whole, copy):
    """Seconds and the most frequent samples are no reason to give up hours of training."""
    (copy / "tables/loop_000/timings.csv").write_text("nothing")
    (copy / "tables/loop_003/top_samples.csv").unlink()
    display = run_silently(tiny_config(*QUICKLY), copy)
    assert [warning.split(": ")[0].rsplit("/", 2)[1:] for warning in display.warnings] == [
        ["loop_000", "timings.csv"], ["loop_003", "top_samples.csv"],
    ]  # fmt: skip
    assert results(copy) == results(whole)
    assert verify_run(copy).damages == []
    assert run_silently(tiny_config(*QUICKLY), copy).warnings == []


def test_what_stands_after_the_sealed_rows_does_not_stay(whole, copy):
    """A run that had nothing left to compute kept the remains of somebody else's rows, and verify its complaint."""
    for loop, name in ((1, "tails"), (2, "metrics"), (0, "timings")):
        path = copy / f"tables/loop_{loop:03d}/{name}.csv"
        path.write_bytes(path.read_bytes() + b"nothing")
    assert len(verify_run(copy).damages) == 3
    run_silently(tiny_config(*QUICKLY), copy)
    assert verify_run(copy).damages == [] and results(copy) == results(whole)
