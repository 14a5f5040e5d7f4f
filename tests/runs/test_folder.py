"""What a run folder vouches for: no number of it changes in silence, and nothing outside of it is touched."""

import errno
import fcntl
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny import Silent, results, run_silently, run_tiny, tiny_config

from jaxloop import layout
from jaxloop.commands.corpus import RunModel
from jaxloop.commands.frequent_samples import most_frequent
from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.errors import InputError, RunError
from jaxloop.files import digest, read_arrays, read_file, seal_json, unseal_json, write_whole
from jaxloop.runs.folder import RunFolder, joined_tables, load_parameters
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.joining import join_runs
from jaxloop.runs.runner import run
from jaxloop.runs.stored import StoredRun

QUICKLY = ("grid={'learner.name' = ['transformer', 'resample'], 'cycle.fresh_share' = [0.0, 0.5]}", "train.steps=10")
MEMORISER = ("learner.name=resample", "grid={'cycle.fresh_share' = [0.0, 0.5]}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_silently(tiny_config(*QUICKLY), path)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


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


def test_two_values_of_an_axis_exchanged_in_the_config_are_noticed(copy):
    """Labels come from config.toml: exchanged, every cell would have another one's name."""
    path = copy / "config.toml"
    path.write_text(path.read_text().replace("    0.0,\n    0.5,", "    0.5,\n    0.0,"))
    for read in (lambda: join_runs([copy], print), lambda: load_parameters(copy, 0), lambda: StoredRun(copy)):
        with pytest.raises(InputError, match=r"config\.toml: is not what the run wrote"):
            read()


def test_another_runs_config_does_not_pass_for_this_one(copy, tmp_path):
    """A config that is sealed, and yet of another run: only the seals of the loops can know."""
    run_silently(tiny_config(*QUICKLY, "sample.temperature=0.9", "cycle.generations=1"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "config.toml", copy)
    with pytest.raises(InputError, match=r"loop_000/generation_002\.json: is of other settings than those of loop 0"):
        join_runs([copy], print)
    assert "other settings" in verify_run(copy).damages[0]


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


def test_what_stands_after_the_sealed_rows_does_not_stay(whole, copy):
    """A run that had nothing left to compute kept the remains of somebody else's rows, and verify its complaint."""
    for loop, name in ((1, "tails"), (2, "metrics"), (0, "timings")):
        path = copy / f"tables/loop_{loop:03d}/{name}.csv"
        path.write_bytes(path.read_bytes() + b"nothing")
    assert len(verify_run(copy).damages) == 3
    run_silently(tiny_config(*QUICKLY), copy)
    assert verify_run(copy).damages == [] and results(copy) == results(whole)


def test_a_missing_seal_is_told_by_everything_that_reads_the_newest_generation(copy):
    """Without it the generation before is the newest, and its model gave other log-probabilities, exit code 0."""
    (copy / "seals/loop_000/generation_002.json").unlink()
    for read in (
        lambda told: RunModel(copy, 0, told.append),
        lambda told: most_frequent(copy, 0, None, 3, told.append),
        lambda told: join_runs([copy], told.append),
    ):
        told = []
        read(told)
        assert len(told) == 1 and "(the last that is finished is 1)" in told[0]


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


@pytest.mark.parametrize(("cycle", "learner"), [("balanced", "resample"), ("expanding", "transformer")])
def test_a_run_can_be_made_longer(tmp_path, cycle, learner):
    """What is finished would be computed again, or the longer run would differ from one that was long at once."""
    settings = [f"cycle.name={cycle}", f"learner.name={learner}"]
    run_tiny(tmp_path / "grown", *settings, "cycle.generations=2")
    assert run_tiny(tmp_path / "grown", *settings, "cycle.generations=4").kept == [(0, 2), (1, 2), (0, 3), (1, 3)]
    run_tiny(tmp_path / "long", *settings, "cycle.generations=4")
    assert results(tmp_path / "grown") == results(tmp_path / "long")
    for name in ("config.toml", "metrics.csv"):
        assert (tmp_path / "grown" / name).read_bytes() == (tmp_path / "long" / name).read_bytes()
    assert verify_run(tmp_path / "grown").damages == []
    with pytest.raises(InputError, match="was made with 4 generations, and a run can only be made longer"):
        run_tiny(tmp_path / "grown", *settings, "cycle.generations=3")


def test_a_longer_run_of_other_cells_is_refused(tmp_path):
    """With a change of its schedule after its end a loop is a control; made longer, it is none any more."""
    scheduled = ("learner.name=resample", "grid={}", "cycle.fresh_schedule=[[0, 1.0], [3, 0.5]]")
    run_tiny(tmp_path / "run", *scheduled, "cycle.generations=3")
    with pytest.raises(InputError, match=r"was made with other settings \(cycle\.generations: 3 -> 5\)"):
        run_tiny(tmp_path / "run", *scheduled, "cycle.generations=5")


def planted(path: Path, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim)


@pytest.mark.parametrize(
    "place",
    [".lock_0", ".manifest.json.partial", "manifest.json", "figures/overview.png", "tables/loop_000/metrics.csv"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_no_link_to_a_file_is_followed(copy, tmp_path, place, overwrite):
    """A folder from somebody else would empty, or write over, any file that its owner can write."""
    victim = tmp_path / "thesis.tex"
    victim.write_text("years of work")
    (copy / place).unlink(missing_ok=True)
    planted(copy / place, victim)
    with pytest.raises(InputError, match=f"{re.escape(place)}: is a link"):
        run_silently(tiny_config(*QUICKLY), copy, overwrite=overwrite)
    assert victim.read_text() == "years of work" and victim.parent.exists()


@pytest.mark.parametrize("kind", layout.KINDS)
def test_no_link_to_a_folder_is_followed(copy, tmp_path, kind):
    """`checkpoints` may lead to somebody's other run, which --overwrite would delete."""
    shutil.move(copy / kind, tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    (copy / kind).symlink_to(tmp_path / "elsewhere")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=f"{kind}: is a link"):
            run_silently(tiny_config(*QUICKLY), copy, overwrite=overwrite)
    assert contents(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("place", ["config.toml", "tables/loop_000/metrics.csv", "seals/loop_000/generation_002.json"])
def test_a_pipe_is_not_waited_for(copy, place):
    """A pipe in place of a file would keep every command waiting for ever."""
    (copy / place).unlink()
    os.mkfifo(copy / place)
    signal.alarm(20)
    for read in (lambda: join_runs([copy], print), lambda: run_silently(tiny_config(*QUICKLY), copy)):
        with pytest.raises(InputError, match=f"{re.escape(place)}: is no regular file|neither a file nor a folder"):
            read()
    assert "is no regular file" in verify_run(copy).damages[0]
    signal.alarm(0)


def test_an_archive_is_not_unpacked_beyond_what_is_expected(tmp_path):
    """5.8 MB of zeros, packed, were 6 GB of memory."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("tokens.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**26,)})
        file.write(bytes(2**26))
    for expected in ((4,), (2**26 + 1,)):
        with pytest.raises(InputError, match="is damaged, or not of the sizes"):
            read_arrays(content.getvalue(), tmp_path, {"tokens": (np.uint8, expected)})
    found = read_arrays(content.getvalue(), tmp_path, {"tokens": (np.uint8, (2**26,))})["tokens"]
    assert found.shape == (2**26,) and not found.any()
    with pytest.raises(InputError, match=r"is larger than it can be \(5 bytes, 4 at most\)"):
        (tmp_path / "five").write_bytes(b"12345")
        read_file(tmp_path / "five", 4)


@pytest.mark.parametrize("act", ["remove", "replace"])
def test_a_folder_that_goes_in_mid_run_is_not_made_again(tmp_path, act):
    """What was left of the run would stand there without its config, with exit code 0."""

    class Removing(Silent):
        def finished(self, loop, generation, columns):
            super().finished(loop, generation, columns)
            if len(self.kept) == 2:
                shutil.rmtree(tmp_path / "run")
                if act == "replace":
                    run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=1")

    with pytest.raises(RunError, match="run: was removed or replaced while the run was under way"):
        run_tiny(tmp_path / "run", *MEMORISER, display=Removing())
    assert (tmp_path / "run").exists() == (act == "replace")
    if act == "replace":
        assert verify_run(tmp_path / "run").damages == []


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    """Network file systems may have none: no run at all would be worse than one that takes care."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    display = run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=1")
    assert len(display.kept) == 2 and len(display.warnings) == 1 and "has no locks" in display.warnings[0]


def test_going_on_in_another_environment_is_told(tmp_path):
    """Half of a run from one JAX and half from another looks like a run of either."""
    run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=2")
    manifest = tmp_path / "run" / "manifest.json"
    sessions = json.loads(manifest.read_text())["sessions"]
    assert sessions[0]["results_depend_on"]["activations"] == "float32"
    sessions[0]["results_depend_on"] |= {"jax": "0.7.2", "activations": "bfloat16"}
    write_whole(manifest, seal_json({"sessions": sessions}))
    # Nothing more is computed: nothing is mixed.
    assert run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=2").warnings == []
    write_whole(manifest, seal_json({"sessions": sessions}))
    (warning,) = run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=3").warnings
    assert "jax was 0.7.2, is " in warning and "activations was bfloat16, is float32" in warning


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"key_{place} = 1\n" for place in range(20_000)),
        "[grid]\n" + ".".join("a" * 3_000) + " = [1]\n",
        ".".join("a" * 3_000) + " = 1\n",
        '[grid]\n"cycle.rows" = [' + ", ".join(["7"] * 50_000) + "]\n",
        f"seeds = '{'s' * 10**6}'\n",
    ],
)
def test_messages_are_bounded(tmp_path, text):
    """200,000 unknown keys were 5 MB of message, and a key of 20,000 dots a traceback."""
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load(str(path))
    assert 20 < len(str(caught.value)) < 2200


def test_the_seal_of_a_generation_names_all_that_is_there_of_it(whole):
    """A file that no seal is of could be anything."""
    sealed = set()
    run = StoredRun(whole)
    for loop in loops(run.config):
        seal = run.seal(loop)
        sealed |= {str(layout.table_path(whole, loop.index, name)) for name in seal.tables}
        sealed |= {str(layout.samples_path(whole, loop.index, place)) for place in range(len(seal.samples))}
        for generation in (1, 2):
            sealed |= {
                str(layout.checkpoint_folder(whole, loop.index, generation) / name)
                for name in run.seal(loop).checkpoint
            }
    kinds = ("tables", "samples", "checkpoints")
    assert {str(path) for kind in kinds for path in (whole / kind).rglob("*") if path.is_file()} == sealed


def test_the_command_that_verifies(copy):
    """Exit code 0 for a damaged folder would let a script publish it."""

    def verify() -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "jaxloop", "verify", str(copy)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = verify()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{copy}: whole; 12 finished generations of 4 loops\n"
    path = copy / "checkpoints/loop_000/1/parameters.msgpack"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    done = verify()
    assert (done.returncode, done.stdout) == (1, f"{path}: is damaged, or somebody has changed it\n")
    assert done.stderr.startswith(f"jaxloop: {copy}: 1 file damaged; ") and done.stderr.count("\n") == 1
    shutil.rmtree(copy)
    done = verify()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_opening_a_new_folder_twice_finds_the_same_run(tmp_path):
    """The config that is written must be the one that is read: an unset value, a float or a list that changes."""
    config = tiny_config(*MEMORISER)
    for _ in range(2):
        with RunFolder(tmp_path / "run", config, "test"):
            assert StoredRun(tmp_path / "run").config == config
