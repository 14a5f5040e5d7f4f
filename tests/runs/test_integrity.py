"""No number of a run folder changes in silence."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import QUICKLY, Silent, contents, results, run_silently, tiny_config

from jaxloop.errors import InputError
from jaxloop.files import seal_json, unseal_json
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.joining import join_runs
from jaxloop.runs.runner import run
from jaxloop.runs.stored_models import load_parameters


def corrupt(chance: random.Random, path: Path) -> None:
    """Change a file in one of the ways in which disks, copies and people change files."""
    content = bytearray(path.read_bytes())
    place, other = chance.randrange(len(content)), chance.randrange(len(content))
    match chance.choice(["flip", "truncate", "delete", "repeat", "exchange", "other", "append"]):
        case "flip":
            content[place] ^= 1 << chance.randrange(8)
        case "truncate":
            del content[place:]
        case "delete":
            path.unlink()
            return
        case "repeat":
            content[place:place] = content[min(place, other) : max(place, other) + 1]
        case "exchange":
            cells = content.split(b",")
            first, second = chance.randrange(len(cells)), chance.randrange(len(cells))
            cells[first], cells[second] = cells[second], cells[first]
            content = b",".join(cells)
        case "other":
            content = chance.randbytes(500)
        case "append":
            content += chance.randbytes(20)
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(12))
def test_no_corruption_changes_a_number_in_silence(whole, copy, seed):
    """Catches a file that is read without being held against its seal: another number, label or share, exit code 0."""
    chance = random.Random(seed)
    before = contents(copy)
    corrupt(chance, copy / chance.choice(sorted(before)))
    told = []
    findings = verify_run(copy)
    assert bool(findings.damages or findings.notes) == (contents(copy) != before)
    try:
        assert repr(join_runs([copy], told.append)) == repr(join_runs([whole], told.append)) or told
    except InputError as error:
        assert str(copy) in str(error)
    try:
        for one, other in zip(*(load_parameters(path, 0)["tokens"].values() for path in (copy, whole)), strict=True):
            np.testing.assert_array_equal(one, other)
    except InputError as error:
        assert str(copy) in str(error)
    try:
        run_silently(tiny_config(*QUICKLY), copy)
        assert results(copy) == results(whole)
    except InputError as error:
        assert str(copy) in str(error)


def test_tables_at_the_top_are_compared_with_those_of_the_loops(copy):
    """Somebody edits summary.csv or metrics.csv, which nobody reads back: people do."""
    for name, old, new in (("summary", "0.5", "0.6"), ("metrics", "1.0", "0.9")):
        path = copy / f"{name}.csv"
        before = path.read_text()
        path.write_text(before.replace(old, new, 1))
        assert [sentence.split(": ")[0] for sentence in verify_run(copy).damages] == [str(path)]
        path.write_text(before)
    # As a run leaves it that was killed: not damaged.
    lines = (copy / "metrics.csv").read_text().splitlines(keepends=True)
    (copy / "metrics.csv").write_text("".join(lines[:-1]))
    findings = verify_run(copy)
    assert findings.damages == [] and "is not up to date" in findings.notes[0]
    assert (findings.loops, findings.generations) == (4, 12)


def test_seals_that_vouch_for_no_metrics_are_told_of(copy):
    """Somebody empties a run and seals what is left: a line, and no traceback."""
    for path in copy.glob("seals/*/generation_*.json"):
        values = unseal_json(path.read_bytes(), path)
        path.write_bytes(seal_json(values | {"tables": {name: [0, ""] for name in values["tables"]}}))
    for path in [*copy.glob("tables/*/*.csv"), *copy.glob("*.csv")]:
        path.unlink()
    assert verify_run(copy).damages == [f"{copy / 'tables'}: has no metrics of generations that are finished"]


def test_a_figure_that_is_exchanged_or_missing_is_noticed(tmp_path):
    """A whole picture under the name of another one; and one that nobody finds any more."""
    config, path = tiny_config("learner.name=resample"), tmp_path / "run"
    drawn = run(config, path, "test", Silent())
    assert verify_run(path) == ([], [], 2, 6)
    one, other = drawn[:2]
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    damages = verify_run(path).damages
    assert len(damages) == 2 and all("is not what the run drew" in sentence for sentence in damages)
    one.unlink()
    assert "is missing" in verify_run(path).notes[0]
    run(config, path, "test", Silent())
    assert verify_run(path) == ([], [], 2, 6)


def test_the_command_that_verifies(copy):
    """Exit code 0 for a damaged folder would let a script publish it."""

    def verify() -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "jaxloop", "verify", str(copy)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = verify()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{copy}: whole; 12 finished generations of 4 loops\n"
    path = copy / "models/loop_000/generation_002/_METADATA"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    done = verify()
    assert (done.returncode, done.stdout) == (1, f"{path}: is damaged, or somebody has changed it\n")
    assert done.stderr.startswith(f"jaxloop: {copy}: 1 file damaged; ") and done.stderr.count("\n") == 1
    shutil.rmtree(copy)
    done = verify()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
