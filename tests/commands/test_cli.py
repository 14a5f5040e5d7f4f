import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import JAXLOOP, call
from tiny import SETTINGS, TINY, results

LONGER = [*SETTINGS, "cycle.generations=24"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "quik"], "did you mean 'quick'"),
        (["run", "quick", "train.stpes=5"], "did you mean 'train.steps'"),
        (["run", "quick", "train.steps=0"], "train.steps"),
        (["run", "quick", "cycle.fresh_share=1.5"], "cycle.fresh_share"),
        (["run", "quick", "model.context_tokens=10"], "model.context_tokens"),
        (["run", "quick", "grid.population.loops_per_device=[8,16]"], "loops_per_device decides no result"),
        (["run", "quick", "--processes", "2"], "belong together"),
        (["run", "quick", "--distributed", "--process", "0"], "belong together"),
        (
            ["run", "quick", "--coordinator", "here:1", "--processes", "2", "--process", "2"],
            "the last of 2 processes is 1",
        ),
        (["run", "quick", "--coordinator", "here", "--processes", "1", "--process", "0"], "--coordinator here"),
        (["run", "quick", "--distributed"], "no cluster was detected; say --coordinator HOST:PORT"),
        (["run", "no/such/file.toml"], "no such file"),
        (["run", "quick", "--out", "/dev/null"], "is a file"),
        (["run", "quick", "--out", "/dev/null/below"], "/dev/null/below"),
        (["run"], "Missing argument"),
        (["run", "quick", "--fast"], "No such option"),
        (["walk"], "No such command"),
        (["check", "no-such-file"], "no-such-file"),
        (["check", "-", "--preset", "nothing"], "no preset named 'nothing'"),
        (["check", "-", "--run", "runs/none"], "runs/none: is no run folder"),
        (["check", "-", "--run", "runs/none", "--preset", "quick"], "leave out --preset"),
        (["check", "-", "--run", "runs/none", "cycle.rows=20"], "leave out --preset and settings"),
        (["check", "-", "--loop", "1"], "--loop needs --run"),
        (["run", "bench", "measure.enumerate_every_generations=1"], "at most 1,000,000 are enumerated"),
        (["samples", "runs/none"], "runs/none: is no run folder"),
        (["samples", "runs/none", "--generations", "0;1"], "no list of generations; say them with commas"),
        (["samples", "runs/none", "--top", "0"], "--top"),
        (["diversity", "-"], "at least two lines"),
        (["language", "quick", "--seed", "-1"], "--seed"),
        (["bench", "--repeats", "0"], "--repeats"),
        (["bench", "--against", "nanogpt"], "--nanogpt"),
        (["bench", "--output", "no/such/folder.json"], "no/such/folder.json"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, arguments, said):
    """A traceback, a silent success or a message that does not name the fault leaves the user alone with it."""
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("jaxloop: ") and result.stderr.count("\n") == 1
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path):
    """Without it nobody could find an error of our own."""
    assert "Traceback" in call("run", "quik", "--debug", cwd=tmp_path).stderr


def test_help_presets_settings_and_version():
    """Each answers without importing JAX, and names what there is."""
    assert "run" in call("--help").stdout
    assert call().stdout.startswith(call("--help").stdout[:200])
    assert "section.key=value" in call("run", "--help").stdout
    for name in ("quick", "compact", "paper", "paper_large"):
        assert name in call("presets").stdout
    assert "sample.temperature" in call("settings").stdout
    assert call("--version").stdout.startswith("jaxloop ")
    module = subprocess.run([sys.executable, "-m", "jaxloop", "--version"], capture_output=True, text=True, check=False)
    assert module.stdout == call("--version").stdout
    imports = "import sys; import jaxloop.commands.cli; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True).stdout == "False\n"


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*JAXLOOP, "run", "quick", *LONGER, "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows_kept(run: Path) -> int:
    """Bytes of metrics of all loops."""
    return sum(path.stat().st_size for path in run.glob("tables/*/metrics.csv"))


def wait_for_a_row(run: Path, process: subprocess.Popen, before: int = 0) -> None:
    """Wait until there are more rows than before the process was started."""
    while rows_kept(run) <= before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    process = start(folder)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and errors == ""
    first, *lines = output.splitlines()
    assert re.fullmatch(r"on \d+ CPU devices, JAX [\d.]+", first)
    progress = [line for line in lines if " of 48 generations: true " in line]
    assert len(progress) <= 24 and progress[-1].startswith("48 of 48 ") and lines[: len(progress)] == progress
    assert lines[len(progress)].startswith("kept diversity (transformer, mean of generations 19 to 23)")
    assert "n too small" in lines[len(progress) + 1]
    figures = ", ".join(
        str(folder / "figures" / f"{name}.png") for name in ("overview", "diversity", "final", "correctness")
    )
    assert lines[-2:] == [f"results: {folder}", f"figures: {figures}"]
    return folder


def test_the_answer_is_there_whatever_becomes_of_the_figures(tmp_path):
    """Catches a picture that is drawn before the answer; Jupyter's MPLBACKEND, which need not be installed here."""
    command = ["run", TINY, "learner.name=resample", "--out", str(tmp_path / "run")]
    elsewhere = {**os.environ, "MPLBACKEND": "module://matplotlib_inline_that_is_not_there.backend"}
    for more in (["--no-figures"], []):
        done = subprocess.run([*JAXLOOP, *command, *more], capture_output=True, text=True, env=elsewhere, check=False)
        assert done.returncode == 0, done.stderr
        assert ("figures: " in done.stdout) == (not more) and (tmp_path / "run/figures").exists() == (not more)
    (tmp_path / "matplotlibrc").write_bytes(b"\xff")
    broken = {**os.environ, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    done = subprocess.run([*JAXLOOP, *command], capture_output=True, text=True, env=broken, check=False)
    assert done.returncode == 0 and "kept diversity" in done.stdout and "could not be drawn" in done.stderr
    shutil.rmtree(tmp_path / "run/figures")
    (tmp_path / "run/figures").write_text("in the way")
    done = call(*command)
    assert done.returncode == 0 and "kept diversity" in done.stdout and "figures: " not in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and all("could not be drawn" in line for line in lines)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_in_the_cell_of_a_notebook_a_run_is_short_and_draws(tmp_path):
    """A kernel gives `!jaxloop` a terminal whose cursor does not move, and the name of a backend for figures that need
    not be installed: 3,000 lines of redraws, or no run at all.
    """
    from pty import openpty

    ours, its = openpty()
    backend = {"MPLBACKEND": "module://no_such_backend", "JPY_PARENT_PID": "1", "TERM": "xterm-color"}
    run = ["run", TINY, "learner.name=resample", "cycle.generations=30", "--out", str(tmp_path / "run")]
    with subprocess.Popen([*JAXLOOP, *run], stdout=its, stderr=its, env=os.environ | backend) as process:
        os.close(its)
        output = b""
        with contextlib.suppress(OSError):  # What a pseudo-terminal says in place of an end.
            while read := os.read(ours, 2**16):
                output += read
    os.close(ours)
    assert process.returncode == 0 and (tmp_path / "run/figures/overview.png").exists()
    assert output.count(b"\n") <= 60 and b"\x1b" not in output and b"60 of 60 generations" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_ends_cleanly(undisturbed, tmp_path, number):
    """A traceback, lost generations or a hanging process after Ctrl-C or the end of a machine's lease."""
    process = start(tmp_path / "run")
    wait_for_a_row(tmp_path / "run", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "jaxloop: stopped; what was finished is kept, and the same command goes on from there\n"
    assert (tmp_path / "run" / "figures" / "overview.png").exists()
    output, _ = start(tmp_path / "run").communicate(timeout=300)
    assert output.splitlines()[1].startswith("going on from ")
    assert results(tmp_path / "run") == results(undisturbed)


def test_kills_at_random_moments_change_no_bit(undisturbed, tmp_path):
    """A file written in place, a row before its samples or a checkpoint before its row shows after a kill."""
    chance = random.Random(0)
    for _ in range(4):
        before = rows_kept(tmp_path / "run")
        process = start(tmp_path / "run")
        wait_for_a_row(tmp_path / "run", process, before)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.communicate()
    process = start(tmp_path / "run")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and errors == ""
    assert results(tmp_path / "run") == results(undisturbed)
