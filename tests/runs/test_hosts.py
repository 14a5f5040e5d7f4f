"""Several processes that share a run, on loopback, through the command as its users start it."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import SETTINGS, assert_same, results, run_tiny

from jaxloop.runs.folder import RunFolder
from jaxloop.runs.stored_models import load_parameters

WIDTHS = ["seeds=[3,1]", "grid={'model.width' = [16, 32], 'cycle.fresh_share' = [0.0, 0.5]}"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# As `python -m jaxloop`, but slow to go on from where processes agree.
SLOW = """
import time
from jaxloop.commands import cli
from jaxloop.runs import hosts
agree = hosts.all_agree
hosts.all_agree = lambda *arguments: (agree(*arguments), time.sleep(3))[0]
cli.main()
"""


def start(folder: Path, processes: int, *overrides: str, slow: int | None = None) -> list[subprocess.Popen]:
    meeting = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes)]
    command = ["run", "quick", *SETTINGS, *overrides, "--out", str(folder), *meeting]
    return [
        subprocess.Popen(
            [
                sys.executable,
                *(["-c", SLOW] if process == slow else ["-m", "jaxloop"]),
                *command,
                "--process",
                str(process),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each."""
    found = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, found, strict=True)]


def without_waiting(errors: str) -> str:
    return errors.replace("jaxloop: waiting for the other processes of this run\n", "")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "alone"
    run_tiny(path, *WIDTHS)
    return path


def test_two_processes_give_the_bits_of_one(alone, tmp_path):
    """A loop that two compute, that none does, or whose program depends on how many processes there are; a table that
    holds the loops of one process only.
    """
    first, second = ended(start(tmp_path / "run", 2, *WIDTHS))
    assert (first[0], second[0]) == (0, 0)
    assert without_waiting(first[2]) == without_waiting(second[2]) == ""
    assert f"results: {tmp_path / 'run'}" in first[1] and "results" not in second[1]
    generations = re.findall(r"^(\d+) of \1 generations", first[1] + second[1], re.MULTILINE)
    assert len(generations) == 2 and sum(map(int, generations)) == 8 * 3, "each generation once"
    assert results(tmp_path / "run") == results(alone)
    # Orbax takes all processes for one that writes a checkpoint together, and the second one alone writes no arrays.
    for loop in range(8):
        assert_same(load_parameters(tmp_path / "run", loop), load_parameters(alone, loop))


def test_where_one_process_cannot_begin_none_does_and_each_says_why(tmp_path):
    """A process that waits for ever for one that has gone, or goes on without it; a first process that is gone before
    the others know, so that JAX ends them with words of its own.
    """
    from tiny import tiny_config

    with RunFolder(tmp_path / "run", tiny_config(*WIDTHS), "test"):
        first, second = ended(start(tmp_path / "run", 2, *WIDTHS, slow=1))
    assert (first[0], second[0]) == (2, 2)
    assert "another jaxloop is running in it" in without_waiting(first[2]) and first[2].count("Traceback") == 0
    assert without_waiting(second[2]) == "jaxloop: another process of this run cannot begin and says why\n"


def test_where_a_loop_of_one_process_diverges_the_others_finish_theirs(tmp_path):
    """One bad learning rate must not cost what other hosts have begun, and every exit code must tell."""
    rates = "grid={'train.learning_rate' = [1e-2, 1e6]}"
    first, second = ended(start(tmp_path / "run", 2, rates))
    assert (first[0], second[0]) == (1, 1)
    assert "another process of this run broke off;" in first[2] and "training diverged" in second[2]
    metrics = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in metrics] == ["loop", "0", "0", "0"]


def test_a_killed_process_ends_the_others_and_the_run_goes_on_with_any_number(alone, tmp_path):
    """A host that is lost must not leave the rest waiting for days, nor results that cannot be gone on with."""
    processes = start(tmp_path / "run", 2, *WIDTHS)
    for line in processes[0].stdout:
        if " generations: " in line:
            break
    processes[0].send_signal(signal.SIGKILL)
    (killed, *_), (other, *_) = ended(processes)
    assert killed == -signal.SIGKILL and other != 0
    run_tiny(tmp_path / "run", *WIDTHS)
    assert results(tmp_path / "run") == results(alone)
